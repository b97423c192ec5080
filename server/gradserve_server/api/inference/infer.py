"""ModelInfer: each row of its tensor becomes a Predict request, an Explain request or both."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import grpc
import numpy as np

from gradserve.v1 import common_pb2 as pb
from gradserve.v1 import explain_pb2, predict_pb2

from ...methods.explain import ExplainArguments, Explained, rows_of
from ...models.card import ModelCard
from ...models.served import ServedModels
from ...pool.wire import Outcome
from ..errors import RequestError, Violations, clipped, inapplicable, shown
from ..reply import target_message, target_name
from ..request import Bound, CallContext, model_card, model_of
from ..rpcs import explain, predict
from ..rpcs.explanation import warnings_of
from .outputs import WantedOutput, add_output, class_outputs, reply_bytes, wanted_outputs
from .parameters import MAX_CHARACTERS, InferRequest
from .tensors import NAME, InputTensor, read_tensor
from .v2 import inference_pb2 as v2

MAX_WARNINGS_BYTES = 2000
NO_MODEL = ("UNKNOWN_MODEL", "MODEL_UNAVAILABLE")  # Reasons that are told together with what else is wrong.
POSITIONS = (
    "{name} gives a score for each position, and this protocol is for networks that give one for each picture; Explain "
    "and Attack of gradserve.v1.GradientService take {name}, with a region"
)
# Fields of the requests that rows become, and those of ModelInfer that they come from.
FIELDS = (
    (r"model", "model_name"),
    (r"image", "inputs[0]"),
    (r"targets.*", "parameters.target"),
    (r"methods\[0\]\.\w+\.(\w+)", r"parameters.\1"),
    (r"methods.*", "parameters.explain"),
    (r"options\.time_budget", "parameters.timeout"),
    (r"(?:options\.)?(.*)", r"parameters.\1"),
)


class Row(NamedTuple):
    """What is asked of one picture."""

    predict: Bound | None
    explain: Bound | None

    @property
    def parts(self) -> tuple[Bound, ...]:
        """Those that are there."""
        return tuple(part for part in self if part is not None)


@dataclass(frozen=True, slots=True)
class BoundRows(Bound):
    """A checked request; its `task` has the costs of all rows, and each part of a row has a task of its own."""

    rows: tuple[Row, ...] = ()
    outputs: tuple[WantedOutput, ...] = ()


def card_of(name: str, version: str, models: ServedModels) -> ModelCard:
    """The card of a model. Raises NOT_FOUND, for a version that is not its digest too, FAILED_PRECONDITION.

    The latter also for networks that give a score for each position: no parameter can name the region that is meant.
    """
    card = model_card(name, models)
    _check_scores(card)
    if version not in ("", card.digest):
        text = f"there is no version {shown(version)} of {card.name}; it is {card.digest}, or leave it out"
        raise RequestError(grpc.StatusCode.NOT_FOUND, "UNKNOWN_VERSION", text)
    return card


def _check_scores(card: ModelCard) -> None:
    if card.positions:
        raise inapplicable(POSITIONS.format(name=card.name))


def bind(request: InferRequest, at: CallContext) -> BoundRows:
    """Checks the request, and makes the tasks of its rows. Raises RequestError with all that is wrong."""
    named = at.cards.get(request.model or at.cards.default)
    if named is not None:
        _check_scores(named)
    violations = Violations()
    violations.invalid += request.violations.invalid
    tensor = read_tensor(request.message, violations)
    outputs = wanted_outputs(request.message, request.explains, violations)
    if len(request.message.id) > MAX_CHARACTERS:
        text = f"must have at most {MAX_CHARACTERS} characters, had {len(request.message.id)}"
        violations.add("id", text)
    refusal: RequestError | None = None
    rows = list[Row]()
    count = tensor.rows if tensor is not None else 1
    for i in range(count if at.decode else 1):
        try:
            rows.append(_row(request, tensor, i, replace(at, request_id=f"{at.request_id}.{i}")))
        except RequestError as error:
            if error.code is not grpc.StatusCode.INVALID_ARGUMENT:
                refusal = error
                break
            _add(error, f"{NAME}, row {i}: " if count > 1 else f"{NAME}: ", violations)
    if refusal is not None and violations.invalid and refusal.reason in NO_MODEL:
        violations.invalid.insert(0, ("model_name", refusal.text))
    violations.check()
    if refusal is not None:
        raise refusal
    card = card_of(request.model, request.message.model_version, at.cards)
    bound = _whole(rows, count, outputs, card)
    _check_sums(bound, count, predict.top_k_of(request.predict), violations)
    violations.check()
    return bound


def _row(request: InferRequest, tensor: InputTensor | None, row: int, at: CallContext) -> Row:
    """The requests of one row, bound. Raises RequestError."""
    # Numbers are the model's input already, unless the request says otherwise; files are preprocessed.
    as_is = tensor is None or not tensor.encoded
    common: dict[str, Any] = {
        "model": request.model,
        "image": _black(request.model, at) if tensor is None else tensor.picture(row),
        "preprocess": request.predict.preprocess or (pb.PREPROCESS_AS_IS if as_is else pb.PREPROCESS_UNSPECIFIED),
        "options": request.options,
    }
    prediction = explanation = None
    if "Predict" in request.rpcs:
        top_k = request.predict.top_k if request.predict.HasField("top_k") else None
        prediction = predict.bind(predict_pb2.PredictRequest(**common, top_k=top_k), at)
    if request.method.WhichOneof("method"):
        at = replace(at, request_id=f"{at.request_id}.map", picture=prediction.picture if prediction else None)
        wanted = explain_pb2.ExplainRequest(**common, methods=[request.method], targets=request.targets)
        explanation = explain.bind(wanted, at)
    return Row(prediction, explanation)


def _black(name: str, at: CallContext) -> pb.Image:
    """A picture in place of one that cannot be read, so that all else is checked."""
    card, _ = model_of(name, at.cards)
    shape = (card.height, card.width, 3)
    return pb.Image(tensor=pb.Tensor(shape=shape, dtype=pb.DTYPE_UINT8, data=np.zeros(shape, np.uint8).tobytes()))


def _add(error: RequestError, where: str, violations: Violations) -> None:
    """Adds what is wrong with a row's request, by the fields of ModelInfer."""
    for field, text in error.violations:
        if field:  # An empty one stands for those that are left out of a long list.
            matches = ((re.fullmatch(pattern, field), name) for pattern, name in FIELDS)
            own = next(match.expand(name) for match, name in matches if match)
            violations.add(own, where + text if field == "image" else text)


