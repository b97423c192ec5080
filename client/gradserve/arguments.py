"""What a caller says: methods, targets, options."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Literal, Protocol, TypedDict

import numpy as np
from PIL import Image

from gradserve.parameters.attack import AttackName, AttackParameters, DefenceName, DefenceParameters
from gradserve.parameters.common import Precision, Preprocess, Priority
from gradserve.parameters.explain import ExplainName, ExplainParameters
from gradserve.parameters.influence import InfluenceName, InfluenceParameters
from gradserve.parameters.maximize import MaximizePreset, MaximizeSettings
from gradserve.parameters.method import Method
from gradserve.parameters.stylize import StylizeSettings

OnError = Literal["raise", "return"]
Layout = Literal["HWC", "CHW"]  # The axes of an array's picture: height, width and channels.


class HasArray(Protocol):
    """What numpy reads as an array, such as a tensor of torch."""

    def __array__(self, *arguments: Any, **others: Any) -> Any: ...


class BinaryFile(Protocol):
    """A file that is open for reading bytes."""

    def read(self) -> bytes:
        """All that is left of its bytes."""
        ...


ImageLike = str | os.PathLike[str] | bytes | BinaryFile | Image.Image | np.ndarray[Any, Any] | HasArray
BatchLike = ImageLike | Sequence[ImageLike]  # An array of four dimensions is a batch, [N, H, W, C] or [N, C, H, W].


@dataclass(frozen=True)
class Rank:
    """The class of this rank in the prediction as target: `Rank(1)` is the top, `Rank(2)` the runner-up."""

    rank: int


@dataclass(frozen=True)
class Unit:
    """A unit of a layer as target, `Unit("layer4.1", 17, y=3, x=5)`; without y and x the mean over the channel."""

    layer: str
    channel: int
    y: int | None = None
    x: int | None = None

    def __post_init__(self) -> None:
        if (self.y is None) != (self.x is None):
            raise ValueError(f"y and x of a unit go together; got y={self.y}, x={self.x}")

    def __str__(self) -> str:
        return f"{self.layer}:{self.channel}" + ("" if self.y is None else f" ({self.y}, {self.x})")


@dataclass(frozen=True, init=False)
class Contrast:
    """A sum of targets with weights: "A rather than B" is `Contrast("tabby", "tiger cat")`.

    `Contrast(a, b, c)` is the score of a less the mean score of b and c. `Contrast(a, top=5)` is that of a less the
    mean of the others among the five classes with the highest logits. `Contrast.sum` takes (target, weight) pairs.
    """

    terms: tuple[tuple["int | str | Rank | Unit", float], ...]
    top: int | None

    def __init__(
        self, target: "int | str | Rank | Unit", *others: "int | str | Rank | Unit", top: int | None = None
    ) -> None:
        if not others and top is None:
            raise ValueError("a contrast names what the target is contrasted with, or top=5: the others of the top 5")
        terms = ((target, 1.0), *((other, -1 / len(others)) for other in others))
        object.__setattr__(self, "terms", terms)
        object.__setattr__(self, "top", top)

    @classmethod
    def sum(cls, *terms: tuple["int | str | Rank | Unit", float], top: int | None = None) -> "Contrast":
        """The sum of (target, weight) pairs."""
        contrast = cls.__new__(cls)
        object.__setattr__(contrast, "terms", tuple((target, float(weight)) for target, weight in terms))
        object.__setattr__(contrast, "top", top)
        return contrast


@dataclass(frozen=True, eq=False)
class Similarity:
    """How alike the picture is to another one, as target: the cosine of a layer's features, averaged over its map.

    layer: a name, or empty for the layer that Grad-CAM takes. layout: the axes of an array; None: as the call says, in
    a `Goal` "HWC". In answers `image` is None.
    """

    image: ImageLike | None
    layer: str = ""
    preprocess: Preprocess = "model_default"
    layout: Layout | None = None


@dataclass(frozen=True, eq=False)
class Direction:
    """A direction in a layer's channels as target: the mean over the layer's map of its projection on the direction.

    vector: one number for each channel, or the path of a file (.npy, .npz or .safetensors). `Direction.kept("stripes")`
    is one that `concepts(..., keep_as="stripes")` has kept on the server. In answers `vector` is None.
    """

    layer: str
    vector: Any = None
    name: str = ""

    @classmethod
    def kept(cls, name: str) -> "Direction":
        """The direction that the server keeps by that name for this caller."""
        return cls("", None, name)


class Pick(StrEnum):
    """A class found from the prediction, as target of an attack; never the true one."""

    RUNNER_UP = "runner_up"
    LEAST_LIKELY = "least_likely"
    RANDOM = "random"


TargetLike = int | str | Rank | Unit | Contrast | Similarity | Direction
AttackTargetLike = int | str | Pick
# Of networks that give a score for each position: a box (x0, y0, x1, y1) in pixels of the picture, or a mask, which may
# be an array of bool such as `labels == 7`.
RegionLike = tuple[float, float, float, float] | list[float] | ImageLike
ExplainMethodLike = ExplainName | tuple[ExplainName, ExplainParameters] | Method
AttackMethodLike = AttackName | tuple[AttackName, AttackParameters] | Method
# Where None is allowed it stands in the alias: mypy does not look for the pair in an alias within a union.
MapsLike = ExplainName | tuple[ExplainName, ExplainParameters] | Method | None
DefenceLike = DefenceName | tuple[DefenceName, DefenceParameters] | Method | None
InfluenceMethodLike = InfluenceName | tuple[InfluenceName, InfluenceParameters] | Method | None


class Options(TypedDict, total=False):
    """What every request carries besides its subject.

    priority: "interactive" (default) or "batch", which gives way to interactive requests.
    precision: "auto" (default: the server chooses), "exact", "balanced" or "fast".
    seed: of everything random; the same seed gives the same answer up to rounding. Default: 0.
    time_budget: the most seconds that the answer may take.
    allow_partial: when time runs out, answer with what there is instead of DeadlineExceeded.
    quick_decode: decode large JPEG photos at a fraction of their size; faster, and the maps change (see common.proto).
    alone: no pass is shared with other requests, so that the same request gets the same bytes on one kind of machine.
    """

    priority: Priority
    precision: Precision
    seed: int | None
    time_budget: float | None
    allow_partial: bool
    quick_decode: bool
    alone: bool


class PhotoOptions(Options, total=False):
    """What requests carry that are about photos.

    preprocess: "model_default", "whole_image" (no crop) or "as_is" (no resizing). layout: the axes of arrays.
    """

    model: str
    preprocess: Preprocess
    layout: Layout


SizeLike = int | tuple[int, int] | None


class MaximizeArguments(Options, MaximizeSettings, total=False):
    """What Maximize takes beside its goals: options, and every setting of a recipe (see maximize.proto).

    image: the picture to start from. preset: "strong", "lucid", "lecture", "dream" or "plain"; settings that are given
    replace the preset's. size: the longer side in pixels, or (width, height). snapshots: steps after which to keep the
    picture; 0 is the start.
    """

    image: ImageLike | None
    layout: Layout
    model: str
    preset: MaximizePreset
    size: SizeLike
    snapshots: Sequence[int]


StyleLike = ImageLike | list[Any]  # A list holds pictures, or pairs of a picture and its weight.


class StylizeArguments(Options, StylizeSettings, total=False):
    """What Stylize takes beside its pictures: options, and every setting (see stylize.proto).

    style_layers, content_layers: names of layers, or a dict of their weights; "pixels" among the style layers stands
    for the colours of the picture itself. size: the longer side in pixels, or (width, height). snapshots: steps after
    which to keep the picture; 0 is the start.
    """

    layout: Layout
    model: str
    style_layers: Sequence[str] | Mapping[str, float]
    content_layers: Sequence[str] | Mapping[str, float]
    size: SizeLike
    snapshots: Sequence[int]
