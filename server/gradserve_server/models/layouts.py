"""How the outputs of layers are read as maps: by shape, and sequences of tokens by which pixels change them."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .card import Layout, Tokens
from .loading import CatalogueMistake
from .outputs import run
from .taps import first_input, first_tensor

ROWS = 2  # Images of a test batch; a dimension of another size is not the batch's.
MIN_CELLS = 5  # Fewest cells of a side on which a corner's neighbours count as the corner.
MIN_CHANGE_SHARE = 0.3  # Smallest change at a changed corner, as a share of the largest change.

Size = tuple[int, int]
Call = tuple[str, int]  # The name of a module, and the index of one of its calls.


def layout_of(shape: tuple[int, ...], size: Size) -> Layout:
    """How a layer's output of that shape, for ROWS images of that size, is to be read; tokens are "other" here."""
    if shape[0] != ROWS:
        return "other"
    if len(shape) == 2:
        return "vector"
    if len(shape) == 4:
        if _aspect(shape[2], shape[3], size):
            return "nchw"
        if _aspect(shape[1], shape[2], size):
            return "nhwc"
    return "other"


def _aspect(height: int, width: int, size: Size) -> bool:
    return abs(height * size[1] - width * size[0]) < max(size)


def map_size(shape: tuple[int, ...], layout: Layout) -> Size:
    """Height and width of a map."""
    return (shape[1], shape[2]) if layout == "nhwc" else (shape[2], shape[3])


@dataclass(frozen=True)
class Sequence:
    """The first sequence of some length in a pass of two different images.

    `fixed` tells which positions are the same for both images. `grid` is the size of the last map before it that has no
    more positions.
    """

    fixed: tuple[bool, ...]
    grid: Size | None


class Sequences:
    """Gathers the sequences of a pass of two different images, by length."""

    def __init__(self, size: Size) -> None:
        self.by_length: dict[int, Sequence] = {}
        self._size = size
        self._grids: list[Size] = []

    def see(self, x: Tensor) -> None:
        """Takes an input or output of a module; they must come in their order."""
        shape = tuple(x.shape)
        layout = layout_of(shape, self._size) if shape else "other"
        if layout in ("nchw", "nhwc"):
            self._grids.append(map_size(shape, layout))
        elif len(shape) == 3 and shape[0] == ROWS and shape[1] > 1 and shape[1] not in self.by_length:
            fixed = (x[0] == x[1]).all(-1).tolist()
            grids = [(h, w) for h, w in self._grids if 1 < h * w <= shape[1]]
            self.by_length[shape[1]] = Sequence(tuple(fixed), grids[-1] if grids else None)


@dataclass(frozen=True)
class Reading:
    """How sequences of each length are read as maps, and the module calls whose sequence has another order."""

    tokens: Mapping[int, Tokens]
    disordered: frozenset[Call] = frozenset()

    def of(self, shape: tuple[int, ...], call: Call) -> Tokens | None:
        """The grid in what a module's call gave; None where there is none."""
        if len(shape) != 3 or shape[0] != ROWS or call in self.disordered:
            return None
        return self.tokens.get(shape[1])


def read_tokens(
    network: nn.Module, example: Tensor, sequences: Mapping[int, Sequence], declared: Size | None
) -> Reading:
    """How the network's sequences are read as maps; sequences that are unclear are left out.

    `declared`: numbers of leading and trailing tokens from the catalogue. Raises CatalogueMistake where they are wrong.
    """
    size = (example.shape[2], example.shape[3])
    guesses = {}
    for count, sequence in sequences.items():
        guess = _guess(count, sequence, size) if declared is None else _declared(count, sequence, size, *declared)
        if guess is not None:
            guesses[count] = guess
    if declared is not None:
        if any(declared) and not any((t.leading, t.trailing) == declared for t in guesses.values()):
            raise CatalogueMistake(_mistake(sorted(sequences), *declared))
        return Reading(guesses)
    return _checked(network, example, guesses) if guesses else Reading({})


def _mistake(lengths: list[int], leading: int, trailing: int) -> str:
    """The error text where no sequence of the network fits the catalogue's `tokens`."""
    if not lengths:
        return "the network has no sequences of tokens; leave tokens out"
    said = f"tokens = {{ leading = {leading}, trailing = {trailing} }} does not fit"
    has = f"the network has sequences of {', '.join(map(str, lengths))} tokens"
    less = " - ".join(str(n) for n in (lengths[0], leading, trailing) if n)
    which = f"{less} is no grid of patches" if len(lengths) == 1 else "none of them less these numbers is a grid"
    return f"{said}: {has}, and {which}; correct the numbers, or leave tokens out to have them found"


