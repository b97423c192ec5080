"""How far a cell of the last map sees: stride, offset, and how far the border of a tile reaches into its map."""

from collections.abc import Callable, Generator
from dataclasses import dataclass, replace
from math import ceil

import torch
from torch import Tensor

from .prepared import Prepared
from .taps import Taps
from .tiles import DenseHead

FIRST_WIDTH, LAST_WIDTH = 512, 4096  # Pixels of the strips on which it is tried.
MAX_STRIDE = 256  # Pixels.
TOLERANCE = 1e-4  # Relative to the largest value of a map.
SEES_ALL = "a cell of its last map depends on the whole picture, as behind squeeze-and-excitation and attention"


def last_map(model: Prepared, layer: str, images: Tensor) -> Tensor:
    """Normalised images [N, 3, H, W] -> the layer's map [N, C, h, w], in a pass of the network without speed-ups."""
    place = model.place(layer)
    taps = Taps([place], stop_after=place)
    with torch.no_grad(), taps.listening(model.network):
        model.network(images.clone())
    return taps.kept[place]


def measured(model: Prepared, head: DenseHead) -> Generator[None, None, DenseHead]:
    """The head with its stride, its offset, and how far the borders of a tile reach, along both axes.

    It pauses between passes.
    """
    strips = [_Strips(model, head.layer, axis) for axis in (0, 1)]
    stride = yield from strips[0].stride(FIRST_WIDTH)
    if stride is None or stride != (yield from strips[1].stride(FIRST_WIDTH)):
        what = "are not the same whole number of pixels apart at every size and along both sides"
        return replace(head, refused=f"the cells of its last map, {head.layer}, {what}")
    head, shift = replace(head, stride=stride, smallest=model.card.min_size), stride * (head.side - 1) / 2
    found = [(yield from _along(strips[0], stride)), (yield from _along(strips[1], stride))]
    axes = [each for each in found if each is not None]
    if len(axes) < len(found):
        return replace(head, offset=(yield from strips[1].symmetric_offset(stride)) + shift, untiled=SEES_ALL)
    # One cell more, since the padding of some networks moves all cells by less than one where a side is odd.
    before, behind = (1 + max(each) for each in zip(*((a.before, a.behind) for a in axes), strict=True))
    head = replace(head, offset=axes[1].offset + shift, before=before, behind=behind)
    for each in strips:
        if not (yield from _tiles_agree(each, head)):
            return replace(head, untiled="tiles of a picture have given other values than the whole")
    return head


def _tiles_agree(strips: "_Strips", head: DenseHead) -> Generator[None, None, bool]:
    """Whether a strip of an odd length, without one cell at either end, has the values of the whole strip.

    It has others where a network upsamples, or pads to a multiple of more pixels than its stride.
    """
    stride = head.stride
    length = head.least_tile + stride // 2 + 1
    strip = strips.noise(length + stride)
    maps = []
    for part in (strip, strip[..., stride:], strip[..., :length]):
        yield
        maps.append(strips.map(part))
    whole, late, early = maps
    if not late.shape[3] == early.shape[3] == whole.shape[3] - 1:
        return False
    last = length // stride - head.behind
    off = late[..., head.before :] - whole[..., head.before + 1 :], early[..., :last] - whole[..., :last]
    return all(bool(each.abs().max() <= TOLERANCE * whole.abs().max()) for each in off)


@dataclass(frozen=True)
class Axis:
    """What was measured along rows or columns; see `DenseHead`."""

    offset: float
    before: int
    behind: int


def _along(strips: "_Strips", stride: int) -> Generator[None, None, Axis | None]:
    """How far cells see along that axis; None where a cell depends on the whole strip.

    A strip is NaN from some pixel on: a cell is NaN if and only if it depends on one of these pixels, since NaN times
    zero is NaN too.
    """
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
                offset = (yield from strips.offset(stride, before, behind)) if strips.axis == 1 else 0.0
                return Axis(offset, max(0, before), max(0, behind))
        width *= 2
    return None


