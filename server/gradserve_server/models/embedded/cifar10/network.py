"""The residual network of `cifar10` and `cifar10-robust`: images [N, 3, H, W], normalised -> logits [N, 10]."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...residual import ResidualBlock

MEAN = (0.4914, 0.4822, 0.4465)
STD = (0.2470, 0.2435, 0.2616)
LABELS = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


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


def stage(channels: int, width: int, blocks: int) -> nn.Sequential:
    """Returns blocks at one resolution, half of the resolution before."""
    others = (ResidualBlock(width, width, 1) for _ in range(blocks - 1))
    return nn.Sequential(ResidualBlock(channels, width, 2), *others)


def cifar10() -> nn.Module:
    """Returns the untrained network of both embedded photo models."""
    return Cifar10()


def normalize(images: Tensor) -> Tensor:
    """Returns images in [0, 1] as the network wants them."""
    mean, std = (torch.tensor(v, device=images.device, dtype=images.dtype).view(1, 3, 1, 1) for v in (MEAN, STD))
    return (images - mean) / std
