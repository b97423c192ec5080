"""How far to trust a map: whether what it shows agrees with what the target does when half of the picture is gone.

The picture is divided into cells. Each mask keeps about half of them and replaces the rest by the blurred picture.
The masks are a two-level design (Plackett and Burman 1946): each cell is kept by about half of the masks, and nearly
uncorrelated with every other cell, so that what one cell does is not taken for what another does. Masks drawn at random
keep some cells together more often than others, and the agreement of maps would vary with that.
A map's agreement is the correlation of its sum over the kept cells with the target's value, the number of kept cells
partialled out: that number alone explains much of the value, and would give noise a correlation of 0.5. What the same
map reaches at other places, turned and flipped, tells how much of that is chance.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from math import ceil
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from ...engine.job import MethodContext, Steps
from ...engine.objective import Objective
from ...engine.query import Query
from ..regularizers import blurred

CELLS = 7  # Cells along a side, a prime that is 3 modulo 4 (`conference_matrix`).
MASKS = CELLS**2 + 1  # Half-masks, which are the forward rows of a judgement.
BLUR = 10 / 224  # Standard deviation of the blur that stands for "gone", as a share of the shorter side.
CENTRE_SPREAD = 1 / 4  # Standard deviation of the Gaussian in the middle, as a share of each side.
MAX_CHANCE = 0.05  # A map is no better than chance if at least this share of its copies agrees as well.
CONSTANT = 1e-6  # Values that differ by less than this share of the largest are the same up to rounding.
TIE = 1e-9  # Agreements that differ by less are equal: a symmetric map is one of its own copies.
NO_TIME = "NOT_JUDGED: time ran out after the map, before it could be judged"
NOT_FINITE = (
    "NOT_JUDGED: on the picture with parts of it gone the network gives values that are not finite, so that maps of it "
    "cannot be judged"
)

Verdict = Literal["no_better_than_chance", "no_better_than_centre", "beats_both"]


@dataclass(frozen=True, slots=True)
class CurvePair:
    """The target's value as pixels come (`insertion`) and go (`deletion`), those that the map ranks first before."""

    insertion: tuple[float, ...]
    deletion: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Judgement:
    """What a map is worth beside chance and the middle of the picture, with the reason in words."""

    agreement: float
    chance_p: float
    centre_agreement: float
    verdict: Verdict
    sentence: str
    curves: CurvePair | None = None


def half_masks(x: Tensor, run: MethodContext) -> np.ndarray:
    """Which cells each mask keeps, [MASKS, rows, columns] of bool; the same for the same picture and seed.

    A picture with fewer than CELLS pixels along a side has a cell for each of them. Which cell has which column of the
    design, and which of its two levels means "kept", is random.
    """
    digest = sha256(x.cpu().contiguous().numpy().tobytes()).digest()
    rows, columns = (min(CELLS, side) for side in x.shape[2:])
    generator = run.generator(int.from_bytes(digest[:8]))
    chosen = _design()[:, generator.permutation(CELLS**2)[: rows * columns]]
    kept: np.ndarray = chosen == generator.choice((-1, 1), rows * columns)
    return kept.reshape(MASKS, rows, columns)


@lru_cache(1)
def _design() -> np.ndarray:
    """The levels, -1 or 1, of CELLS² factors in MASKS runs, [MASKS, CELLS²].

    The sum of each column, and the scalar product of any two, is from -2 to 2.
    """
    matrix = conference_matrix() + np.eye(MASKS, dtype=np.int64)
    return np.asarray((matrix * matrix[:, :1])[:, 1:])


def conference_matrix() -> np.ndarray:
    """A symmetric matrix C of order MASKS, 0 on the diagonal and ±1 elsewhere, with C C' = CELLS² I (Paley 1933).

    Its rows and columns but the first stand for the elements of the field of CELLS² elements: an entry is 1 where the
    difference of its two elements is a square, and else -1. An element is a + b i: a and b modulo CELLS, i² = -1.
    """
    a, b = np.divmod(np.arange(CELLS**2), CELLS)
    is_square = np.zeros((CELLS, CELLS), bool)
    is_square[(a * a - b * b) % CELLS, 2 * a * b % CELLS] = True
    differences = [(each[:, None] - each) % CELLS for each in (a, b)]
    matrix = np.ones((MASKS, MASKS), np.int64)
    matrix[1:, 1:] = np.where(is_square[tuple(differences)], 1, -1)
    np.fill_diagonal(matrix, 0)
    return matrix


def masked_values(x: Tensor, masks: np.ndarray, objectives: Sequence[Objective], run: MethodContext) -> Steps:
    """Asks for every objective on every masked copy of the picture [1, 3, H, W]. Returns [objectives, MASKS]."""
    gone = blurred(x, BLUR * min(x.shape[2:]))
    all_terms = Objective(tuple(term for objective in objectives for term in objective.terms))
    tables = list[Tensor]()
    for part in run.parts(len(masks)):
        keep = _to_pixels(torch.from_numpy(masks[part.start : part.stop]).to(x.device), x.shape[2:])
        answer = yield Query(torch.where(keep.unsqueeze(1), x, gone), all_terms)
        tables.append(answer.terms)
    table = torch.cat(tables).double().cpu().numpy()
    ends = np.cumsum([len(objective.terms) for objective in objectives])
    return np.stack([part.sum(1) for part in np.split(table, ends[:-1], 1)])


