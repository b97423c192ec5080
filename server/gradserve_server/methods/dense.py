"""Dense: the scores of named classes at every position of a picture of any size."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..engine.job import Job, Steps
from ..engine.query import ModelRead, Query, Tap
from ..models.card import HeadKind
from ..models.tiles import DenseHead, TileSpan, tiles
from .targets import Target

HEAD_CELLS = 64  # Cells that a head of linear layers computes at once; passes of other requests come between.


@dataclass(frozen=True, slots=True)
class DenseArguments:
    """Whose maps: classes by number or rank. `tile`: the largest height and width that are computed at once."""

    targets: tuple[Target, ...]
    tile: tuple[int, int]
    kind: HeadKind
    head: DenseHead


@dataclass(frozen=True, slots=True)
class DenseMaps:
    """The maps of k classes, and the logits of the whole picture."""

    labels: tuple[int, ...]  # [k]
    scores: np.ndarray  # [k, h, w], logits
    probabilities: np.ndarray  # [k, h, w], among all classes
    logits: np.ndarray  # [classes]
    tiles: int


def dense(job: Job, x: Tensor, arguments: DenseArguments) -> Steps:
    """[1, 3, H, W] -> DenseMaps. Tiles give what the whole picture would give, up to rounding."""
    head = arguments.head
    model: Any = yield ModelRead(lambda model: _dense_model(model, head))
    parts = list(tiles(x.shape[2], x.shape[3], arguments.tile, head))
    maps: dict[tuple[int, int], Tensor] = {}  # The tiles' maps, by the row and column of their first cells.
    size = (0, 0)
    for tile in parts:
        rows, columns = tile
        image = x[:, :, rows.begin : rows.end, columns.begin : columns.end]
        tap = Tap(head.layer, reduce=lambda act, _, tile=tile: _kept(_reduced(model, act), tile, head.stride))  # type: ignore[misc]
        answer = yield Query(image, taps=(tap,))
        part = answer.acts[0].float().cpu()
        maps[rows.first, columns.first] = part
        size = (rows.first + part.shape[2], columns.first + part.shape[3])
    values = _joined(maps, size)
    if head.chain:
        last_map = values.to(x)
        logits = (yield ModelRead(lambda _: _computed(model.logits, last_map)))[0]
        values = yield from _windows(model, last_map)
    else:
        logits = values.mean((2, 3), dtype=torch.float64)[0].float()
    scores, own = values[0].numpy(), logits.cpu().numpy()
    order = np.argsort(-own, kind="stable").tolist()
    labels = tuple(int(target.resolved(order).label or 0) for target in arguments.targets)
    return DenseMaps(labels, scores[list(labels)], _probabilities(scores, labels, arguments.kind), own, len(parts))


def dense_head(job: Job, x: Tensor, arguments: None) -> Steps:
    """Tries the model's head as a convolution, in several reads of the model. Returns a DenseHead."""
    head: DenseHead | None = None
    while head is None:
        head = yield ModelRead(_try_head)
    return head


def _try_head(model: Any) -> DenseHead | None:
    from ..models.dense import try_head  # A front-end reads this module, and has no torch to load that one with.

    return try_head(model)


def _dense_model(model: Any, head: DenseHead) -> Any:
    from ..models.dense import DenseModel

    return DenseModel(model, head)


def _reduced(model: Any, last_map: Tensor) -> Tensor:
    """The last map, or the scores where a cell of the last map suffices for them."""
    return last_map if model.head.chain else model.scores(last_map.float())


def _kept(values: Tensor, tile: Sequence[TileSpan], stride: int) -> Tensor:
    """Of the cells of a tile, [1, C, h, w], those that depend on the tile alone."""
    for axis, span in enumerate(tile, 2):
        begin = span.begin // stride
        count = values.shape[axis] if span.last is None else span.last - begin
        values = values.narrow(axis, span.first - begin, count - (span.first - begin))
    return values


def _joined(maps: dict[tuple[int, int], Tensor], size: tuple[int, int]) -> Tensor:
    """One map [1, C, h, w] of the parts, which are given by the places of their first cells."""
    if len(maps) == 1:
        return next(iter(maps.values()))
    first = next(iter(maps.values()))
    whole = first.new_empty(1, first.shape[1], *size)
    for (y, x), part in maps.items():
        whole[:, :, y : y + part.shape[2], x : x + part.shape[3]] = part
    return whole


def _windows(model: Any, last_map: Tensor) -> Steps:
    """The scores of a head of linear layers at every cell, [1, outputs, h - side + 1, w - side + 1], on the CPU."""
    side, width = model.head.side, last_map.shape[3] - model.head.side + 1
    cells = last_map.shape[2] - side + 1
    rows, found = max(1, HEAD_CELLS // width), []
    for start in range(0, cells, rows):
        part = last_map[:, :, start : min(cells, start + rows) + side - 1]
        scores = yield ModelRead(lambda _, part=part: _computed(model.scores, part))  # type: ignore[misc]
        found.append(scores.cpu())
    return torch.cat(found, 2)


def _computed(head: Any, last_map: Tensor) -> Tensor:
    with torch.no_grad():
        scores: Tensor = head(last_map)
    return scores.float()


def _probabilities(scores: np.ndarray, labels: Sequence[int], kind: HeadKind) -> np.ndarray:
    """The probabilities of some classes at every position, of the scores [classes, h, w] of all."""
    chosen = scores[list(labels)].astype(np.float64)
    if kind != "softmax":
        return np.asarray(np.exp(-np.logaddexp(0, -chosen)), np.float32)
    largest = scores.max(0)
    total = np.exp(scores - largest).sum(0, dtype=np.float64)
    return np.asarray(np.exp(chosen - largest) / total, np.float32)
