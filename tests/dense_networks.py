"""Small networks with a mean before their scores, or something else, for the catalogue's `dense_networks:network`.

Each has one thing that people write, and that maps over pictures of any size may get wrong.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from kinds import settled
from torch import Tensor, nn

CLASSES = 5


class Does(nn.Module):
    """A function of the map as a module."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


class Gate(nn.Module):
    """Squeeze and excitation."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        gate: Tensor = self.fc(x.mean((2, 3))).sigmoid()
        return x * gate[..., None, None]


def to_multiple_of_32(x: Tensor) -> Tensor:
    height, width = x.shape[2:]
    return F.pad(x, (0, -width % 32, 0, -height % 32))


def block(inputs: int, outputs: int, size: int = 3, stride: int = 1, **how: object) -> list[nn.Module]:
    facts = {"padding": size // 2, **how}
    return [nn.Conv2d(inputs, outputs, size, stride, **facts), nn.BatchNorm2d(outputs), nn.ReLU()]  # type: ignore[arg-type]


def trunk() -> list[nn.Module]:
    return [*block(3, 8, stride=2), *block(8, 12, stride=2), *block(12, 16)]


def head() -> list[nn.Module]:
    return [Does(lambda x: x.mean((2, 3))), nn.Linear(16, CLASSES)]


def narrowed() -> list[nn.Module]:
    return [*trunk(), nn.MaxPool2d(2), *block(16, 4)]


def connected(between: nn.Module) -> list[nn.Module]:
    return [nn.AdaptiveAvgPool2d(8), nn.Flatten(), nn.Linear(4 * 8 * 8, 10), between, nn.ReLU(), nn.Linear(10, CLASSES)]


# Of these every cell depends on a part of the picture, alike wherever that lies.
LOCAL: dict[str, Callable[[], list[nn.Module]]] = {
    "dropout before the linear layer": lambda: [*trunk(), head()[0], nn.Dropout(), head()[1]],
    "scores before the mean": lambda: [*trunk(), nn.Conv2d(16, CLASSES, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()],
    "a convolution behind the mean": lambda: [
        *trunk(),
        nn.AdaptiveAvgPool2d(1),
        nn.Conv2d(16, CLASSES, 1),
        nn.Flatten(),
    ],
    "dilation": lambda: [*trunk(), *block(16, 16, dilation=4, padding=4), *head()],
    "dilation without padding": lambda: [*block(3, 16, dilation=3, padding=0), *block(16, 16, stride=2), *head()],
    "pools that round up": lambda: [
        *block(3, 8),
        nn.MaxPool2d(3, 2, ceil_mode=True),
        *block(8, 16),
        nn.AvgPool2d(3, 2, padding=1, ceil_mode=True),
        *head(),
    ],
    "padding by reflection": lambda: [*block(3, 16, stride=2, padding_mode="reflect"), *head()],
    "padding by replication": lambda: [*block(3, 16, stride=2, padding_mode="replicate"), *head()],
    "a stride of three": lambda: [*block(3, 16, stride=3), *block(16, 16), *head()],
    "one pixel a cell": lambda: [*block(3, 16), *block(16, 16), *head()],
    "patches of seven": lambda: [*block(3, 16, size=7, stride=7, padding=0), *block(16, 16), *head()],
}
# Of these the mean of the map is right too, but tiles would give something else.
WHOLE: dict[str, Callable[[], list[nn.Module]]] = {
    "upsampling": lambda: [*trunk(), nn.Upsample(scale_factor=2, mode="bilinear"), *block(16, 16), *head()],
    "a transposed convolution": lambda: [*trunk(), nn.ConvTranspose2d(16, 16, 4, 2, 1), nn.ReLU(), *head()],
    "padding to a multiple": lambda: [Does(to_multiple_of_32), *trunk(), *head()],
    "padding by the other end": lambda: [*block(3, 16, stride=2, padding_mode="circular"), *head()],
    "positions": lambda: [Does(lambda x: x + 0.01 * torch.arange(x.shape[3])), *trunk(), *head()],
    "an InstanceNorm": lambda: [*trunk(), nn.InstanceNorm2d(16, affine=True), *block(16, 16), *head()],
    "a GroupNorm": lambda: [*trunk(), nn.GroupNorm(4, 16), *block(16, 16), *head()],
    "squeeze and excitation": lambda: [*trunk(), Gate(16), *block(16, 16, stride=2), *head()],
    "no squeeze and excitation": lambda: [*trunk(), *block(16, 16, stride=2), *head()],
}
# These end in linear layers on a map of the model's size.
CONNECTED: dict[str, Callable[[], list[nn.Module]]] = {
    "a BatchNorm between linear layers": lambda: [*narrowed(), *connected(nn.BatchNorm1d(10))],
    "a LayerNorm between linear layers": lambda: [*narrowed(), *connected(nn.LayerNorm(10))],
    "dropout between linear layers": lambda: [*narrowed(), *connected(nn.Dropout())],
}
# The cells of these lie at other places in pictures of other sizes.
UNEVEN: dict[str, Callable[[], list[nn.Module]]] = {
    "a map of one size": lambda: [*trunk(), nn.AdaptiveAvgPool2d(7), *block(16, 16), *head()],
    "a picture made small": lambda: [nn.Upsample((64, 64), mode="bilinear"), *trunk(), *head()],
    "upsampling to uneven places": lambda: [*trunk(), nn.Upsample(scale_factor=1.5), *block(16, 16), *head()],
}
# The scores of these are no mean.
OTHERS: dict[str, Callable[[], list[nn.Module]]] = {
    "a global maximum": lambda: [*trunk(), nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(16, CLASSES)],
    "a generalised mean": lambda: [*trunk(), Does(lambda x: x.pow(3).mean((2, 3)).pow(1 / 3)), head()[1]],
    "a BatchNorm behind the mean": lambda: [*trunk(), head()[0], nn.Dropout(), nn.BatchNorm1d(16), head()[1]],
    "a hidden layer": lambda: [*trunk(), head()[0], nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, CLASSES)],
}


@settled
def network(*, name: str) -> nn.Module:
    """The network of that name."""
    network = nn.Sequential(*{**LOCAL, **WHOLE, **CONNECTED, **UNEVEN, **OTHERS}[name]())
    for module in network.modules():
        if isinstance(module, nn.BatchNorm1d):
            nn.init.uniform_(module.running_mean, 0.1, 0.5)
    return network