def _to_pixels(masks: Tensor, size: Sequence[int]) -> Tensor:
    """Masks of cells as masks of pixels: [n, rows, columns] -> [n, H, W]."""
    rows, columns = (
        torch.arange(side, device=masks.device) * cells // side
        for side, cells in zip(size, masks.shape[1:], strict=True)
    )
    return masks[:, rows][:, :, columns]


def cell_sums(values: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """A map's sum over each cell: [H, W] -> [rows, columns] in float64."""
    edges = [[ceil(i * side / cells) for i in range(cells)] for side, cells in zip(values.shape, shape, strict=True)]
    rows = np.add.reduceat(values.astype(np.float64), edges[0], axis=0)
    return np.asarray(np.add.reduceat(rows, edges[1], axis=1))


def judged(values: np.ndarray, masks: np.ndarray, scores: np.ndarray) -> Judgement:
    """A map [H, W] with its signs, judged by the target's value under each mask, `scores` [masks]."""
    shape = masks.shape[1:]
    counts = masks.reshape(len(masks), -1).sum(1).astype(np.float64)
    centre = float(agreements(centre_cells(shape)[None], masks, scores)[0])
    cells = cell_sums(values, shape)
    if values.max() == values.min() or np.ptp(cells) <= CONSTANT * np.abs(cells).max():
        return Judgement(0.0, 1.0, centre, *_verdict(0.0, 1.0, centre, "the map is the same everywhere"))
    if _is_constant(_without(counts, scores), scores):
        why = f"the target's value does not depend on which of the {len(masks)} halves of the picture are there"
        return Judgement(0.0, 1.0, 0.0, *_verdict(0.0, 1.0, 0.0, why))
    of_copies = agreements(cells.ravel()[copies(cells.shape)], masks, scores)
    own, p = float(of_copies[0]), float(np.mean(of_copies >= of_copies[0] - TIE))
    return Judgement(own, p, centre, *_verdict(own, p, centre))


def agreements(cells: np.ndarray, masks: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """The partial correlation of each map of cells [n, ...] with the scores [masks], given the number of kept cells."""
    flat = masks.reshape(len(masks), -1).astype(np.float64)
    counts = flat.sum(1)
    kept = cells.reshape(len(cells), -1) @ flat.T
    value = _without(counts, scores)
    if _is_constant(value, scores):
        return np.zeros(len(cells))
    rest = _without(counts, kept)
    norms = np.linalg.norm(rest, axis=1)
    flat_maps = norms <= CONSTANT * np.abs(kept).max(1)
    return np.where(flat_maps, 0.0, rest @ value / np.where(flat_maps, 1.0, norms) / np.linalg.norm(value))


def _without(counts: np.ndarray, values: np.ndarray) -> np.ndarray:
    """The values [..., masks] less their means and their regressions on the counts [masks]."""
    counts, values = counts - counts.mean(), values - values.mean(-1, keepdims=True)
    spread = counts @ counts
    return np.asarray(values - counts * (values @ counts / (spread or 1.0))[..., None])


def _is_constant(rest: np.ndarray, scores: np.ndarray) -> bool:
    return bool(np.abs(rest).max() <= CONSTANT * np.abs(scores).max())


@lru_cache(16)
def copies(shape: tuple[int, int]) -> np.ndarray:
    """Where each copy of a map of cells has its values from: [copies, rows * columns], the map itself first.

    The copies are all that moving it around the edges, turns and flips make of it; of a grid that is not square only
    half turns and flips.
    """
    rows, columns = shape
    cells = np.arange(rows * columns).reshape(shape)
    turns = (0, 1, 2, 3) if rows == columns else (0, 2)
    turned = [np.rot90(each, turn) for each in (cells, cells[:, ::-1]) for turn in turns]
    moves = [(down, right) for down in range(rows) for right in range(columns)]
    return np.stack([np.roll(each, move, (0, 1)).ravel() for each in turned for move in moves])


def centre_cells(shape: Sequence[int]) -> np.ndarray:
    """A Gaussian in the middle of the picture, at the middle of each cell."""
    lines = [np.exp(-0.5 * (((np.arange(n) + 0.5) / n - 0.5) / CENTRE_SPREAD) ** 2) for n in shape]
    return np.outer(*lines)


def _verdict(agreement: float, p: float, centre: float, why: str = "") -> tuple[Verdict, str]:
    """The verdict, and the same in a sentence."""
    figures = f"agreement {agreement:.2f}; {p:.1%} of moved copies agree as well; the middle has {centre:.2f}"
    if p >= MAX_CHANCE:
        return "no_better_than_chance", f"no better than chance ({why or figures})"
    if agreement <= centre:
        return "no_better_than_centre", f"no better than the middle of the picture ({figures})"
    return "beats_both", f"beats both chance and the middle of the picture ({figures})"
