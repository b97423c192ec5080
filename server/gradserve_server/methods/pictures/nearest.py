"""Nearest neighbours by Euclidean distance, by comparing with all; what classes they have."""

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

ASKED_ROWS, KNOWN_ROWS = 256, 8192  # Rows that are compared at once: at most 8 MiB of distances.
SPARE = 16  # So many more than are wanted are compared again in double precision.


def nearest(
    known: Array, asked: Array, count: int, *, own: Array | None = None, usable: Array | None = None
) -> tuple[Array, Array]:
    """Rows of `known` [N, C] that are nearest to each of `asked` [n, C], and their distances: [n, k] int64, float64.

    The nearest come first, and of equal ones the lower row. k is `count`, or as many as there are. `own`: the row [n]
    of each that is asked, which is not its own neighbour. `usable`: [N], which rows may be neighbours at all. Distances
    are found in float32 and computed again in double precision.
    """
    available = (len(known) if usable is None else int(usable.sum())) - (own is not None)
    count = max(0, min(count, available))
    rows = np.zeros((len(asked), count), np.int64)
    distances = np.zeros((len(asked), count))
    if not count:
        return rows, distances
    centre = known[:KNOWN_ROWS].mean(0, dtype=np.float64).astype(np.float32)  # Small numbers lose fewer digits.
    for start in range(0, len(asked), ASKED_ROWS):
        part = slice(start, start + ASKED_ROWS)
        found = _candidates(known, asked[part], centre, count + SPARE, None if own is None else own[part], usable)
        for i, candidates in enumerate(found, start):
            exact = np.linalg.norm(known[candidates].astype(np.float64) - asked[i].astype(np.float64), axis=1)
            order = np.lexsort((candidates, exact))
            if own is not None:
                order = order[candidates[order] != own[i]]
            if usable is not None:
                order = order[usable[candidates[order]]]
            rows[i], distances[i] = candidates[order[:count]], exact[order[:count]]
    return rows, distances


def _candidates(
    known: Array, asked: Array, centre: Array, count: int, own: Array | None, usable: Array | None
) -> Array:
    """About the nearest rows of each, of those at equal distances the lower ones, in no order: [n, at most `count`]."""
    queries = asked.astype(np.float32) - centre
    best_rows, best = np.zeros((len(asked), 0), np.int64), np.zeros((len(asked), 0), np.float32)
    for start in range(0, len(known), KNOWN_ROWS):
        part = known[start : start + KNOWN_ROWS].astype(np.float32) - centre
        squares = np.square(part).sum(1) - 2 * (queries @ part.T)  # Without |query|^2, which is the same for all rows.
        here = np.arange(start, start + len(part))
        if usable is not None:
            squares[:, ~usable[here]] = np.inf
        if own is not None:
            squares[own[:, None] == here] = np.inf
        rows = np.concatenate([best_rows, np.broadcast_to(here, squares.shape)], 1)
        best = np.concatenate([best, squares], 1)
        if best.shape[1] > count:
            kept = _least(best, count)
            rows, best = np.take_along_axis(rows, kept, 1), np.take_along_axis(best, kept, 1)
        best_rows = rows
    return best_rows


def _least(values: Array, count: int) -> Array:
    """Where the smallest values of each row [n, m] are, of equal ones the first, in their order: [n, count]."""
    least = np.argpartition(values, count - 1, axis=1)[:, :count]
    largest = np.take_along_axis(values, least, 1).max(1, keepdims=True)
    tied = (values <= largest).sum(1) > count
    least[tied] = np.argsort(values[tied], axis=1, kind="stable")[:, :count]
    return np.sort(least, axis=1)


def voted(labels: Array) -> tuple[Array, Array]:
    """The commonest label of each row [n, k], nearest first, and its share of those that are labelled: [n], [n].

    Of equally common labels that of the nearest neighbour wins. Labels below 0 are none; a row of these has -1 and 0.
    """
    classes, shares = np.full(len(labels), -1, np.int64), np.zeros(len(labels))
    for i, row in enumerate(labels):
        row = row[row >= 0]
        if len(row):
            values, first, counts = np.unique(row, return_index=True, return_counts=True)
            winner = np.lexsort((first, -counts))[0]
            classes[i], shares[i] = values[winner], counts[winner] / len(row)
    return classes, shares
