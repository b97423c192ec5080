"""What is known of a served model without touching it: torch-free, sent from the workers to the front-end."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import ceil, floor
from typing import Literal, NamedTuple

Layout = Literal["nchw", "nhwc", "tokens", "vector", "other"]
Precision = Literal["exact", "balanced", "fast"]
HeadKind = Literal["softmax", "binary", "multilabel"]
# Pillow's filters by their names, and three of them as torch applies them to pictures of 8 bits.
Interpolation = Literal[
    "nearest",
    "box",
    "bilinear",
    "hamming",
    "bicubic",
    "lanczos",
    "torch_bilinear",
    "torch_bicubic",
    "torch_lanczos",
]
Rpc = Literal[
    "predict",
    "explain",
    "attack",
    "certify",
    "maximize",
    "stylize",
    "influence",
    "embed",
    "differentiate",
    "inspect",
    "concepts",
    "project",
    "dense",
]

WEIGHTED = ("Linear", "Conv2d")  # Kinds of layers that may give logits.


class Tokens(NamedTuple):
    """A sequence of tokens: patches of the image, row by row; others, of no place (class, registers), at its ends."""

    height: int
    width: int
    leading: int = 0
    trailing: int = 0

    @property
    def length(self) -> int:
        """The length of the sequence."""
        return self.leading + self.height * self.width + self.trailing

    def at(self, count: int, size: tuple[int, int], own: tuple[int, int]) -> "Tokens | None":
        """How to read `count` tokens of an image of another size than the model's own; None where that is unclear."""
        if size == own:
            return self if count == self.length else None
        patches = count - self.leading - self.trailing
        heights, widths = (
            {floor(cells * new / old), ceil(cells * new / old)}
            for cells, new, old in zip(self[:2], size, own, strict=True)
        )
        grids = {(h, w) for h in heights for w in widths if h * w == patches}
        if patches == self.height * self.width:
            grids.add((self.height, self.width))  # The network may resize every image to one size.
        if len(grids) != 1:
            return None
        ((height, width),) = grids
        return Tokens(height, width, self.leading, self.trailing)