def _guess(count: int, sequence: Sequence, size: Size) -> Tokens | None:
    """The tokens, where those at the ends do not depend on the image and the rest is a grid; otherwise None."""
    if all(sequence.fixed):
        return None
    leading, trailing = _ends(sequence.fixed)
    if sum(sequence.fixed) != leading + trailing:
        return None
    grid = _grid(count - leading - trailing, sequence.grid, size)
    return None if grid is None else Tokens(*grid, leading, trailing)


def _declared(count: int, sequence: Sequence, size: Size, leading: int, trailing: int) -> Tokens | None:
    """The tokens by the catalogue's numbers, or of patches alone; None where neither fits."""
    if any(sequence.fixed) and not all(sequence.fixed) and _ends(sequence.fixed) != (leading, trailing):
        return None
    grid = _grid(count - leading - trailing, sequence.grid, size)
    if grid is not None:
        return Tokens(*grid, leading, trailing)
    grid = _grid(count, sequence.grid, size)
    return None if grid is None or any(sequence.fixed) else Tokens(*grid)


def _ends(fixed: tuple[bool, ...]) -> tuple[int, int]:
    """The lengths of the fixed runs at both ends."""
    return fixed.index(False), fixed[::-1].index(False)


def _grid(patches: int, before: Size | None, size: Size) -> Size | None:
    """The grid of the map before it, or one in the image's aspect."""
    if before is not None and before[0] * before[1] == patches:
        return before
    height = round(max(patches, 0) ** 0.5 * (size[0] / size[1]) ** 0.5)
    if height > 1 and patches % height == 0 and _aspect(height, patches // height, size):
        return height, patches // height
    return None


def _checked(network: nn.Module, example: Tensor, guesses: Mapping[int, Tokens]) -> Reading:
    """Keeps the guesses whose tokens are in order: a change in two corners of the image must change the tokens there.

    Where a sequence comes up first, the largest change must be at the corners. Later on attention spreads the change,
    so that MIN_CHANGE_SHARE of it is enough.
    """
    finest = max(guesses.values(), key=lambda tokens: tokens.height * tokens.width)
    height, width = finest.height, finest.width
    images = example[:1].repeat(3, 1, 1, 1)
    for i, (row, column) in enumerate(((0, width - 1), (height - 1, 0)), 1):
        rows, columns = _middle(row, height, example.shape[2]), _middle(column, width, example.shape[3])
        images[i, :, rows, columns] = example[1, :, rows, columns]
    ordered: dict[int, bool] = {}
    disordered = set()

    def see(x: Tensor, call: Call | None) -> None:
        tokens = guesses.get(x.shape[1]) if x.dim() == 3 and len(x) == len(images) else None
        if tokens is None:
            return
        change = (x[1:] - x[:1]).norm(dim=2)[:, tokens.leading : tokens.length - tokens.trailing]
        here = _near_corners(change.unflatten(1, (tokens.height, tokens.width)))
        ordered.setdefault(tokens.length, bool((here == change.amax(1)).all()))
        if call is not None and bool((here < MIN_CHANGE_SHARE * change.amax(1)).any()):
            disordered.add(call)

    with torch.no_grad(), watching(network, see):
        run(network, images)
    return Reading({n: tokens for n, tokens in guesses.items() if ordered.get(n)}, frozenset(disordered))


def _near_corners(change: Tensor) -> Tensor:
    """The largest change at the upper right corner of the first map, and at the lower left one of the second: [2].

    On maps with MIN_CELLS the neighbours count too, since patches may overlap.
    """
    rows, columns = (2 if side >= MIN_CELLS else 1 for side in change.shape[1:])
    return torch.stack([change[0, :rows, -columns:].max(), change[1, -rows:, :columns].max()])


def _middle(cell: int, cells: int, side: int) -> slice:
    """The pixels of the middle half of a cell."""
    start = int((cell + 0.25) * side / cells)
    return slice(start, max(start + 1, int((cell + 0.75) * side / cells)))


@contextmanager
def watching(network: nn.Module, see: Callable[[Tensor, Call | None], None]) -> Iterator[None]:
    """Calls `see` with every input (and None) and every output (and its call) of all modules in a pass."""
    calls: Counter[str] = Counter()

    def before(_: nn.Module, args: Any, kwargs: Any) -> None:
        if (x := first_input(args, kwargs)) is not None:
            see(x, None)

    def after(name: str) -> Any:
        def hook(_: nn.Module, args: Any, out: Any) -> None:
            if (x := first_tensor(out)) is not None:
                see(x, (name, calls[name]))
                calls[name] += 1

        return hook

    handles = []
    for name, module in network.named_modules():
        handles.append(module.register_forward_pre_hook(before, with_kwargs=True))
        handles.append(module.register_forward_hook(after(name)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