def _whole(rows: Sequence[Row], count: int, outputs: Sequence[WantedOutput], card: ModelCard) -> BoundRows:
    """All rows as one bound request, whose task has the sum of their costs.

    Where pictures are not decoded there is one row, which stands for all.
    """
    parts = [part for row in rows for part in row.parts]
    times = count / len(rows)
    first = parts[0]
    task = replace(
        first.task,
        cost=times * sum(part.task.cost for part in parts),
        least_cost=max(part.task.least_cost for part in parts),  # Workers share the rows.
    )
    methods = tuple(dict.fromkeys(method for part in parts for method in part.methods))
    return BoundRows(task, card, first.picture, methods, rows=tuple(rows), outputs=tuple(outputs))


def _check_sums(bound: BoundRows, count: int, top_k: int, violations: Violations) -> None:
    """Violations where the rows together are more than a request may have, or differ in size.

    The price of a request whose pictures are not decoded is that of its first row for each, so that all have one size.
    """
    shapes = {part.task.image.shape[:2] for row in bound.rows for part in row.parts}
    if len(shapes) > 1:
        text = f"the pictures of {NAME} differ in size; send pictures of one size, or another preprocess"
        violations.add("inputs[0]", text)
    size = reply_bytes(bound.outputs, count, max(shapes), top_k, bound.card)
    if size > explain.MAX_MAP_BYTES:
        limit = f"a reply carries {explain.MAX_MAP_BYTES >> 20} MiB; send fewer rows at once, or name fewer outputs"
        text = f"the outputs of the {count} rows of {NAME} may take {size / 2**20:.1f} MiB"
        violations.add("inputs[0]", f"{text}; {limit}")
    passes = sum(
        rows_of(call, (task.image.shape[0], task.image.shape[1]), bound.card)
        for task in (row.explain.task for row in bound.rows if row.explain is not None)
        for call in task.arguments.calls
    )
    passes = passes * count // len(bound.rows)
    explain.check_passes(passes, "inputs[0]", f"the {count} rows of {NAME}", violations)


def reply(
    request: InferRequest, bound: BoundRows, outcomes: Sequence[Outcome], request_id: str
) -> v2.ModelInferResponse:
    """The outputs in the order in which they were asked for; `outcomes` are those of the rows' parts."""
    results = iter(outcome.result for outcome in outcomes)
    logits, maps = list[np.ndarray](), list[Explained]()
    for row in bound.rows:
        if row.predict is not None:
            logits.append(next(results).logits)
        if row.explain is not None:
            maps += next(results)
    response = v2.ModelInferResponse(model_name=bound.card.name, model_version=bound.card.digest, id=request.message.id)
    response.parameters["request_id"].string_param = request_id
    raw = bool(request.message.raw_input_contents)
    tensors = class_outputs(bound.outputs, logits, predict.top_k_of(request.predict), bound.card)
    for output in bound.outputs:
        if output.name == "map":
            _add_maps(response, maps, bound, raw=raw)
        else:
            add_output(response, output.name, tensors[output.name], raw=raw)
    return response


def _add_maps(response: v2.ModelInferResponse, maps: Sequence[Explained], bound: BoundRows, *, raw: bool) -> None:
    """Adds the maps [N, H, W], with the method, the target of each, and the warnings with the rows that have them."""
    output = add_output(response, "map", np.stack([each.values for each in maps]).astype("<f4"), raw=raw)
    targets = [target_name(target_message(each.target), bound.card) for each in maps]
    output.parameters["targets"].string_param = json.dumps(targets, ensure_ascii=False)
    rows_by_warning = dict[str, list[int]]()
    for i, (row, each) in enumerate(zip(bound.rows, maps, strict=True)):
        assert row.explain is not None, "there is a map of each row"
        arguments: ExplainArguments = row.explain.task.arguments
        (call,) = arguments.calls
        output.parameters["method"].string_param = call.method
        for warning in dict.fromkeys(warnings_of(call, each, bound.card)):
            rows_by_warning.setdefault(warning, []).append(i)
    if rows_by_warning:
        named = (f"row {', '.join(map(str, rows))}: {warning}" for warning, rows in rows_by_warning.items())
        text = "; ".join(named)
        output.parameters["warnings"].string_param = clipped(text, MAX_WARNINGS_BYTES)
