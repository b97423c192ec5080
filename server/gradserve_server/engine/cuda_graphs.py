"""On a GPU: the common pass as a CUDA graph, recorded once and replayed for every batch of that size.

For small batches a GPU waits longer for its kernels to be launched than it computes. Gradients of class scores by the
pixels, without taps or ReLU rules, take the same kernels every time; everything else goes through `differentiate`.
"""

import logging
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..models.prepared import Prepared
from .differentiate import differentiate
from .objective import DLR_FLOOR, log_probabilities, ranking
from .query import Answer, Part, Query

log = logging.getLogger(__name__)

MIN_GRAPH_USES = 3  # passes of one size before it is recorded
MAX_GRAPHS = 32  # recordings kept
WARM_UP_PASSES = 3
MAX_GRAPH_DISTANCE = 1e-2  # relative distance from the plain pass beyond which a recording is not used
KINDS: Mapping[str, tuple[bool, bool]] = {  # of objectives with one term: by rank, of the log-probabilities
    "logit": (False, False),
    "ranked": (True, False),
    "log_prob": (False, True),
}


class Inputs(NamedTuple):
    """What the rows of a pass differ in."""

    images: Tensor  # [n, 3, H, W]
    chosen: Tensor  # [n, 1], classes or ranks from zero
    by_rank: Tensor  # [n, 1]
    of_log_probs: Tensor  # [n, 1]
    weight: Tensor  # [n]


class Outputs(NamedTuple):
    """What a pass gives: logits [n, classes], weighted scores [n], and their gradients [n, 3, H, W]."""

    logits: Tensor
    values: Tensor
    grads: Tensor


Recorder = Callable[[Callable[[], Outputs]], tuple[Outputs, Callable[[], None]]]


def cuda_graph(function: Callable[[], Outputs]) -> tuple[Outputs, Callable[[], None]]:
    """Records what the function launches: its outputs, and what computes them anew in place."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(WARM_UP_PASSES):
            function()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        outputs = function()
    return outputs, graph.replay


class CudaGraph:
    """One pass over a fixed number of rows; those beyond what is asked for compute what was there before."""

    def __init__(self, model: Prepared, rows: int, like: Inputs, record: Recorder) -> None:
        """`like` says the size of the images."""
        self._model = model
        self._inputs = Inputs(*(each[:1].expand(rows, *each.shape[1:]).clone().to(model.device) for each in like))
        images = self._inputs.images.to(model.dtype).contiguous(memory_format=torch.channels_last)
        self._inputs = self._inputs._replace(images=images.requires_grad_())
        self._outputs, self._replay = record(self._run)

    def _run(self) -> Outputs:
        images, chosen, by_rank, of_log_probs, weight = self._inputs
        head = self._model.card.head
        with torch.enable_grad():
            logits = self._model(images)
            labels = torch.where(by_rank, ranking(logits.detach()).gather(1, chosen), chosen)
            scores = torch.where(
                of_log_probs, log_probabilities(logits, head).gather(1, labels), logits.gather(1, labels)
            )
            values = scores.squeeze(1) * weight
            (grads,) = torch.autograd.grad(values.sum(), images)
        return Outputs(logits.detach(), values.detach(), grads)

    def __call__(self, asked: Inputs) -> Outputs:
        """Of at most as many rows as were recorded."""
        count = len(asked.images)
        with torch.no_grad():
            for place, new in zip(self._inputs, asked, strict=True):
                place[:count].copy_(new, non_blocking=True)
        self._replay()
        return Outputs(*(each[:count].clone() for each in self._outputs))


class Recordings:
    """The recordings of an engine, each made when its size has come up often enough."""

    def __init__(self, record: Recorder = cuda_graph) -> None:
        self._record = record
        self._made: OrderedDict[tuple[object, ...], CudaGraph | None] = OrderedDict()  # None: it was no good
        self._seen: Counter[tuple[object, ...]] = Counter()

    def answers(self, model: Prepared, parts: Sequence[Part]) -> list[Answer] | None:
        """What `differentiate` answers, or None where nothing is recorded for it."""
        if not all(common(part.query) for part in parts):
            return None
        asked = inputs_of(parts)
        rows = 1 << (len(asked.images) - 1).bit_length()
        key = (model.card.name, model.precision, rows, *asked.images.shape[2:])
        self._seen[key] += 1
        if self._seen[key] < MIN_GRAPH_USES:
            return None
        if key not in self._made:
            self._made[key] = self._recording(model, rows, asked, parts)
            if len(self._made) > MAX_GRAPHS:
                self._seen.pop(self._made.popitem(last=False)[0])
        self._made.move_to_end(key)
        recording = self._made[key]
        return None if recording is None else dealt(parts, recording(asked))

    def _recording(self, model: Prepared, rows: int, asked: Inputs, parts: Sequence[Part]) -> CudaGraph | None:
        """A recording that gives what the plain pass gives, or None."""
        plain = torch.cat([answer.image_grad for answer in differentiate(model, parts)])  # type: ignore[misc]
        try:
            recording = CudaGraph(model, rows, asked, self._record)
            off = float((recording(asked).grads - plain).norm() / plain.norm().clamp_min(DLR_FLOOR))
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:  # some networks copy to the host or choose by values
            log.warning("%s cannot be recorded for %d rows, and runs without: %s", model.card.name, rows, error)
            return None
        if not off <= MAX_GRAPH_DISTANCE:
            log.warning("%s is off by %.2g when recorded for %d rows, and runs without", model.card.name, off, rows)
            return None
        return recording


def common(query: Query) -> bool:
    """Whether a recording can answer it: the gradient of one class score by the pixels."""
    if query.objective is None or query.wrt != "image" or query.taps or query.relu != "plain":
        return False
    return len(query.objective.terms) == 1 and query.objective.terms[0].kind in KINDS


def inputs_of(parts: Sequence[Part]) -> Inputs:
    """Row by row."""
    images = torch.cat([part.query.images.detach()[part.rows.start : part.rows.stop] for part in parts])
    terms = [part.query.objective.terms[0] for part in parts for _ in part.rows]  # type: ignore[union-attr]
    chosen = torch.tensor([term.indices for term in terms])
    by_rank, of_log_probs = (torch.tensor([[KINDS[term.kind][i]] for term in terms]) for i in range(2))
    return Inputs(images, chosen, by_rank, of_log_probs, torch.tensor([term.weight for term in terms]))


def dealt(parts: Sequence[Part], found: Outputs) -> list[Answer]:
    """Each part's share."""
    finite = torch.stack(
        [each.flatten(1).isfinite().all(1) for each in (found.logits, found.values[:, None], found.grads)]
    )
    healthy, answers, start = finite.all(0).tolist(), [], 0
    for part in parts:
        rows = slice(start, start := start + len(part.rows))
        logits, values, grads = (each[rows] for each in found)
        answers.append(Answer(logits, values, grads, (), (), all(healthy[rows]), values[:, None]))
    return answers
