"""Influence: from its request to a task, from the outcome to its reply. Suspects reads the same indexes."""

import math
from dataclasses import replace
from typing import Any

from gradserve.v1 import influence_pb2

from ...engine.costs import passes_cost
from ...methods.indexes.folder import IndexFault
from ...methods.influence import EstimateName, IndexedModel, InfluenceArguments, Influenced, Reweighting
from ...methods.influence.index import Index, opened
from ...methods.influence.indexing.plan import no_influence
from ...models.card import ModelCard
from ...models.served import ServedModels
from ...pool.wire import Outcome
from ..arguments.targets import single_target
from ..errors import Violations, near, shown
from ..fields import choice, enum_value
from ..reply import provenance
from ..request import (
    PRECISIONS,
    Bound,
    CallContext,
    area,
    check_loaded,
    check_options,
    check_picture,
    model_of,
    task_of,
)

DEFAULT_TOP, MAX_TOP = 8, 100  # Numbers of helpful examples, and of harmful ones.
MAX_QUESTIONS = 16  # The most what-ifs of a request.
MAX_ROWS = 100_000  # The most examples that one what-if gives another weight.
MAX_MEMBERS = 15  # The most models that `ensemble` names.
MAX_WEIGHT = 1000.0
GOAL = influence_pb2.DESCRIPTOR.enum_types_by_name["InfluenceGoal"]
FLOATS = ("loss", "self_influence", "parameter_change", "disagreement", "suspicion")


def bind(request: influence_pb2.InfluenceRequest, at: CallContext) -> Bound:
    """Checks the request, and makes its task. Raises RequestError with all that is wrong."""
    card, violations = model_of(request.model, at.cards)
    picture = check_picture(request, card, at, violations)
    options = check_options("influence", request.options, card, at, violations)
    if PRECISIONS.get(request.options.precision) not in ("auto", "exact", None):
        violations.not_applicable("influence is computed in EXACT only; leave options.precision at AUTO or EXACT")
    label, rank = _label(request, card, violations)
    goal: Any = choice(GOAL, request.goal, "goal", violations) or "loss"
    top = top_of(request, DEFAULT_TOP, MAX_TOP, violations)
    index = index_of(card, violations)
    method = _method(request.method, index, card, violations)
    members = _members(request, card, method, at.cards, violations)
    # The price does not depend on what-ifs, and it would take long to look through all that are allowed.
    what_if = _questions(request, method, index, violations) if at.decode else ()
    newton = request.method.last_layer.newton if request.method.last_layer.HasField("newton") else True
    violations.check()
    forwards = card.gflop if label is None and len(members) > 1 else 0.0
    cost = (passes_cost(card.gflop, "image") * len(members) + forwards) * area(picture.pixels, card)
    arguments = InfluenceArguments(members, method, goal, label, rank, top, what_if, newton)
    has_ensemble = len(members) > 1  # Its members may be cheaper than this model.
    exact = replace(options, precision="exact")
    task = task_of(exact, card, picture.pixels, arguments, cost, at, may_end_early=has_ensemble)
    return Bound(task, card, picture, (method,))


def index_of(card: ModelCard, violations: Violations) -> Index | None:
    """The model's index, or None with a refusal that says how to build one."""
    if not card.index:
        violations.not_applicable(no_index(card))
        return None
    try:
        return opened(card.index, card.index_digest)
    except IndexFault as error:
        violations.not_applicable(str(error))
        return None


def no_index(card: ModelCard) -> str:
    """Why Influence does not apply, or nothing."""
    if card.index:
        return ""
    build = f"gradserve index --model {card.name} --data TRAINING_SET --out FOLDER"
    missing = f'{card.name} has no influence index; build one with `{build}` and serve it with index = "FOLDER"'
    return no_influence(card) or missing


def _label(request: influence_pb2.InfluenceRequest, card: ModelCard, violations: Violations) -> tuple[int | None, int]:
    """A class, or a rank among the predicted ones."""
    if (kind := request.label.WhichOneof("kind")) in ("unit", "contrast", "similarity", "direction"):
        violations.add("label", f"must be a class_index, a class_name or a rank, not a {kind}", for_every_model=True)
        return None, 1
    target = single_target(request.label, card, "label", True, violations)
    return (None, 1) if target is None else (target.label, target.rank or 1)


def _method(
    message: influence_pb2.InfluenceMethod, index: Index | None, card: ModelCard, violations: Violations
) -> EstimateName:
    available = index.manifest.methods if index else ()
    method: Any = message.WhichOneof("method") or (available[0] if available else "")
    if available and method not in available:
        violations.not_applicable(f"{method} does not apply to {card.name}: its index has {', '.join(available)}")
    return method  # type: ignore[no-any-return]


def _members(
    request: influence_pb2.InfluenceRequest,
    card: ModelCard,
    method: str,
    cards: ServedModels,
    violations: Violations,
) -> tuple[IndexedModel, ...]:
    """The model and its ensemble, all of the same examples."""
    names = list(request.ensemble)
    if len(names) > MAX_MEMBERS:
        violations.add("ensemble", f"must be at most {MAX_MEMBERS} models, were {len(names)}", for_every_model=True)
        names = []
    members = [card]
    for i, name in enumerate(names):
        check_loaded(name, cards)
        other = cards.get(name)
        if other is None:
            violations.add(
                f"ensemble[{i}]", f"there is no model {shown(name)}; {near(name, cards)}", for_every_model=True
            )
        elif other in members:
            violations.add(f"ensemble[{i}]", f"{name} is in the ensemble already")
        else:
            members.append(other)
            _check_member(card, other, method, f"ensemble[{i}]", violations)
    return tuple(IndexedModel(each.name, each.index, each.head, each.index_digest) for each in members)


