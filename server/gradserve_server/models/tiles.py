"""Where the head of a network is a convolution, and tiles of a picture that agree with the whole; torch-free."""

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil
from typing import NamedTuple

from .card import Layer, ModelCard


@dataclass(frozen=True, slots=True)
class DenseHead:
    """A network's head as a convolution over pictures of any size, as trials have shown it.

    Cell i of a map of scores reads the `side` cells of the last map from i on. A global mean has the side 1: there the
    mean over the map of scores is the picture's own logits.
    """

    refused: str = ""  # Why the head is no convolution, or empty.
    layer: str = ""  # The layer whose output, the last map, the head reads.
    channels: int = 0  # The channels of that map.
    side: int = 1  # The cells of the last map, along each side, that one cell of the map of scores reads.
    pool: str = ""  # The adaptive pool between that layer and the head, which does nothing at the model's own size.
    linear: str = ""  # The linear layer or 1x1 convolution behind a global mean; empty where the map has the scores.
    chain: tuple[str, ...] = ()  # The layers of a head with `side` above 1, in order.
    least: int = 0  # The smallest side in pixels of a picture with a cell.
    smallest: int = 0  # The smallest side in pixels that the network takes.
    gflop: float = 0.0  # What the head costs for one cell of the map of scores.
    stride: int = 0  # Pixels from a cell to the next.
    offset: float = 0.0  # Pixels from the picture's edge to the middle of what the first cell sees.
    before: int = 0  # Cells of the last map at the beginning of a tile that may depend on pixels before it.
    behind: int = 0  # Cells at its end that may depend on pixels behind it.
    untiled: str = ""  # Why the picture cannot be cut into tiles, or empty.

    @property
    def least_tile(self) -> int:
        """The smallest tile in pixels, which has a cell that depends on the tile alone, whatever the picture's side.

        It may be cut by less than a stride.
        """
        return max((self.before + self.behind + 2) * self.stride, self.smallest + self.stride)


def refusal(card: ModelCard) -> str:
    """Why a model has no map of scores, as far as its card tells that; or empty."""
    if card.outputs != len(card.classes):
        return "it has one output for two classes"
    if not card.any_size:
        return f"it takes pictures of {card.width}x{card.height} alone"
    return "" if maps(card) else "none of its layers gives a map that its logits depend on"


def maps(card: ModelCard) -> list[Layer]:
    """The layers of a network whose maps may be what its head reads, in their order."""
    return [each for each in card.layers if each.layout == "nchw" and each.is_map and card.reaches(each)]


class TileSpan(NamedTuple):
    """A tile along one axis: its pixels from `begin` to `end`, of whose cells those from `first` to `last` are taken.

    Cells are counted over the whole picture; `last` is None for all that there are.
    """

    begin: int
    end: int
    first: int
    last: int | None


def spans(pixels: int, tile: int, head: DenseHead) -> list[TileSpan]:
    """The tiles of at most `tile` pixels along a side of a picture; one where the picture is no larger.

    A tile begins at a multiple of the stride, so that its cells lie as those of the whole, and its length has the same
    remainder as the picture's, since the padding of some networks depends on whether a side is odd. Each cell is taken
    from a tile that has all the pixels that it depends on.
    """
    if pixels <= tile:
        return [TileSpan(0, pixels, 0, None)]
    stride = head.stride
    length = tile - (tile - pixels) % stride
    found, first, begin = list[TileSpan](), 0, 0
    while begin + length < pixels:
        end = begin + length
        last = end // stride - head.behind
        found.append(TileSpan(begin, end, first, last))
        first, begin = last, (last - head.before) * stride
    return [*found, TileSpan(pixels - length, pixels, first, None)]


class Tile(NamedTuple):
    """A part of a picture that is computed at once."""

    rows: TileSpan
    columns: TileSpan


def tiles(height: int, width: int, size: tuple[int, int], head: DenseHead) -> Iterator[Tile]:
    """The tiles of a picture of at most that height and width, row by row."""
    columns = spans(width, size[1], head)
    return (Tile(row, column) for row in spans(height, size[0], head) for column in columns)


class Amount(NamedTuple):
    """How many tiles a picture has, and their pixels in all."""

    tiles: int
    pixels: int


def amount(height: int, width: int, size: tuple[int, int], head: DenseHead) -> Amount:
    """What the tiles of a picture come to, as fast as for one row and one column of them."""
    rows, columns = spans(height, size[0], head), spans(width, size[1], head)
    high, wide = (sum(span.end - span.begin for span in each) for each in (rows, columns))
    return Amount(len(rows) * len(columns), high * wide)


def best_size(height: int, width: int, area: int, head: DenseHead) -> tuple[int, int] | None:
    """The height and width of tiles of at most `area` pixels that have the fewest pixels in all; None without any."""
    least, found = head.least_tile, dict[tuple[int, int], int]()
    for high in (height, *range(least, min(height, area // least) + 1, head.stride)):
        wide = min(width, area // high)
        if wide == width or wide >= least:
            found[high, wide] = amount(height, width, (high, wide), head).pixels
    return min(found, key=lambda size: found[size], default=None)


def most_cells(height: int, width: int, head: DenseHead) -> int:
    """At least as many as the last map of such a picture has."""
    return ceil(height / head.stride + 1) * ceil(width / head.stride + 1)
