"""What Project gives: pictures on a map of an indexed data set, and how well each layer separates its classes."""

import json
import os
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from gradserve import images
from gradserve.results.common import Provenance, Region, Result
from gradserve.v1 import common_pb2

KINDS = (".html", ".json", ".png")


@dataclass(frozen=True)
class PictureNeighbour(Result):
    """A picture of the index near one that was sent. distance: Euclidean, of the layer's features."""

    row: int
    name: str
    label: int | None
    label_name: str
    distance: float
    thumbnail: bytes = field(default=b"", repr=False)

    def picture(self) -> Image.Image | None:
        """The small picture, or None where none came."""
        return images.from_file(self.thumbnail) if self.thumbnail else None


@dataclass(frozen=True)
class ProjectedPoint(Result):
    """A picture of the index on the map."""

    row: int
    x: float
    y: float
    label: int | None
    name: str
    thumbnail: bytes = field(default=b"", repr=False)

    def picture(self) -> Image.Image | None:
        """The small picture, or None where none came."""
        return images.from_file(self.thumbnail) if self.thumbnail else None


@dataclass(frozen=True)
class ProjectedPicture(Result):
    """A picture that was sent, on the map.

    label: the commonest class among its nearest neighbours in the index, None where none has a label; agreement: the
    share of them that have it.
    """

    name: str
    x: float
    y: float
    neighbours: tuple[PictureNeighbour, ...]
    label: int | None
    label_name: str
    agreement: float
    region: Region
    image: common_pb2.Image = field(repr=False)

    def picture(self) -> Image.Image:
        """The picture as it was sent."""
        return images.opened(self.image)


@dataclass(frozen=True)
class ProjectedLayer(Result):
    """A layer of the index.

    accuracy: of the nearest neighbours among the index's own pictures, each left out in turn; shuffled_accuracy: the
    same with shuffled labels. None without labels, or where all have one label.
    """

    name: str
    channels: int
    accuracy: float | None
    shuffled_accuracy: float | None
    has_tsne: bool


@dataclass(frozen=True, repr=False)
class Projection(Result):
    """Pictures on a map of the index, by the features of a layer.

    points: those of the index, if asked for. explained: of PCA, the share of the variance along each axis. layers: how
    well each separates the classes, by `separability_neighbours` neighbours over `separability_pictures` pictures.
    """

    pictures: tuple[ProjectedPicture, ...]
    points: tuple[ProjectedPoint, ...]
    layer: str
    method: str
    explained: tuple[float, ...]
    layers: tuple[ProjectedLayer, ...]
    classes: tuple[str, ...]
    total: int
    separability_neighbours: int
    separability_pictures: int
    provenance: Provenance

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Save the map: .html (a page that one can zoom into), .png, or .json. Raises ValueError for other endings."""
        from gradserve.scatter import page, picture  # Here, since the page needs results, and few need the page.

        path = Path(path)
        if path.suffix.lower() not in KINDS:
            raise ValueError(f"{path}: a map is saved as one of {', '.join(KINDS)}")
        if path.suffix.lower() == ".html":
            path.write_text(page.html(self), encoding="utf-8")
        elif path.suffix.lower() == ".png":
            picture.drawn(self).save(path)
        else:
            path.write_text(json.dumps(self.to_dict(), ensure_ascii=False, allow_nan=False), encoding="utf-8")
        return path

    def __repr__(self) -> str:
        shown = f"{len(self.pictures)} pictures and {len(self.points)} of {self.total} points"
        return f"<Projection of {shown}: {self.method} of {self.layer}, {self.provenance.model}>"
