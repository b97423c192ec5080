"""The network of a surrogate: normalised images [N, 3, H, W] -> logits [N, classes]."""

import torch.nn.functional as F
from torch import Tensor, nn

from ..residual import ResidualBlock


class Surrogate(nn.Module):
    """A stem, four residual blocks in three resolutions, global average pooling, a linear layer."""

    def __init__(self, classes: int, stride: int) -> None:
        super().__init__()
        size = max(3, 2 * stride - 1)
        self.conv = nn.Conv2d(3, 32, size, stride, size // 2, bias=False)
        self.bn, self.relu = nn.BatchNorm2d(32), nn.ReLU()
        self.blocks = nn.Sequential(
            ResidualBlock(32, 32, 1), ResidualBlock(32, 64, 2), ResidualBlock(64, 128, 2), ResidualBlock(128, 128, 1)
        )
        self.fc = nn.Linear(128, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Returns the logits of images of any size."""
        x = self.blocks(self.relu(self.bn(self.conv(x))))
        return self.fc(F.adaptive_avg_pool2d(x, 1).flatten(1))  # type: ignore[no-any-return]


def surrogate(classes: int, stride: int = 1) -> nn.Module:
    """The untrained network; stride is that of its first convolution: 1 for pictures of 32 pixels, 4 for 224."""
    return Surrogate(classes, stride)
