"""What is known of a served model without touching it: torch-free, sent from the workers to the front-end."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Layout = Literal["nchw", "nhwc", "tokens", "tokens+class", "vector", "other"]
Precision = Literal["exact", "balanced", "fast"]
Rpc = Literal["predict", "explain", "attack", "maximize", "stylize", "influence", "embed"]


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer as the probe saw it fire: name, class of the module, and the shape of its output for one image."""

    name: str
    kind: str
    layout: Layout
    channels: int = 0
    height: int = 0
    width: int = 0
    grad_cam: bool = False  # worth a Grad-CAM: a real map, not a pooling, dropout or per-class layer

    @property
    def is_map(self) -> bool:
        """Whether the layer has more than one position."""
        return self.height * self.width > 1


@dataclass(frozen=True, slots=True)
class ModelCard:
    """A served model: classes, input, normalisation, layers in execution order, and what applies to it."""

    name: str
    builder: str
    digest: str
    classes: tuple[str, ...]
    height: int
    width: int
    resize: int
    interpolation: Literal["bilinear", "bicubic"]
    mean: tuple[float, ...]  # a number for each of the network's channels
    std: tuple[float, ...]
    any_size: bool
    min_size: int
    default_eps: float
    layers: tuple[Layer, ...]
    folded: dict[str, str]  # convolution -> the BatchNorm it was folded into, which keeps the tap
    grad_cam_layer: str
    relus: int
    other_activations: tuple[str, ...]
    rules_refused: str  # why guided backprop and deconvnet do not apply, or empty
    softmax: bool
    gflop: float
    no_gradient: str = ""  # why the logits cannot be differentiated by the image, or empty
    alone: bool = False  # whether every image needs a pass of its own
    precisions: tuple[Precision, ...] = ("exact",)
    absent: Mapping[Precision, str] = field(default_factory=dict)  # why a precision is not loaded
    auto: Mapping[Rpc, Precision] = field(default_factory=dict)  # what AUTO means by RPC; others: exact
    rows: Mapping[Precision, int] = field(default_factory=dict)  # rows per pass at the model's own size
    channels: Literal[1, 3] = 3  # that the network takes; requests are always RGB
    index: str = ""  # folder of its influence index
    notes: tuple[str, ...] = ()

    def layer(self, name: str) -> Layer | None:
        """The layer of that name, or None."""
        return next((layer for layer in self.layers if layer.name == name), None)

    def order(self, name: str) -> int:
        """The place of a layer in the execution order."""
        return next(i for i, layer in enumerate(self.layers) if layer.name == name)
