"""What Explain gives: maps of what a score depends on."""

import base64
import hashlib
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any, overload

import numpy as np
from google.protobuf import json_format
from PIL import Image

from gradserve import images
from gradserve.arguments import Contrast, Direction, Similarity, Unit
from gradserve.colours import Colormap
from gradserve.parameters.method import ParameterValue
from gradserve.results.common import Provenance, Region, Result, save_arrays
from gradserve.v1 import common_pb2, explain_pb2

Map = np.ndarray[Any, np.dtype[np.float32]]
_MIN_SIDE = 224  # Pixels of the longer side of an overlay, as of those that the server draws.


@dataclass(frozen=True)
class Curves:
    """The target as pixels come (insertion) and go (deletion), 1/14 of them at a time, the map's highest first.

    Values are the class's probability for a class as target, else the target's value; areas are mean heights.
    """

    insertion: tuple[float, ...]
    deletion: tuple[float, ...]
    insertion_area: float
    deletion_area: float


@dataclass(frozen=True)
class Trust:
    """How far to trust one map: how it agrees with what the target does when half of the picture is gone.

    agreement: correlation, -1 to 1, of the map's sum over the cells that are kept with the target's value; its standard
    deviation of 0.05 to 0.11 on one picture is too large to rank methods. chance_p: share of the map's shifted and
    turned copies that agree as well. centre_agreement: the agreement of a Gaussian in the middle of the picture.
    verdict: "no_better_than_chance", "no_better_than_centre" or "beats_both". sentence: the verdict in words.
    """

    agreement: float
    chance_p: float
    centre_agreement: float
    verdict: str
    sentence: str
    curves: Curves | None = None

    @property
    def is_trusted(self) -> bool:
        """Whether the map beats both chance and the middle of the picture."""
        return self.verdict == "beats_both"


@dataclass(frozen=True, eq=False, repr=False)
class Segment(Result):
    """The object that a map lies on.

    mask: [H, W] bool in the size of the model's input. outline: its corners, each x and y, and box: x0, y0, x1, y1,
    both in pixels of the original picture (upright). share: how much of what the model saw it covers.
    """

    mask: np.ndarray[Any, np.dtype[np.bool_]]
    outline: tuple[tuple[float, float], ...]
    box: tuple[float, float, float, float]
    share: float

    def __repr__(self) -> str:
        box = ", ".join(f"{each:.0f}" for each in self.box)
        return f"<Segment: {self.share:.1%} of what the model saw, box {box}>"


