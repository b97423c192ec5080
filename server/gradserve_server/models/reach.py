"""How far a cell of the last map sees: stride, offset, and how far the border of a tile reaches into its map."""

from collections.abc import Callable, Generator
from dataclasses import dataclass, replace
from math import ceil
from typing import Any

import torch
from torch import Tensor

from .prepared import Prepared
from .taps import Taps
from .tiles import DenseHead, spans

FIRST_WIDTH, LAST_WIDTH = 512, 4096  # Pixels of the strips on which it is tried.
MAX_STRIDE = 256  # Pixels.
TOLERANCE = 1e-4  # Relative to the largest value of a map.


def last_map(model: Prepared, layer: str, images: Tensor) -> Tensor:
    """Normalised images [N, 3, H, W] -> the layer's map [N, C, h, w], in a pass of the network without speed-ups."""
    place = model.place(layer)
    taps = Taps([place], stop_after=place)
    with torch.no_grad(), taps.listening(model.network):
        model.network(images.clone())
    return taps.kept[place]


def measured(model: Prepared, head: DenseHead) -> Generator[None, None, DenseHead]:
    """The head with its stride, its offset, and how far the borders of a tile reach, along both axes.

    It pauses after every pass or a few.
    """
    found = [(yield from _along(model, head.layer, 0)), (yield from _along(model, head.layer, 1))]
    refused = [each for each in found if isinstance(each, str)]
    if refused:
        return replace(head, untiled=refused[0], **_scale(model, head))
    axes = [each for each in found if isinstance(each, Axis)]
    if axes[0].stride != axes[1].stride:
        return replace(head, untiled="its strides differ between rows and columns", **_scale(model, head))
    shift = axes[0].stride * (head.side - 1) / 2
    # One cell more, since the padding of some networks moves all cells by less than one where a side is odd.
    before, behind = (1 + max(each) for each in zip(*((a.before, a.behind) for a in axes), strict=True))
    head = replace(head, stride=axes[1].stride, offset=axes[1].offset + shift, before=before, behind=behind)
    for axis in (0, 1):
        yield
        if not _tiles_agree(model, head, axis):
            return replace(head, untiled="tiles of a picture have given other values than the whole")
    return head


def _tiles_agree(model: Prepared, head: DenseHead, axis: int) -> bool:
    """Whether the tiles of a strip of an odd length have the values of the whole strip."""
    strips = _Strips(model, head.layer, axis)
    width = head.least_tile + head.stride + head.stride // 2 + 1
    noise = torch.rand(1, 3, model.card.min_size, width, generator=torch.Generator().manual_seed(0))
    strip = model.normalised(noise.to(model.device, model.dtype)).contiguous()
    whole = strips.map(strip)
    parts = []
    for span in spans(width, head.least_tile, head):
        part = strips.map(strip[..., span.begin : span.end])
        begin = span.begin // head.stride
        parts.append(part[..., span.first - begin : None if span.last is None else span.last - begin])
    joined = torch.cat(parts, 3)
    return joined.shape == whole.shape and bool((joined - whole).abs().max() <= TOLERANCE * whole.abs().max())


def _scale(model: Prepared, head: DenseHead) -> dict[str, Any]:
    """Stride and offset by the sizes of maps, where a cell depends on all pixels."""
    layer = model.card.layer(head.layer)
    assert layer is not None, "it was found in the card"
    stride = max(1, round(model.card.height / layer.height))
    return {"stride": stride, "offset": stride * head.side / 2}


@dataclass(frozen=True)
class Axis:
    """What was measured along rows or columns; see `DenseHead`."""

    stride: int
    offset: float
    before: int
    behind: int


def _along(model: Prepared, layer: str, axis: int) -> Generator[None, None, Axis | str]:
    """What was measured, or in words why it cannot be.

    A strip is NaN from some pixel on: a cell is NaN if and only if it depends on one of these pixels, since NaN times
    zero is NaN too.
    """
    strips = _Strips(model, layer, axis)
    yield
    stride = strips.stride(FIRST_WIDTH)
    if stride is None:
        return "its last map does not grow evenly with the picture"
    width = FIRST_WIDTH
    while width <= LAST_WIDTH:
        yield
        middle = width // 2 // stride
        touched, _ = strips.touched(width, middle * stride, width)
        behind = middle - touched.start if touched.start else None
        if behind is not None:
            yield
            touched, cells = strips.touched(width, 0, middle * stride)
            if touched.stop < cells:
                before = touched.stop - middle
                offset = (yield from strips.offset(stride, before, behind)) if axis == 1 else 0.0
                return Axis(stride, offset, max(0, before), max(0, behind))
        width *= 2
    return "a cell of its last map depends on the whole picture, as behind squeeze-and-excitation and attention"


class _Strips:
    """Passes over narrow pictures, along one axis."""

    def __init__(self, model: Prepared, layer: str, axis: int) -> None:
        self._model, self._layer, self._axis = model, layer, axis

    def cells(self, width: int) -> int:
        """How many cells a strip of that width has."""
        return self._pass(self._strip(width)).numel()

    def stride(self, width: int) -> int | None:
        """Pixels by which a strip must grow for one more cell; None where that is no whole number."""
        more = self.cells(2 * width) - self.cells(width)
        stride = width // more if more > 0 else 0
        return stride if 0 < stride <= MAX_STRIDE and stride * more == width else None

    def touched(self, width: int, begin: int, end: int) -> tuple[range, int]:
        """The cells of a strip that depend on the pixels from `begin` to `end`, and how many cells it has."""
        strip = self._strip(width)
        strip[..., begin:end] = torch.nan
        found = self._pass(strip).isnan()
        cells = torch.nonzero(found).flatten().tolist()
        return range(cells[0], cells[-1] + 1) if cells else range(0), len(found)

    def offset(self, stride: int, before: int, behind: int) -> Generator[None, None, float]:
        """The middle of what cell 0 sees, if the picture had pixels before its first one too."""
        middle = max(0, before, behind) + 2  # Of a strip in which it sees no border.
        width = stride * max(2 * middle, ceil(self._model.card.min_size / stride))
        # As far as cells are touched, the cell in the middle sees pixels of these strides behind and before it.
        ends = range((middle + behind) * stride, (middle + behind + 1) * stride)
        last = yield from self._edge(ends, lambda at: middle in self.touched(width, at, width)[0])
        begins = range((middle - before + 1) * stride - 1, (middle - before) * stride - 1, -1)
        first = yield from self._edge(begins, lambda at: middle in self.touched(width, 0, at + 1)[0])
        return (first + last + 1) / 2 - middle * stride

    @staticmethod
    def _edge(places: range, holds: Callable[[int], bool]) -> Generator[None, None, int]:
        """The last of the places where it holds; it holds at the first ones and then no more."""
        low, high = 0, len(places)
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if holds(places[middle]) else (low, middle)
            yield
        return places[low]

    def _strip(self, width: int) -> Tensor:
        """Normalised, with its long side last."""
        model = self._model
        grey = torch.full((1, 3, model.card.min_size, width), 0.5)
        return model.normalised(grey.to(model.device, model.dtype)).contiguous()

    def _pass(self, strip: Tensor) -> Tensor:
        """The sum of the last map over channels and the short side: one number for each cell along the long one."""
        return self.map(strip).sum((0, 1, 2))

    def map(self, strip: Tensor) -> Tensor:
        """The last map of a strip, its long side last."""
        x = strip if self._axis == 1 else strip.transpose(2, 3)
        found = last_map(self._model, self._layer, x.contiguous(memory_format=torch.channels_last))
        return found if self._axis == 1 else found.transpose(2, 3)