class _Strips:
    """Passes over narrow pictures, along one axis."""

    def __init__(self, model: Prepared, layer: str, axis: int) -> None:
        self._model, self._layer, self.axis = model, layer, axis
        self.least = model.card.min_size  # The smallest side in pixels, which the short side of each strip has.

    def cells(self, width: int) -> int:
        """How many cells a strip of that width has."""
        return self._pass(self._strip(width)).numel()

    def stride(self, width: int) -> Generator[None, None, int | None]:
        """Pixels by which a strip must grow for one more cell; None where that is no whole number."""
        cells = self.cells(width)
        yield
        more = self.cells(2 * width) - cells
        yield
        stride = round(width / more) if more > 0 else 0
        if not 0 < stride <= MAX_STRIDE:
            return None
        steps = width // stride
        return stride if self.cells(width + steps * stride) == cells + steps else None

    def touched(self, width: int, begin: int, end: int) -> tuple[range, int]:
        """The cells of a strip that depend on the pixels from `begin` to `end`, and how many cells it has."""
        strip = self._strip(width)
        strip[..., begin:end] = torch.nan
        found = self._pass(strip).isnan()
        cells = torch.nonzero(found).flatten().tolist()
        return range(cells[0], cells[-1] + 1) if cells else range(0), len(found)

    def offset(self, stride: int, before: int, behind: int) -> Generator[None, None, float]:
        """The middle of what cell 0 sees, if the picture had pixels before its first one too."""
        middle = max(0, before, behind) + 2  # In the strip below, this cell sees no border.
        width = stride * max(2 * middle, ceil(self.least / stride))
        # As far as cells are touched, the cell in the middle sees pixels of these strides behind and before it.
        ends = range((middle + behind) * stride, (middle + behind + 1) * stride)
        last = yield from self._edge(ends, lambda at: middle in self.touched(width, at, width)[0])
        begins = range((middle - before + 1) * stride - 1, (middle - before) * stride - 1, -1)
        first = yield from self._edge(begins, lambda at: middle in self.touched(width, 0, at + 1)[0])
        return (first + last + 1) / 2 - middle * stride

    def symmetric_offset(self, stride: int) -> Generator[None, None, float]:
        """The middle of cell 0, where cells see everything and the network pads both ends alike.

        Then the cells of the smallest strip that has so many lie in its middle.
        """
        cells = self.cells(FIRST_WIDTH)
        widths = range(FIRST_WIDTH, FIRST_WIDTH - stride, -1)
        width = yield from self._edge(widths, lambda each: self.cells(each) == cells)
        return (width - (cells - 1) * stride) / 2

    @staticmethod
    def _edge(places: range, holds: Callable[[int], bool]) -> Generator[None, None, int]:
        """The last place where `holds` is true, by bisection: it is true at the first places and false after them."""
        low, high = 0, len(places)
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if holds(places[middle]) else (low, middle)
            yield
        return places[low]

    def noise(self, width: int) -> Tensor:
        """A strip of random values, always the same ones."""
        return self._normalised(torch.rand(1, 3, self.least, width, generator=torch.Generator().manual_seed(0)))

    def _strip(self, width: int) -> Tensor:
        return self._normalised(torch.full((1, 3, self.least, width), 0.5))

    def _normalised(self, strip: Tensor) -> Tensor:
        """The strip as the network's input, contiguous, so that its long side stays last in memory."""
        model = self._model
        return model.normalised(strip.to(model.device, model.dtype)).contiguous()

    def _pass(self, strip: Tensor) -> Tensor:
        """The sum of the last map over channels and the short side: one number for each cell along the long one."""
        return self.map(strip).sum((0, 1, 2))

    def map(self, strip: Tensor) -> Tensor:
        """The last map of a strip, its long side last."""
        x = strip if self.axis == 1 else strip.transpose(2, 3)
        found = last_map(self._model, self._layer, x.contiguous(memory_format=torch.channels_last))
        return found if self.axis == 1 else found.transpose(2, 3)
