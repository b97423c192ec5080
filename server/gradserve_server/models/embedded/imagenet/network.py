"""The network of `imagenet`: EfficientNet-Lite0, images [N, 3, H, W], normalised -> logits [N, 1000]."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .published import read_published

STAGES = (  # (blocks, kernel, stride of the first block, expansion, channels), as published
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
STEM, HEAD, CLASSES = 32, 1280, 1000  # Channels behind the stem and before the last layer, number of classes.
EPSILON = 1e-3  # Added to BatchNorm's variances.


class EfficientNetLite0(nn.Module):
    """A stem, sixteen inverted residuals, a pointwise layer, global average pooling and a linear layer.

    Its tensors stand in the order of the published file, by which `imagenet` loads them.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stem = unit(3, STEM, 3, stride=2)
        blocks, channels = [], STEM
        for count, kernel, stride, expansion, outputs in STAGES:
            for place in range(count):
                blocks.append(InvertedResidual(channels, outputs, kernel, 1 if place else stride, expansion))
                channels = outputs
        self.blocks = nn.Sequential(*blocks)
        self.head = unit(channels, HEAD, 1)
        self.fc = nn.Linear(HEAD, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """Returns the logits of normalised images of any size."""
        x = self.head(self.blocks(self.stem(x)))
        return self.fc(F.adaptive_avg_pool2d(x, 1).flatten(1))  # type: ignore[no-any-return]


def imagenet() -> nn.Module:
    """Returns the network with the published weights. Raises CheckpointError."""
    with torch.device("meta"):
        network = EfficientNetLite0()
    tensors = zip(network.state_dict(), read_published().values(), strict=True)
    network.load_state_dict(dict(tensors), assign=True)
    return network


class InvertedResidual(nn.Module):
    """Widens, filters each channel by itself, narrows (Sandler et al. 2018); plus its input where shapes agree."""

    def __init__(self, channels: int, outputs: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        width = channels * expansion
        self.expand = unit(channels, width, 1) if expansion > 1 else nn.Identity()
        self.depthwise = unit(width, width, kernel, stride=stride, groups=width)
        self.project = unit(width, outputs, 1, activation=False)
        self.residual = stride == 1 and channels == outputs

    def forward(self, x: Tensor) -> Tensor:
        """[N, channels, H, W] -> [N, outputs, H / stride, W / stride], rounded up."""
        y = self.project(self.depthwise(self.expand(x)))
        return x + y if self.residual else y  # type: ignore[no-any-return]


class SamePadding(nn.Module):
    """TensorFlow's SAME before a convolution of stride 2: half as many pixels come out, rounded up.

    An even side needs one zero more behind than before, which the padding of a convolution cannot give.
    """

    def __init__(self, kernel: int) -> None:
        super().__init__()
        self.kernel = kernel

    def forward(self, x: Tensor) -> Tensor:
        """Returns the images with zeros around them."""
        (top, bottom), (left, right) = (self.zeros(side) for side in x.shape[2:])
        return F.pad(x, (left, right, top, bottom))

    def zeros(self, side: int) -> tuple[int, int]:
        """How many zeros stand before and behind a side of that length."""
        total = self.kernel - 2 + side % 2
        return total // 2, total - total // 2


def unit(
    inputs: int, outputs: int, kernel: int, *, stride: int = 1, groups: int = 1, activation: bool = True
) -> nn.Sequential:
    """Returns a convolution padded as TensorFlow's SAME, which is symmetric at stride 1, BatchNorm and ReLU6."""
    padding = kernel // 2 if stride == 1 else 0
    layers = nn.Sequential()
    if stride > 1:
        layers.add_module("pad", SamePadding(kernel))
    layers.add_module("conv", nn.Conv2d(inputs, outputs, kernel, stride, padding, groups=groups, bias=False))
    layers.add_module("norm", nn.BatchNorm2d(outputs, EPSILON))
    if activation:
        layers.add_module("relu", nn.ReLU6())
    return layers