def _check_member(card: ModelCard, other: ModelCard, method: str, path: str, violations: Violations) -> None:
    own, theirs = index_of(card, violations), index_of(other, violations)
    if own is None or theirs is None:
        return
    ours = own.manifest
    if (theirs.manifest.dataset, theirs.manifest.count) != (ours.dataset, ours.count):
        why = f"the indexes of {card.name} and {other.name} are of different examples"
        violations.not_applicable(f"{path}: {why}; leave {other.name} out, or index it with the same --data")
    elif other.head != card.head:
        why = f"{card.name} has the head {card.head}, and {other.name} has {other.head}"
        violations.not_applicable(f"{path}: {why}; name a model with the head {card.head}")
    elif theirs.manifest.classes != ours.classes:
        why = f"{card.name} has {ours.classes} classes, and {other.name} has {theirs.manifest.classes}"
        violations.not_applicable(f"{path}: {why}; name a model of the same classes")
    elif method not in theirs.manifest.methods:
        both = ", ".join(each for each in ours.methods if each in theirs.manifest.methods)
        why = f"the index of {other.name} has no {method}"
        violations.not_applicable(f"{path}: {why}; leave {other.name} out, or ask by a method that both have: {both}")


def _questions(
    request: influence_pb2.InfluenceRequest, method: str, index: Index | None, violations: Violations
) -> tuple[Reweighting, ...]:
    """What-ifs, checked."""
    if len(request.what_if) > MAX_QUESTIONS:
        violations.add("what_if", f"must be at most {MAX_QUESTIONS}, were {len(request.what_if)}", for_every_model=True)
        return ()
    if request.what_if and method == "neighbours":
        violations.add("what_if", "neighbours predicts no changes; ask projected or last_layer")
    questions = []
    for i, each in enumerate(request.what_if):
        path, weight = f"what_if[{i}]", each.weight if each.HasField("weight") else -1.0
        if not (math.isfinite(weight) and -1 <= weight <= MAX_WEIGHT):
            violations.add(f"{path}.weight", f"must be from -1 to {MAX_WEIGHT:g}, was {weight:g}", for_every_model=True)
        if not 1 <= len(each.rows) <= MAX_ROWS:
            violations.add(f"{path}.rows", f"must be 1 to {MAX_ROWS} rows, were {len(each.rows)}", for_every_model=True)
        elif len(set(each.rows)) < len(each.rows):
            violations.add(f"{path}.rows", "must name each row once", for_every_model=True)
        elif index is not None and max(each.rows) >= len(index):
            violations.add(f"{path}.rows", f"must be from 0 to {len(index) - 1}, was {max(each.rows)}")
        questions.append(Reweighting(tuple(each.rows), weight))
    return tuple(questions)


def top_of(
    request: influence_pb2.InfluenceRequest | influence_pb2.SuspectsRequest,
    default: int,
    most: int,
    violations: Violations,
) -> int:
    """How many examples are asked for."""
    top = request.top if request.HasField("top") else default
    if not 1 <= top <= most:
        violations.add("top", f"must be from 1 to {most}, was {top}", for_every_model=True)
    return top


def reply(request: influence_pb2.InfluenceRequest, bound: Bound, outcome: Outcome) -> influence_pb2.InfluenceResponse:
    """The examples with their predicted changes."""
    influenced: Influenced = outcome.result
    arguments: InfluenceArguments = bound.task.arguments
    index = opened(bound.card.index, bound.card.index_digest)
    similar = arguments.method == "neighbours"
    thumbnails = not request.HasField("thumbnails") or request.thumbnails
    message = influence_pb2.InfluenceResponse(
        what_if=influenced.what_if,
        label=influenced.label,
        label_name=bound.card.classes[influenced.label],
        probability=influenced.probability,
        value=influenced.value,
        goal=enum_value(GOAL, arguments.goal),
        method_name=arguments.method,
        examples=len(index),
        noise_floor=0.0 if similar else influenced.floor,
        coverage=coverage(index, arguments.method),
        region=bound.picture.region,
        provenance=provenance(bound, outcome),
    )
    method = getattr(message.method, arguments.method)
    method.SetInParent()
    if arguments.method == "last_layer":
        method.newton = arguments.newton
    rows = [(message.helpful, row) for row in influenced.helpful] + [
        (message.harmful, row) for row in influenced.harmful
    ]
    for i, (examples, row) in enumerate(rows):
        example = training_example(index, bound.card, int(row), thumbnail=thumbnails)
        if similar:
            example.similarity = float(influenced.scores[i])
        else:
            example.change = float(influenced.scores[i])
        if influenced.corrected is not None:
            example.newton_change = float(influenced.corrected[i])
        examples.append(example)
    message.provenance.warnings.extend(() if similar else index.manifest.warnings)
    return message


def coverage(index: Index, method: str) -> float:
    """Share of the parameters that influence passes through."""
    shares = {"projected": index.manifest.coverage, "last_layer": index.manifest.head_coverage}
    return shares.get(method, 0.0)


def training_example(index: Index, card: ModelCard, row: int, *, thumbnail: bool) -> influence_pb2.TrainingExample:
    """What the index knows of a row."""
    record = index.columns[row]
    label, predicted = int(record["label"]), int(record["predicted"])
    return influence_pb2.TrainingExample(
        row=row,
        name=index.name(row),
        label=label,
        label_name=card.classes[label],
        predicted=predicted,
        predicted_name=card.classes[predicted],
        thumbnail=index.thumbnail(row) if thumbnail else b"",
        **{name: float(record[name]) for name in FLOATS},
    )
