"""Pure functions for Dense: arguments -> request message, reply -> result."""

from typing import Any, Unpack

from gradserve import images as pixels
from gradserve.arguments import ImageLike, Layout, Options, SizeLike, TargetLike
from gradserve.messages import inputs
from gradserve.messages.common import count, provenance_of, region_of, request_options, score_of, split, target_message
from gradserve.messages.pictures import size_message
from gradserve.results.dense import DenseMap, DenseMaps, Grid
from gradserve.v1 import dense_pb2


class DenseArguments(Options, total=False):
    """What `dense` takes beside the picture and its targets.

    size: that in which the model sees the picture, the longer side in pixels or (width, height); None: the picture's.
    tile: the most pixels of a side that are computed at once. layout: the axes of an array.
    """

    model: str
    size: SizeLike
    tile: int | None
    layout: Layout


_OWN = DenseArguments.__annotations__.keys() | {"timeout"}


def dense_request(
    image: ImageLike, targets: TargetLike | list[Any] | None, **arguments: Unpack[DenseArguments]
) -> dense_pb2.DenseRequest:
    """The arguments of Dense as a message."""
    own, _ = split("dense", arguments, _OWN, frozenset())
    return _request(image, targets, **own)


def _request(
    image: ImageLike,
    targets: TargetLike | list[Any] | None,
    *,
    model: str = "",
    size: SizeLike = None,
    tile: int | None = None,
    layout: Layout = "HWC",
    **options: Unpack[Options],
) -> dense_pb2.DenseRequest:
    several = targets if isinstance(targets, list) else [] if targets is None else [targets]
    return dense_pb2.DenseRequest(
        model=model,
        image=inputs.message(image, layout),
        targets=[target_message(each, layout) for each in several],
        size=size_message(size),
        tile=None if tile is None else count("tile", tile),
        options=request_options(**options),
    )


def dense_maps(request: dense_pb2.DenseRequest, reply: dense_pb2.DenseResponse) -> DenseMaps:
    """The reply of Dense as a result."""
    grid = Grid(reply.stride, reply.offset, reply.height, reply.width)
    logits, probabilities = pixels.numbers(reply.logits), pixels.numbers(reply.probabilities)
    maps = [
        DenseMap(
            score=score_of(each.score),
            logits=logits[i],
            probabilities=probabilities[i],
            largest=each.largest,
            cell=(each.y, each.x),
            grid=grid,
            png=each.png,
            image=request.image,
        )
        for i, each in enumerate(reply.maps)
    ]
    origin = provenance_of(reply.provenance)
    return DenseMaps(tuple(maps), tuple(map(score_of, reply.top)), reply.tiles, region_of(reply.region), origin)
