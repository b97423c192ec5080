"""Decisions by shape and by texture, counted by network and weight of the content."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from gradserve.results.common import Result
from gradserve.robustness.proportion import Proportion
from gradserve.shape.run import Conflict, Judged

SHAPE, TEXTURE, NEITHER = "shape", "texture", "neither"


@dataclass(frozen=True)
class Count(Result):
    """So many decisions for the class of the shape, for that of the texture, and for another one."""

    shape: int
    texture: int
    neither: int

    @property
    def share(self) -> Proportion:
        """Those for the shape among those for one of the two."""
        return Proportion(self.shape, self.shape + self.texture)


@dataclass(frozen=True)
class Point:
    """The decisions of a network at one weight of the content.

    of_set: where the network chooses among the set's classes alone. of_all: where it chooses among all that it knows.
    """

    weight: float
    of_set: Count
    of_all: Count


def by_shape(conflict: Conflict, class_name: str) -> str:
    """What a decision for that class went by."""
    if class_name == conflict.shape.class_name:
        return SHAPE
    return TEXTURE if class_name == conflict.texture.class_name else NEITHER


def curve(judged: Judged, conflicts: Sequence[Conflict]) -> list[Point]:
    """A point for each weight, in their order."""
    points = list[Point]()
    for weight in sorted({each.weight for each in conflicts}):
        decisions = [(each, judged.decisions[each.file]) for each in conflicts if each.weight == weight]
        of_set = _count([by_shape(each, said.best_of_set) for each, said in decisions])
        points.append(Point(weight, of_set, _count([by_shape(each, said.best) for each, said in decisions])))
    return points


def _count(kinds: Sequence[str]) -> Count:
    return Count(kinds.count(SHAPE), kinds.count(TEXTURE), kinds.count(NEITHER))


def document(judged: Judged, conflicts: Sequence[Conflict]) -> dict[str, Any]:
    """The figures of a network and its decisions, as JSON takes them. A share is null where nothing went by either."""
    card = judged.judge.card
    return {
        "model": card.name,
        "weights_digest": card.weights_digest,
        "known_contents": judged.known_shapes,
        "known_textures": judged.known_textures,
        "curve": [_point(each) for each in curve(judged, conflicts)],
        "decisions": {file: asdict(each) for file, each in judged.decisions.items()},
    }


def _point(point: Point) -> dict[str, Any]:
    share = point.of_set.share
    low, high = share.interval
    return {
        "content_weight": point.weight,
        "shape_share": share.value if share.of else None,
        "low": low,
        "high": high,
        "among_the_sets_classes": point.of_set.to_dict(),
        "among_all_classes": point.of_all.to_dict(),
    }
