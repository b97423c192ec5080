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
from .query import Answer, Part, Query
from .scores import DLR_FLOOR, log_probabilities, ranking

log = logging.getLogger(__name__)

MIN_GRAPH_USES = 3  # Passes of one size after which it is recorded.
MAX_GRAPHS = 32  # Most recordings that are kept.
WARM_UP_PASSES = 3  # Passes that run before the recording.
MAX_GRAPH_DISTANCE = 1e-2  # Largest distance of a recording's gradients from the plain pass's, by their norm.
# Kinds of terms that can be recorded: whether each takes a class by its rank, and whether it is a log-probability.
KINDS: Mapping[str, tuple[bool, bool]] = {
    "logit": (False, False),
    "ranked": (True, False),
    "log_prob": (False, True),
}


class Inputs(NamedTuple):
    """What may differ from row to row and from pass to pass."""

    images: Tensor  # [n, 3, H, W]
    chosen: Tensor  # [n, 1], the class that is scored, or its rank from zero
    by_rank: Tensor  # [n, 1], whether `chosen` is a rank
    of_log_probs: Tensor  # [n, 1], whether the score is a log-probability rather than a logit
    weight: Tensor  # [n], by which the score is multiplied


class Outputs(NamedTuple):
    """What a pass gives: logits [n, classes], weighted scores [n], and their gradients [n, 3, H, W]."""

    logits: Tensor
    values: Tensor
    grads: Tensor


Recorder = Callable[[Callable[[], Outputs]], tuple[Outputs, Callable[[], None]]]


def cuda_graph(function: Callable[[], Outputs]) -> tuple[Outputs, Callable[[], None]]:
    """Records the kernels that a function launches; returns its outputs, and a function that computes them anew."""
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
    """One pass over a fixed number of rows. A batch may have fewer: the other rows then compute old inputs again."""

    def __init__(self, model: Prepared, rows: int, like: Inputs, record: Recorder) -> None:
        """Records a pass over images of the size of those in `like`."""
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

    def __call__(self, inputs: Inputs) -> Outputs:
        """The outputs for at most as many rows as were recorded."""
        count = len(inputs.images)
        with torch.no_grad():
            for recorded, new in zip(self._inputs, inputs, strict=True):
                recorded[:count].copy_(new, non_blocking=True)
        self._replay()
        return Outputs(*(each[:count].clone() for each in self._outputs))


class Recordings:
    """An engine's recordings by model, precision and size, each made when passes of its size have come up often."""

    def __init__(self, record: Recorder = cuda_graph) -> None:
        self._record = record
        self._graphs: OrderedDict[tuple[object, ...], CudaGraph | None] = OrderedDict()  # None where recording failed
        self._uses: Counter[tuple[object, ...]] = Counter()

    def answers(self, model: Prepared, parts: Sequence[Part]) -> list[Answer] | None:
        """What `differentiate` answers, or None where nothing is recorded for it."""
        if not all(can_record(part.query) for part in parts):
            return None
        inputs = inputs_of(parts)
        rows = 1 << (len(inputs.images) - 1).bit_length()  # The next power of two.
        key = (model.card.name, model.precision, rows, *inputs.images.shape[2:])
        self._uses[key] += 1
        if self._uses[key] < MIN_GRAPH_USES:
            return None
        if key not in self._graphs:
            self._graphs[key] = self._record_pass(model, rows, inputs, parts)
            if len(self._graphs) > MAX_GRAPHS:
                self._uses.pop(self._graphs.popitem(last=False)[0])
        self._graphs.move_to_end(key)
        graph = self._graphs[key]
        return None if graph is None else split(parts, graph(inputs))

    def _record_pass(self, model: Prepared, rows: int, inputs: Inputs, parts: Sequence[Part]) -> CudaGraph | None:
        """A recording whose gradients are those of the plain pass; None where recording fails or they differ."""
        plain = torch.cat([answer.image_grad for answer in differentiate(model, parts)])  # type: ignore[misc]
        try:
            graph = CudaGraph(model, rows, inputs, self._record)
            distance = float((graph(inputs).grads - plain).norm() / plain.norm().clamp_min(DLR_FLOOR))
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:  # Networks that copy values to the host cannot be recorded.
            log.warning(
                "%s cannot be recorded for %d rows, and runs without a recording: %s", model.card.name, rows, error
            )
            return None
        if not distance <= MAX_GRAPH_DISTANCE:
            text = "%s is off by %.2g when recorded for %d rows, and runs without a recording"
            log.warning(text, model.card.name, distance, rows)
            return None
        return graph


def can_record(query: Query) -> bool:
    """Whether a recording can answer the query: it asks for the gradient of one class score by the pixels."""
    if (
        query.region is not None
        or query.objective is None
        or query.wrt != "image"
        or query.taps
        or query.rule != "plain"
        or query.permuted
    ):
        return False
    return len(query.objective.terms) == 1 and query.objective.terms[0].kind in KINDS


def inputs_of(parts: Sequence[Part]) -> Inputs:
    """The inputs of the parts' rows, one after another."""
    images = torch.cat([part.query.images.detach()[part.rows.start : part.rows.stop] for part in parts])
    terms = [part.query.objective.terms[0] for part in parts for _ in part.rows]  # type: ignore[union-attr]
    chosen = torch.tensor([term.indices for term in terms])
    by_rank, of_log_probs = (torch.tensor([[KINDS[term.kind][i]] for term in terms]) for i in range(2))
    return Inputs(images, chosen, by_rank, of_log_probs, torch.tensor([term.weight for term in terms]))


def split(parts: Sequence[Part], outputs: Outputs) -> list[Answer]:
    """The outputs of all rows as one answer for each part."""
    finite = torch.stack(
        [each.flatten(1).isfinite().all(1) for each in (outputs.logits, outputs.values[:, None], outputs.grads)]
    )
    healthy, answers, start = finite.all(0).tolist(), [], 0
    for part in parts:
        rows = slice(start, start := start + len(part.rows))
        logits, values, grads = (each[rows] for each in outputs)
        answers.append(Answer(logits, values, grads, (), (), all(healthy[rows]), values[:, None]))
    return answers
