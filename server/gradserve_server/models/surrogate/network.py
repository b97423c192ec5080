"""The network of a surrogate: normalised images [N, 3, H, W] -> logits [N, classes]."""

import torch.nn.functional as F
from torch import Tensor, nn


class Block(nn.Module):
    """Two 3x3 convolutions beside a shortcut (He et al. 2015): [N, C, H, W] -> [N, width, H/stride, W/stride]."""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(channels, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width)
        projection = [nn.Conv2d(channels, width, 1, stride, bias=False), nn.BatchNorm2d(width)]
        self.shortcut = nn.Sequential(*projection) if stride > 1 or channels != width else nn.Identity()
        self.relu1, self.relu2 = nn.ReLU(), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """Returns relu(F(x) + shortcut(x))."""
        y = self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(x)))))
        return self.relu2(y + self.shortcut(x))  # type: ignore[no-any-return]


class Surrogate(nn.Module):
    """A stem, four residual blocks in three resolutions, global average pooling, a linear layer."""

    def __init__(self, classes: int, stride: int) -> None:
        super().__init__()
        size = max(3, 2 * stride - 1)
        self.conv = nn.Conv2d(3, 32, size, stride, size // 2, bias=False)
        self.bn, self.relu = nn.BatchNorm2d(32), nn.ReLU()
        self.blocks = nn.Sequential(Block(32, 32, 1), Block(32, 64, 2), Block(64, 128, 2), Block(128, 128, 1))
        self.fc = nn.Linear(128, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Returns the logits of images of any size."""
        x = self.blocks(self.relu(self.bn(self.conv(x))))
        return self.fc(F.adaptive_avg_pool2d(x, 1).flatten(1))  # type: ignore[no-any-return]


def surrogate(classes: int, stride: int = 1) -> nn.Module:
    """The untrained network; stride is that of its first convolution: 1 for pictures of 32 pixels, 4 for 224."""
    return Surrogate(classes, stride)
