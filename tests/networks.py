"""Networks that only tests serve, by the catalogue's `networks:function`."""

import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import googlenet


class _Block(nn.Module):
    """Two convolutions and a shortcut without parameters."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.relu1, self.relu2 = nn.ReLU(inplace=True), nn.ReLU(inplace=True)
        self.stride, self.pad = stride, (outputs - inputs) // 2

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(x)))))
        out += F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.pad, self.pad))
        return self.relu2(out)


class _ResNet(nn.Module):
    """The CIFAR network of He et al. 2016 with option-A shortcuts, of 6 * blocks + 2 layers."""

    def __init__(self, blocks: int) -> None:
        super().__init__()
        self.conv1, self.bn1, self.relu = nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU()
        self.layer1 = nn.Sequential(_Block(16, 16, 1), *(_Block(16, 16, 1) for _ in range(blocks - 1)))
        self.layer2 = nn.Sequential(_Block(16, 32, 2), *(_Block(32, 32, 1) for _ in range(blocks - 1)))
        self.layer3 = nn.Sequential(_Block(32, 64, 2), *(_Block(64, 64, 1) for _ in range(blocks - 1)))
        self.linear = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer3(self.layer2(self.layer1(self.relu(self.bn1(self.conv1(x))))))
        return self.linear(x.mean((2, 3)))


def resnet20() -> nn.Module:
    """For the weights of ../shared/data."""
    return _ResNet(3)


def resnet56() -> nn.Module:
    """For the weights of ../shared/data."""
    return _ResNet(9)


def linear() -> nn.Module:
    """A linear model of 8x12 pixels: every attribution has a closed form."""
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 12, 5))


def sigmoids() -> nn.Module:
    """Twenty-two convolutions with sigmoids, of small weights: in the end float32 loses its gradients."""
    torch.manual_seed(0)
    convolutions = [nn.Conv2d(4 if i else 3, 4, 3, padding=1) for i in range(22)]
    for each in convolutions:
        nn.init.uniform_(each.weight, -0.008, 0.008)
    chain = [module for each in convolutions for module in (each, nn.Sigmoid())]
    return nn.Sequential(*chain, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5))


def googlenet_with_transform() -> nn.Module:
    """As torchvision builds it for its own weights: with auxiliary heads and an input transform."""
    return googlenet(weights=None, transform_input=True, aux_logits=True, init_weights=False)


class _Held(nn.Module):
    """Hands its input on, as soon as a file is gone."""

    def __init__(self, file: str) -> None:
        super().__init__()
        self.file = Path(file)

    def forward(self, x: Tensor) -> Tensor:
        while self.file.exists():
            time.sleep(0.01)
        return x


def held(file: str) -> nn.Module:
    """A linear model of 8x12 pixels, whose passes take as long as that file exists."""
    return nn.Sequential(_Held(file), nn.Flatten(), nn.Linear(3 * 8 * 12, 5))


class _Slow(nn.Module):
    """Hands its input on after so many seconds for each row, in which it costs nothing."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds = seconds

    def forward(self, x: Tensor) -> Tensor:
        time.sleep(self.seconds * len(x))
        return x


def slow(seconds: float) -> nn.Module:
    """A linear model of 8x12 pixels, whose passes take so many seconds for each row on any machine."""
    return nn.Sequential(_Slow(seconds), nn.Flatten(), nn.Linear(3 * 8 * 12, 5))


class _Half(nn.Module):
    """Remembers nothing for the backward, so that its input may be written over."""

    def forward(self, x: Tensor) -> Tensor:
        return x * 0.5


class Fork(nn.Module):
    """One tensor goes three ways, into `left`, into `same` and past both; then it is written over."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.same = nn.Identity()
        self.left = _Half()
        self.head = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        out = self.left(x) + 2 * self.same(x)
        x.mul_(3)
        return self.head((out + x).mean((2, 3)))


class Windows(nn.Module):
    """Looks at each quarter of the picture by itself, as window attention does."""

    def __init__(self) -> None:
        super().__init__()
        self.quarters, self.head = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = x.unflatten(3, (4, -1)).permute(0, 3, 1, 2, 4).flatten(0, 1)
        return self.head(self.quarters(x).mean((2, 3))).unflatten(0, (-1, 4)).mean(1)


class Moody(nn.Module):
    """Fails on bright images, and has a layer that wide images do not pass."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.often = nn.Conv2d(3, 4, 3), nn.ReLU()
        self.head = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        if x.shape[3] < 20:
            x = self.often(x)
        if (x > 1e4).any():
            raise ArithmeticError("too bright")
        return self.head(x.mean((2, 3)))


def fork() -> nn.Module:
    return Fork()


def moody() -> nn.Module:
    return Moody()


def windows() -> nn.Module:
    return Windows()


def sociable() -> nn.Module:
    """Normalises with the statistics of the batch, even in eval mode."""
    norm = nn.BatchNorm2d(4, track_running_stats=False)
    return nn.Sequential(nn.Conv2d(3, 4, 3), norm, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5))


def maps() -> nn.Module:
    """Gives neither [N, classes] nor [N, classes, h, w]."""
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.Unflatten(1, (2, 2)))


def not_a_network() -> Any:
    return torch.zeros(3)
