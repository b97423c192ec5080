"""One forward and backward pass for rows of many jobs: each with its own target, objective, taps and backward rule."""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from itertools import pairwise

import torch
from torch import Tensor

from ..models.layouts import ROWS, layout_of
from ..models.other_sizes import refusal
from ..models.permuted import permuted
from ..models.prepared import Prepared
from ..models.relu import ReLURules
from ..models.rules import Relevance, place
from ..models.taps import Place, Side, Taps, as_map
from .objective import NotApplicable
from .query import Answer, Part, Tap
from .scores import score


def differentiate(model: Prepared, parts: Sequence[Part]) -> list[Answer]:
    """The answers to `parts`, which agree in image size, in what they differentiate by (`wrt`) and in `permuted`.

    Raises NotApplicable for what cannot be computed, for relevance in another precision than EXACT, and for rules that
    do not apply on images of that size. A row with NaN
    or infinities leaves the other rows as they are.
    """
    if model.precision != "exact" and any(isinstance(part.query.rule, Relevance) for part in parts):
        raise NotApplicable("relevance is computed in EXACT alone: its many small numbers do not bear half precision")
    height, width = parts[0].query.images.shape[2:]
    if refused := refusal(model, {part.query.rule for part in parts}, height, width):
        raise NotApplicable(refused)
    order = sorted(range(len(parts)), key=lambda i: place(parts[i].query.rule))
    batch = _Batch(model, [parts[i] for i in order])
    answers = dict(zip(order, batch.run(), strict=True))
    return [answers[i] for i in range(len(parts))]


