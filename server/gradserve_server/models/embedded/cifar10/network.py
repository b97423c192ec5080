"""The residual network of `cifar10` and `cifar10-robust`: images [N, 3, H, W], normalised -> logits [N, 10]."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MEAN = (0.4914, 0.4822, 0.4465)
STD = (0.2470, 0.2435, 0.2616)
LABELS = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


class Block(nn.Module):
    """Two 3x3 convolutions beside a shortcut (He et al. 2015): [N, C, H, W] -> [N, width, H/stride, W/stride]."""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.shortcut = shortcut(channels, width, stride)
        self.relu2 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """Returns relu(F(x) + shortcut(x))."""
        y = self.relu1(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return self.relu2(y + self.shortcut(x))  # type: ignore[no-any-return]


class Cifar10(nn.Module):
    """ResNet-10: a stem, two halving stages of two blocks each, global average pooling, a linear layer."""

    def __init__(self, stem: int = 64, widths: tuple[int, ...] = (128, 256), blocks: int = 2) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, stem, 3, 1, 1, bias=False)
        self.bn = nn.BatchNorm2d(stem)
        self.relu = nn.ReLU()
        self.layer1 = stage(stem, widths[0], blocks)
        self.layer2 = stage(widths[0], widths[1], blocks)
        self.fc = nn.Linear(widths[1], len(LABELS))

    def forward(self, x: Tensor) -> Tensor:
        """Returns the logits of normalised images of any size."""
        x = self.relu(self.bn(self.conv(x)))
        x = self.layer2(self.layer1(x))
        return self.fc(F.adaptive_avg_pool2d(x, 1).flatten(1))  # type: ignore[no-any-return]


def shortcut(channels: int, width: int, stride: int) -> nn.Module:
    """Returns the identity, or a 1x1 projection where the shape changes."""
    if channels == width and stride == 1:
        return nn.Identity()
    return nn.Sequential(nn.Conv2d(channels, width, 1, stride, bias=False), nn.BatchNorm2d(width))


def stage(channels: int, width: int, blocks: int) -> nn.Sequential:
    """Returns blocks at one resolution, half of the resolution before."""
    return nn.Sequential(Block(channels, width, 2), *(Block(width, width, 1) for _ in range(blocks - 1)))


def cifar10() -> nn.Module:
    """Returns the untrained network of both embedded photo models."""
    return Cifar10()


def normalize(images: Tensor) -> Tensor:
    """Returns images in [0, 1] as the network wants them."""
    mean, std = (torch.tensor(v, device=images.device, dtype=images.dtype).view(1, 3, 1, 1) for v in (MEAN, STD))
    return (images - mean) / std
