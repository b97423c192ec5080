"""What Explain gives: maps of what a score depends on."""

import base64
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any, overload

import numpy as np
from PIL import Image

from gradserve import images
from gradserve.arguments import Contrast, Similarity, Unit
from gradserve.colours import Colormap
from gradserve.parameters.method import ParameterValue
from gradserve.results.common import Provenance, Region, Result, save_arrays
from gradserve.v1 import common_pb2

Map = np.ndarray[Any, np.dtype[np.float32]]
_MIN_SIDE = 224  # Pixels of the longer side of an overlay, as of those that the server draws.


@dataclass(frozen=True, eq=False, repr=False)
class Explanation(Result):
    """One method's map for one target: which pixels the score depends on."""

    map: Map
    method: str
    parameters: Mapping[str, ParameterValue]
    target: int | Unit | Contrast | Similarity
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

    def to_dict(self) -> dict[str, Any]:
        """What JSON takes of it, with the size of the map in its place."""
        return {**super().to_dict(), "map_size": list(self.map.shape)}

    def save(self, path: str | os.PathLike[str], *, colormap: Colormap | None = None) -> Path:
        """Save the map itself if the path ends in .npy or .npz, else the overlay in the format of the path's ending.

        A .npz file has `map`, `coarse` where there is one, and `metadata`: `to_dict` with the provenance, as JSON.
        """
        path, ending = Path(path), Path(path).suffix.lower()
        if ending == ".npy":
            np.save(path, self.map)
        elif ending == ".npz":
            save_arrays(path, self.to_dict(), map=self.map, coarse=self.coarse)
        else:
            self.overlay(colormap=colormap).save(path)
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


@dataclass(frozen=True, eq=False, repr=False)
class MapProgress(Result):
    """One map before all are there: finished, or of the samples that are done. The last result has its provenance."""

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
        """What JSON takes of them: a list of `explanations`."""
        return {"explanations": [each.to_dict() for each in self._all]}

    def sheet(self, columns: int = 0, *, colormap: Colormap | None = None) -> Image.Image:
        """All overlays on one sheet, each over its method and target."""
        names = [f"{each.method}: {each.target_name}" for each in self._all]
        return images.sheet([each.overlay(colormap=colormap) for each in self._all], names, columns)

    def save(self, path: str | os.PathLike[str], *, colormap: Colormap | None = None) -> Path:
        """Save the maps [N, H, W] if the path ends in .npy or .npz, else the sheet in the format of the path's ending.

        A .npz file has `maps`, and `metadata`: `to_dict` with the provenance, as JSON.
        """
        path, ending = Path(path), Path(path).suffix.lower()
        if ending in (".npy", ".npz"):
            maps = np.stack([each.map for each in self._all])
            np.save(path, maps) if ending == ".npy" else save_arrays(path, self.to_dict(), maps=maps)
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