@dataclass(frozen=True, eq=False, repr=False)
class Explanation(Result):
    """One method's map for one target: which pixels the score depends on.

    map: float32 [H, W], in pixels of the model's input. target_value: the target's value on the picture, for a class
    its logit. coarse: of methods that read a layer, the map [h, w] at that layer's own size. completeness_gap: of
    integrated gradients, the sum of the map less the difference of the target's value between picture and baseline.
    asked, done: samples, steps or positions; completed_fraction is done / asked. region: what the model saw of the
    picture. served_overlay: a PNG file, where `overlay` asked for it. standard_error: of methods that draw samples, by
    how much the map would differ with other samples, as a share of it; None where it is not known.
    """

    map: Map
    method: str
    parameters: Mapping[str, ParameterValue]
    target: int | Unit | Contrast | Similarity | Direction
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
    request: explain_pb2.ExplainRequest | None = None  # The request of this map alone, without the picture.
    segment: Segment | None = None
    trust: Trust | None = None
    standard_error: float | None = None

    def original(self) -> Image.Image:
        """The picture that was sent, upright and in RGB."""
        return images.opened(self.image)

    def heatmap(self, colormap: Colormap | None = None) -> Image.Image:
        """The map in colours, in the size of the model's input."""
        return images.heatmap(self.map, colormap)

    def overlay(self, alpha: float = 0.5, scale: int | None = None, *, colormap: Colormap | None = None) -> Image.Image:
        """The map over the original photo, which is enlarged by a whole factor.

        By default a small photo is enlarged until its longer side has at least 224 pixels and the map has about a value
        for each pixel. The colormap is inferno, or RdBu_r for a map with negative values.
        """
        photo = self.original()
        values = round(max(self.map.shape) / max(self.region.width, self.region.height, 1))
        scale = scale or max(1, values, -(-_MIN_SIDE // max(photo.size)))
        if scale > 1:
            photo = photo.resize((photo.width * scale, photo.height * scale), Image.Resampling.NEAREST)
        return images.overlay(photo, self.map, self.region.box(scale), alpha=alpha, colormap=colormap)

    def cutout(self) -> Image.Image:
        """The object of `segment` as a picture with alpha (RGBA), cropped to its box. Raises ValueError without one."""
        if self.segment is None:
            raise ValueError("there is no object: ask for it by segment=True, and see the warnings of the explanation")
        photo, (left, top, right, bottom) = self.original().convert("RGBA"), self.region.box()
        inside = Image.fromarray(self.segment.mask.astype(np.uint8) * 255).resize((right - left, bottom - top))
        alpha = Image.new("L", photo.size)
        alpha.paste(inside, (left, top))
        photo.putalpha(alpha)
        x0, y0, x1, y1 = self.segment.box
        return photo.crop((int(x0), int(y0), max(int(x0) + 1, math.ceil(x1)), max(int(y0) + 1, math.ceil(y1))))

    def to_dict(self) -> dict[str, Any]:
        """The explanation as JSON takes it, with `map_size` in place of the map."""
        return {**super().to_dict(), "map_size": list(self.map.shape)}

    def metadata(self) -> dict[str, Any]:
        """`to_dict`, and what is needed to compute the map again: the `request`, and the SHA-256 of the `picture`."""
        origin: dict[str, Any] = {"picture": {"sha256": picture_sha256(self.image)}}
        if self.request is not None:
            origin["request"] = json_format.MessageToDict(self.request, preserving_proto_field_name=True)
        return {**self.to_dict(), **origin}

    def save(self, path: str | os.PathLike[str], *, colormap: Colormap | None = None) -> Path:
        """Save the map itself if the path ends in .npy or .npz, else the overlay in the format of the path's ending.

        A .npz file has `map`, `coarse` and the `mask` of a segment where there are such, and `metadata` as JSON, from
        which `gradserve replay` computes it again.
        """
        path, ending = Path(path), Path(path).suffix.lower()
        if ending == ".npy":
            np.save(path, self.map)
        elif ending == ".npz":
            mask = self.segment.mask if self.segment else None
            save_arrays(path, self.metadata(), map=self.map, coarse=self.coarse, mask=mask)
        else:
            self.overlay(colormap=colormap).save(path)
        return path

    def _repr_png_(self) -> bytes:
        return images.png(self.overlay())

    def __repr__(self) -> str:
        parameters = "".join(f", {name}={value!r}" for name, value in self.parameters.items())
        height, width = self.map.shape
        trust = f", {self.trust.verdict}" if self.trust else ""
        done = "" if self.completed_fraction >= 1 else f", {self.done} of {self.asked} done"
        return (
            f"<Explanation {self.method}{parameters}: {self.target_name} = {self.target_value:.4g}, "
            f"map {height} x {width}, {self.provenance.model}{done}{trust}>"
        )


@dataclass(frozen=True, eq=False, repr=False)
class MapProgress(Result):
    """One map before all of a stream are there: finished, or of the samples that are done.

    place: of the map among the explanations of the result, from 0 on. Its provenance comes with the result.
    """

    place: int
    explanation: Explanation
    finished: bool

    def __repr__(self) -> str:
        what = "finished" if self.finished else f"{self.explanation.done} of {self.explanation.asked} done"
        return f"<MapProgress {self.place}, {what}: {self.explanation!r}>"


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
        matching = [explanation for explanation in self._all if explanation.method == method]
        if not matching:
            raise KeyError(f"no explanation by {method!r}; there are {', '.join(self.methods)}")
        return matching

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

    def to_dict(self) -> dict[str, Any]:
        """The explanations as JSON takes them: a list of that name."""
        return {"explanations": [each.to_dict() for each in self._all]}

    def sheet(self, columns: int = 0, *, colormap: Colormap | None = None) -> Image.Image:
        """All overlays on one sheet, each over its method and target."""
        names = [f"{each.method}: {each.target_name}" for each in self._all]
        return images.sheet([each.overlay(colormap=colormap) for each in self._all], names, columns)

    def masks(self) -> np.ndarray[Any, np.dtype[np.bool_]] | None:
        """The masks of all objects, [N, H, W], False everywhere for a map without one; None where no map has one."""
        if not any(each.segment for each in self._all):
            return None
        nothing = np.zeros(self._all[0].map.shape, bool)
        return np.stack([each.segment.mask if each.segment else nothing for each in self._all])

    def save(self, path: str | os.PathLike[str], *, colormap: Colormap | None = None) -> Path:
        """Save the maps [N, H, W] if the path ends in .npy or .npz, else the sheet in the format of the path's ending.

        A .npz file has `maps`, the `masks` of objects where there are such, and `metadata` as JSON: that of each map,
        in a list of `explanations`.
        """
        path, ending = Path(path), Path(path).suffix.lower()
        if ending in (".npy", ".npz"):
            maps = np.stack([each.map for each in self._all])
            metadata = {"explanations": [each.metadata() for each in self._all]}
            np.save(path, maps) if ending == ".npy" else save_arrays(path, metadata, maps=maps, masks=self.masks())
        else:
            self.sheet(colormap=colormap).save(path)
        return path

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


def picture_sha256(image: common_pb2.Image) -> str:
    """The SHA-256, in hexadecimal digits, of a picture's file or of its pixels as they were sent."""
    data = image.encoded if image.WhichOneof("kind") == "encoded" else image.tensor.data
    return hashlib.sha256(data).hexdigest()