class _Batch:
    """Parts ordered by backward rule, each a contiguous span of the batch's rows."""

    def __init__(self, model: Prepared, parts: Sequence[Part]) -> None:
        self.model = model
        self.parts = parts
        self.wrt = parts[0].query.wrt
        starts = [0]
        for part in parts:
            starts.append(starts[-1] + len(part.rows))
        self.spans = [range(a, b) for a, b in pairwise(starts)]
        self.rows = starts[-1]
        images = [part.query.images.detach()[part.rows.start : part.rows.stop] for part in parts]
        batch = torch.cat(images) if len(images) > 1 else images[0]
        batch = batch.to(model.device, model.dtype, non_blocking=True)
        self.images = batch.contiguous(memory_format=torch.channels_last).requires_grad_(self.wrt == "image")

    def run(self) -> list[Answer]:
        """The answers of the parts, in the batch's order."""
        places = self._places()
        logits, kept = self._forward(places)
        values = self._values(logits, kept)
        image_grad, act_grads = self._backward(values, kept)
        # One check of all rows is cheaper than one for each part.
        self.all_finite = _is_finite((logits, values, image_grad))
        return [self._answer(i, logits, values, image_grad, kept, act_grads) for i in range(len(self.parts))]

    def _map(self, x: Tensor, place: Place, layer: str) -> Tensor:
        """A layer's tensor, in any precision, as maps [n, C, h, w] or vectors [n, C]. Raises NotApplicable."""
        x = x.to(self.model.dtype)
        card, size = self.model.card, (self.images.shape[2], self.images.shape[3])
        known = card.layer(layer)
        if known is None or place.side == "input":  # The card describes outputs only.
            layout, kinds = layout_of((ROWS, *x.shape[1:]), size), card.tokens
            layout = "tokens" if layout == "other" and x.dim() == 3 and kinds else layout
            if layout == "other" and x.dim() > 2:
                raise NotApplicable(f"what goes into layer {layer!r} is neither a map nor a vector; name another layer")
        else:
            layout, kinds = known.layout, (known.tokens,)
        if layout != "tokens":
            return as_map(x, layout)
        grids = {kind.at(x.shape[1], size, (card.height, card.width)) for kind in kinds} - {None}
        if len(grids) != 1:
            text = f"layer {layer!r}: its {x.shape[1]} tokens are no grid on an input of {size[1]}x{size[0]}"
            raise NotApplicable(f"{text}; send a picture of {card.width}x{card.height}, or name another layer")
        return as_map(x, layout, grids.pop())

    def _with_all_rows(self, x: Tensor, layer: str) -> Tensor:
        """Returns x unchanged if it has a row for each of the batch's. Raises NotApplicable otherwise."""
        if x.shape[:1] != (self.rows,):
            raise NotApplicable(
                f"layer {layer!r} mixes images with positions in its first dimension; name another layer"
            )
        return x

    def _places(self) -> dict[Place, str]:
        """Every place that a part taps or scores, with the name of its layer."""
        queries = [part.query for part in self.parts]
        scored = [layer for query in queries if query.objective for layer in query.objective.layers]
        wanted: list[tuple[str, Side]] = [(layer, "output") for layer in scored]
        wanted += [(tap.layer, side) for q in queries for tap in q.taps for side in tap.sides]
        return {self.model.place(layer, side): layer for layer, side in wanted}

    def _forward(self, places: Mapping[Place, str]) -> tuple[Tensor | None, dict[Place, Tensor]]:
        stop = None
        # Only outputs come in the order of the layers: a container's input comes before what is inside of it.
        outputs_only = all(place.side == "output" for place in places)
        if outputs_only and not any(part.query.reads_logits for part in self.parts):
            stop = self.model.place(self.model.deepest(places.values()))
        taps = Taps(places, leaf=self.wrt == "taps", stop_after=stop)
        rules = [part.query.rule for part in self.parts for _ in part.rows]
        logits = None
        with ExitStack() as stack:
            stack.enter_context(torch.set_grad_enabled(self.wrt != "nothing"))
            if any(rule != "plain" for rule in rules):
                stack.enter_context(ReLURules(rules))
            if layer := self.parts[0].query.permuted:
                stack.enter_context(permuted(self.model.network, self.model.place(layer).module))
            stack.enter_context(taps.listening(self.model.network))  # This also catches the early stop.
            regions = [part.query.region for part in self.parts for _ in part.rows]
            logits = self.model(self.images, rules, regions)
        if missing := [layer for place, layer in places.items() if place not in taps.kept]:
            raise NotApplicable(f"layer {missing[0]!r} did not run on this input; name another layer")
        return logits, taps.kept

    def _values(self, logits: Tensor | None, kept: Mapping[Place, Tensor]) -> Tensor | None:
        objectives = [
            (part.query.objective, span)
            for part, span in zip(self.parts, self.spans, strict=True)
            if part.query.objective is not None
        ]
        if not objectives:
            return None
        layers = {layer for objective, _ in objectives for layer in objective.layers}  # Two names may mean one place.
        places = {layer: self.model.place(layer) for layer in layers}
        outputs = {
            layer: self._map(self._with_all_rows(kept[place], layer), place, layer) for layer, place in places.items()
        }
        if logits is not None:
            outputs[""] = logits
        with torch.set_grad_enabled(self.wrt != "nothing"):
            return score(objectives, self.rows, outputs, self.model.card.head)

    def _backward(
        self, values: Tensor | None, kept: Mapping[Place, Tensor]
    ) -> tuple[Tensor | None, dict[Place, Tensor]]:
        """Gradients by the image and by the tapped places, zero where the values do not depend on them."""
        if values is None or self.wrt == "nothing":
            return None, {}
        tapped = {self.model.place(tap.layer, tap.sides[-1]) for part in self.parts for tap in part.query.taps}
        wanted: list[Tensor] = [kept[place] for place in tapped]
        if self.wrt == "image":
            wanted.append(self.images)
        inputs = [x for x in wanted if x.requires_grad] if values.requires_grad else []
        computed = iter(torch.autograd.grad(values.sum(), inputs, allow_unused=True) if inputs else ())
        grads = [next(computed) if inputs and x.requires_grad else None for x in wanted]
        filled = [torch.zeros_like(x) if g is None else g for x, g in zip(wanted, grads, strict=True)]
        image_grad = filled.pop() if self.wrt == "image" else None
        return image_grad, dict(zip(tapped, filled, strict=True))

    def _detach_from_batch(self, part: Tensor) -> Tensor:
        """A copy of the part, which as a view would keep the whole batch in memory; itself if it is the only part."""
        return part if len(self.parts) == 1 else part.clone()

    def _answer(
        self,
        i: int,
        logits: Tensor | None,
        values: Tensor | None,
        image_grad: Tensor | None,
        kept: Mapping[Place, Tensor],
        grads: Mapping[Place, Tensor],
    ) -> Answer:
        query, rows = self.parts[i].query, slice(self.spans[i].start, self.spans[i].stop)
        tapped = [self._tapped(tap, rows, kept, grads) for tap in query.taps]
        acts, act_grads = tuple(act for act, _ in tapped), tuple(grad for _, grad in tapped)
        own_logits = None if logits is None else logits.detach()[rows]
        terms = None
        if values is not None and query.objective is not None:
            terms = values.detach()[rows, : len(query.objective.terms)]
        value = None if terms is None else terms.sum(1)
        own_grad = None if image_grad is None else self._detach_from_batch(image_grad[rows])
        relevance = None
        if own_grad is not None and isinstance(query.rule, Relevance):
            relevance = self._relevance(query.rule, rows, own_grad)
        # What the check of all rows covers need not be checked again; what a tap's `reduce` made is checked here.
        unchecked = (*acts, *act_grads) if self.all_finite else (own_logits, value, own_grad, *acts, *act_grads)
        return Answer(own_logits, value, own_grad, acts, act_grads, _is_finite(unchecked), terms, relevance)

    def _relevance(self, rule: Relevance, rows: slice, gradient: Tensor) -> Tensor:
        """The relevance of pixels, which the normalisation hands back like a linear layer with a bias."""
        return gradient * (self.model.std if rule.input != "same" else self.images.detach()[rows] - self.model.mean)

    def _tapped(
        self, tap: Tap, rows: slice, kept: Mapping[Place, Tensor], grads: Mapping[Place, Tensor]
    ) -> tuple[Tensor, Tensor | None]:
        """The activation and its gradient, or what the tap's reduce makes of them."""
        first, last = (self.model.place(tap.layer, tap.sides[i]) for i in (0, -1))
        act, grad = self._with_all_rows(kept[first].detach(), tap.layer)[rows], grads.get(last)
        grad = None if grad is None else grad[rows]
        if tap.side != "weight":
            act = self._map(act, first, tap.layer)
            grad = None if grad is None else self._map(grad, last, tap.layer)
        if tap.reduce is None:
            return act, grad
        return tap.reduce(act, torch.zeros_like(act) if grad is None else grad), None


def _is_finite(tensors: Iterable[Tensor | None]) -> bool:
    """Whether every number is finite. Sums are checked first, as that is cheapest; a sum alone may also overflow."""
    present = [t for t in tensors if t is not None]
    if not present or bool(torch.stack([t.sum(dtype=torch.float32) for t in present]).isfinite().all()):
        return True
    return all(bool(t.isfinite().all()) for t in present)
