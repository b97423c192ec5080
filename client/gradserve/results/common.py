"""What comes back: predictions, explanations, and where they come from."""

import base64
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any, overload

import numpy as np
from PIL import Image

from gradserve import images
from gradserve.arguments import ParameterValue, Unit
from gradserve.v1 import common_pb2

Map = np.ndarray[Any, np.dtype[np.float32]]


@dataclass(frozen=True)
class Region:
    """The part of the original picture that the model saw, in pixels of the original (upright)."""

    x: float
    y: float
    width: float
    height: float
    image_width: int
    image_height: int

    def box(self, scale: int = 1) -> images.Box:
        """Left, top, right, bottom in whole pixels of the original enlarged by the scale, at least one pixel large."""
        left = min(max(round(self.x * scale), 0), self.image_width * scale - 1)
        top = min(max(round(self.y * scale), 0), self.image_height * scale - 1)
        right = min(round((self.x + self.width) * scale), self.image_width * scale)
        bottom = min(round((self.y + self.height) * scale), self.image_height * scale)
        return left, top, max(right, left + 1), max(bottom, top + 1)


@dataclass(frozen=True)
class Provenance:
    """Where an answer comes from: enough to repeat it."""

    model: str
    weights_digest: str
    seed: int
    precision: str
    preprocess: str
    rows: int
    queue_seconds: float
    compute_seconds: float
    server_version: str
    warnings: tuple[str, ...]
    request_id: str
    quick_decode: bool = False
    alone: bool = False


@dataclass(frozen=True)
class Score:
    """A class with its score."""

    class_index: int
    class_name: str
    probability: float
    logit: float


@dataclass(frozen=True)
class Prediction:
    """The most probable classes, best first."""

    top: tuple[Score, ...]
    region: Region
    provenance: Provenance

    def __iter__(self) -> Iterator[Score]:
        return iter(self.top)

    def __len__(self) -> int:
        return len(self.top)

    def __getitem__(self, place: int) -> Score:
        return self.top[place]

    def __str__(self) -> str:
        return "\n".join(f"{score.probability:7.2%}  {score.class_name}" for score in self.top)

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><td>{escape(score.class_name)}</td><td style='width:12em'><div style='height:.8em;border-radius:3px;"
            f"background:#3b82f6;width:{100 * score.probability:.1f}%'></div></td><td>{score.probability:.2%}</td></tr>"
            for score in self.top
        )
        return f"<table><caption>{escape(self.provenance.model)}</caption>{rows}</table>"


@dataclass(frozen=True, eq=False, repr=False)
class Explanation:
    """One method's map for one target: which pixels the score depends on."""

    map: Map
    method: str
    parameters: Mapping[str, ParameterValue]
    target: int | Unit
    target_name: str
    target_value: float
    coarse: Map | None
    completeness_gap: float | None
    asked: int
    done: int
    completed_fraction: float
    warnings: tuple[str, ...]
    region: Region
    provenance: Provenance
    served_overlay: bytes | None = None
    image: common_pb2.Image = field(default_factory=common_pb2.Image)

    def original(self) -> Image.Image:
        """The picture that was sent, upright and in RGB."""
        return images.opened(self.image)

    def heatmap(self) -> Image.Image:
        """The map in colours, in the size of the model's input."""
        return images.heatmap(self.map)

    def overlay(self, alpha: float = 0.5, scale: int | None = None) -> Image.Image:
        """The map over the original photo, enlarged by a whole factor; by default the one that a small photo needs."""
        photo = self.original()
        scale = scale or max(1, round(max(self.map.shape) / max(self.region.width, self.region.height, 1)))
        if scale > 1:
            photo = photo.resize((photo.width * scale, photo.height * scale), Image.Resampling.NEAREST)
        return images.overlay(photo, self.map, self.region.box(scale), alpha=alpha)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Save the map itself if the path ends in .npy, else the overlay in the format of the path's ending."""
        path = Path(path)
        if path.suffix.lower() == ".npy":
            np.save(path, self.map)
        else:
            self.overlay().save(path)
        return path

    def _repr_png_(self) -> bytes:
        return images.png(self.overlay())

    def __repr__(self) -> str:
        parameters = "".join(f", {name}={value!r}" for name, value in self.parameters.items())
        height, width = self.map.shape
        done = "" if self.completed_fraction >= 1 else f", {self.done} of {self.asked} done"
        return (
            f"<Explanation {self.method}{parameters}: {self.target_name} = {self.target_value:.4g}, "
            f"map {height} x {width}, {self.provenance.model}{done}>"
        )


class Explanations(Sequence[Explanation]):
    """Several explanations of one picture: `[i]` in order, `["grad_cam"]` by method, `["grad_cam", 1]` its second."""

    def __init__(self, explanations: Sequence[Explanation]) -> None:
        self._all = tuple(explanations)

    @property
    def methods(self) -> list[str]:
        """The names of the methods, each once, in the order in which they were asked."""
        return list(dict.fromkeys(explanation.method for explanation in self._all))

    def of(self, method: str) -> list[Explanation]:
        """All explanations by this method."""
        found = [explanation for explanation in self._all if explanation.method == method]
        if not found:
            raise KeyError(f"no explanation by {method!r}; there are {', '.join(self.methods)}")
        return found

    @overload
    def __getitem__(self, key: int | str | tuple[str, int]) -> Explanation: ...
    @overload
    def __getitem__(self, key: slice) -> "Explanations": ...
    def __getitem__(self, key: int | str | tuple[str, int] | slice) -> "Explanation | Explanations":
        if isinstance(key, slice):
            return Explanations(self._all[key])
        if isinstance(key, str):
            return self.of(key)[0]
        if isinstance(key, tuple):
            return self.of(key[0])[key[1]]
        return self._all[key]

    def __len__(self) -> int:
        return len(self._all)

    def __repr__(self) -> str:
        return "[" + ",\n ".join(map(repr, self._all)) + "]"

    def _repr_html_(self) -> str:
        figures = "".join(
            f"<figure style='margin:0'><img style='height:14em' src='data:image/png;base64,"
            f"{base64.b64encode(each._repr_png_()).decode()}'><figcaption>{escape(each.method)}: "
            f"{escape(each.target_name)}</figcaption></figure>"
            for each in self._all
        )
        return f"<div style='display:flex;flex-wrap:wrap;gap:1em'>{figures}</div>"