class Framing(NamedTuple):
    """The size in pixels that a picture is resized to before the model's input is cut out of its middle.

    The picture keeps its aspect ratio and gets the smallest size that covers this one, unless it is stretched to it.
    """

    height: int
    width: int
    stretched: bool = False  # Whether the picture gets exactly this size, whatever its aspect ratio.
    # Whether a middle between two pixels is rounded down, as Transformers does it, or to even, as torchvision does it.
    floored: bool = False


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer as the probe saw it fire: name, class of the module, and the shape of its output for one image.

    A ReLU that is called as a function on what a module gave is a layer too: "features+relu", of the kind "relu".
    """

    name: str
    kind: str
    layout: Layout
    channels: int = 0
    height: int = 0
    width: int = 0
    grad_cam: bool = False  # Whether Grad-CAM makes sense: it is a map, and no pooling, dropout or per-class layer.
    leading: int = 0  # Tokens before the patches.
    trailing: int = 0  # Tokens after them.
    number: int = 0  # Index among all layers of the network.
    upstream: int = -1  # Bit i is set if this layer depends on the output of layer number i; -1 sets all bits.
    shape: tuple[int, ...] = ()  # Of the output for one image, whatever its layout.
    values: int = 0  # Numbers of the output for one image.
    counted: bool = False  # Whether `values` count in the network's sum: of convolutions, pools and linear layers.
    multiply_adds: int = 0  # Those of its own operations, for one image.
    parameters: int = 0  # Those in no other layer inside it, as the network's author wrote it.
    weight: tuple[int, ...] = ()  # Shape of its weights, output channels first; () if it is none that has such.

    @property
    def is_map(self) -> bool:
        """Whether the layer has more than one position."""
        return self.height * self.width > 1

    @property
    def tokens(self) -> Tokens:
        """How to read its output, of the layout "tokens"."""
        return Tokens(self.height, self.width, self.leading, self.trailing)


@dataclass(frozen=True, slots=True)
class ModelCard:
    """A served model: classes, input, normalisation, layers in execution order, and what applies to it."""

    name: str
    builder: str
    digest: str
    classes: tuple[str, ...]
    height: int
    width: int
    resize: Framing
    interpolation: Interpolation
    mean: tuple[float, ...]  # A number for each of the network's channels.
    std: tuple[float, ...]
    any_size: bool
    min_size: int
    default_eps: float
    layers: tuple[Layer, ...]
    folded: dict[str, str]  # Convolution -> the BatchNorm it was folded into, which keeps the tap.
    grad_cam_layer: str
    relus: int
    other_activations: tuple[str, ...]
    rules_refused: str  # Why guided backprop and deconvnet do not apply, or empty.
    gflop: float
    relevance_refused: str = ""  # Why relevance cannot be propagated through it, or empty.
    input_rules_refused: str = ""  # Why rules of the layer that takes the image do not apply, or empty.
    head: HeadKind = "softmax"
    no_gradient: str = ""  # Why the logits cannot be differentiated by the image, or empty.
    unbatched: bool = False  # Whether every image needs a pass of its own.
    precisions: tuple[Precision, ...] = ("exact",)
    absent: Mapping[Precision, str] = field(default_factory=dict)  # Why precisions are not loaded, by precision.
    auto: Mapping[Rpc, Precision] = field(default_factory=dict)  # The precision that AUTO means, if not exact.
    rows: Mapping[Precision, int] = field(default_factory=dict)  # Rows per pass at the model's own size.
    channels: Literal[1, 3] = 3  # Channels of the network's input; requests are always RGB.
    index: str = ""  # Folder of its influence index.
    index_digest: str = ""  # SHA-256 of that index's manifest; empty where each host builds the index for itself.
    pictures: str = ""  # Folder of its index of pictures.
    pictures_digest: str = ""  # SHA-256 of that index's manifest.
    notes: tuple[str, ...] = ()
    aliases: Mapping[str, str] = field(default_factory=dict)  # Other names of modules -> the name that layers have.
    upstream: int = -1  # The layers that the logits depend on, as in Layer.upstream.
    sample: tuple[float, ...] = ()  # Logits of one fixed picture, in EXACT.
    tokens: tuple[Tokens, ...] = ()  # Sequences that can be read as maps.
    parameters: int = 0  # Those of the network as its author wrote it, in layers or not.
    folded_layers: tuple[Layer, ...] = ()  # The convolutions of `folded`, which have no taps.
    positions: bool = False  # Whether it gives a score for each position, so that targets need a region.

    @property
    def outputs(self) -> int:
        """How many numbers the network gives for an image: a binary head has one for both classes."""
        return 1 if self.head == "binary" else len(self.classes)

    @property
    def logits_layer(self) -> str:
        """The linear layer or convolution that runs last, if it alone gives a channel for each output; or empty."""
        weighted = [layer for layer in self.layers if layer.kind in WEIGHTED and self.reaches(layer)]
        if not weighted or self.positions or weighted[-1].channels != self.outputs or ":" in weighted[-1].name:
            return ""
        *others, last = weighted
        beside = [layer for layer in others if layer.channels == last.channels and not self.reaches(layer, last)]
        return "" if beside else last.name  # Two layers side by side may share the logits.

    def layer(self, name: str) -> Layer | None:
        """The layer of that name, or None."""
        name = self.listed(name)
        return next((layer for layer in self.layers if layer.name == name), None)

    def listed(self, name: str) -> str:
        """The name under which a layer is listed, for any name of its module."""
        module, mark, rest = name.partition("+" if "+" in name else ":")
        return self.aliases.get(module, module) + mark + rest

    def reaches(self, layer: Layer, target: Layer | None = None) -> bool:
        """Whether the target, or the logits, may depend on what the layer gives."""
        return bool((self.upstream if target is None else target.upstream) >> layer.number & 1)

    def order(self, name: str) -> int:
        """The place of a layer in the execution order."""
        name = self.listed(name)
        return next(i for i, layer in enumerate(self.layers) if layer.name == name)
