"""What a caller says: methods, targets, options."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, TypedDict

import numpy as np
from PIL import Image

ParameterValue = bool | int | float | str
ImageLike = str | os.PathLike[str] | bytes | Image.Image | np.ndarray[Any, Any]
BatchLike = ImageLike | Sequence[ImageLike]  # An array of four dimensions is a batch, [N, H, W, 3].


@dataclass(frozen=True, init=False)
class Method:
    """A method with parameters that are not the defaults: `Method("smooth_grad", samples=25)`."""

    name: str
    parameters: Mapping[str, ParameterValue]

    def __init__(self, name: str, /, **parameters: ParameterValue) -> None:
        object.__setattr__(self, "name", name)
        object.__setattr__(self, "parameters", parameters)

    def __repr__(self) -> str:
        return f"Method({', '.join([repr(self.name), *(f'{k}={v!r}' for k, v in self.parameters.items())])})"

    def __hash__(self) -> int:
        return hash((self.name, frozenset(self.parameters.items())))


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

    layer: a name, or empty for the layer that Grad-CAM takes. In answers `image` is None.
    """

    image: ImageLike | None
    layer: str = ""
    preprocess: str = "model_default"


class Pick(StrEnum):
    """A class found from the prediction, as target of an attack; never the true one."""

    RUNNER_UP = "runner_up"
    LEAST_LIKELY = "least_likely"
    RANDOM = "random"


TargetLike = int | str | Rank | Unit | Contrast | Similarity
AttackTargetLike = int | str | Pick
# Of networks that give a score for each position: a box (x0, y0, x1, y1) in pixels of the picture, or a mask.
RegionLike = tuple[float, float, float, float] | ImageLike
MethodLike = str | tuple[str, Mapping[str, ParameterValue]] | Method


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

    priority: str
    precision: str
    seed: int | None
    time_budget: float | None
    allow_partial: bool
    quick_decode: bool
    alone: bool


SizeLike = int | tuple[int, int] | None


class MaximizeArguments(Options, total=False):
    """What Maximize takes beside its goals: options, and every setting of a recipe (see maximize.proto).

    image: the picture to start from. preset: "strong", "lucid", "lecture", "dream" or "plain"; settings that are given
    replace the preset's. size: the longer side in pixels, or (width, height). snapshots: steps after which to keep the
    picture; 0 is the start.
    """

    image: ImageLike | None
    model: str
    preset: str
    size: SizeLike
    snapshots: Sequence[int]
    start: str
    spread: float
    parameterization: str
    optimizer: str
    rate: float
    steps: int
    octaves: int
    octave_scale: float
    edge_energy: float
    total_variation: float
    l2: float
    blur_every: int
    blur_sigma: float
    clip_every: int
    clip_pixels: float
    clip_gradients: float
    pad: float
    jitter: float
    scale: float
    rotate: float
    noise: float
    stretch: bool


StyleLike = ImageLike | list[Any]  # A list holds pictures, or pairs of a picture and its weight.


class StylizeArguments(Options, total=False):
    """What Stylize takes beside its pictures: options, and every setting (see stylize.proto).

    style_layers, content_layers: names of layers, or a dict of their weights; "pixels" among the style layers stands
    for the colours of the picture itself. size: the longer side in pixels, or (width, height). snapshots: steps after
    which to keep the picture; 0 is the start.
    """

    model: str
    style_layers: Sequence[str] | Mapping[str, float]
    content_layers: Sequence[str] | Mapping[str, float]
    size: SizeLike
    snapshots: Sequence[int]
    start: str
    optimizer: str
    rate: float
    steps: int
    coarse_steps: int
    style_weight: float
    content_weight: float
    total_variation: float
    pad: float
    keep_colours: bool
