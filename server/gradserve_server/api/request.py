"""What the RPCs share on the way from a request to a task. One error reports all that is wrong."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

import numpy as np

from gradserve.v1 import common_pb2 as pb

from ..config import LimitSettings
from ..engine.job import Priority
from ..methods.explain import Call
from ..models.card import ModelCard, Precision, Rpc
from ..models.served import ServedModels
from ..pool.forecast import Prospect
from ..pool.wire import Task
from .admission.callers import NOBODY, Caller
from .directions import NO_DIRECTIONS, Directions
from .errors import RequestError, Violations, late, model_unavailable, unknown_model
from .fields import choice
from .pictures import images

# Time reserved for the reply: seconds of the request's own time budget, or a share of the time that its gRPC deadline
# leaves, which is at most MAX_REPLY_SECONDS.
REPLY_MARGIN_SECONDS = 0.02
REPLY_SHARE, MAX_REPLY_SECONDS = 0.1, 0.25

PRIORITIES: Mapping[int, Priority] = {0: "interactive", 1: "interactive", 2: "batch"}
PRECISIONS: Mapping[int, Literal["auto"] | Precision] = {0: "auto", 1: "exact", 2: "balanced", 3: "fast"}
POSITIONS = (
    "{name} gives a score for each position, and this call is for networks that give one for each picture; Explain and "
    "Attack take {name}, with a region"
)
PREPROCESSES: Mapping[int, pb.Preprocess] = {
    pb.PREPROCESS_UNSPECIFIED: pb.PREPROCESS_MODEL_DEFAULT,
    pb.PREPROCESS_MODEL_DEFAULT: pb.PREPROCESS_MODEL_DEFAULT,
    pb.PREPROCESS_WHOLE_IMAGE: pb.PREPROCESS_WHOLE_IMAGE,
    pb.PREPROCESS_AS_IS: pb.PREPROCESS_AS_IS,
}


class PictureRequest(Protocol):
    """A request about one picture."""

    image: pb.Image
    preprocess: pb.Preprocess
    options: pb.RequestOptions


@dataclass(frozen=True, slots=True)
class Bound:
    """A checked request: the task for the pool and what its reply will need."""

    task: Task
    card: ModelCard
    picture: images.ModelInput
    methods: tuple[str, ...] = ()  # The names that the access log shows.
    maps: tuple[Call, ...] = ()  # The maps of an attack's two pictures.
    regions: tuple[pb.Region, ...] = ()  # Those of a batch's pictures, of which `picture` is the first.
    small_reply: bool = False  # Whether the reply takes less time to make than to hand to a thread.
    reply_gflop: float = 0.0  # The work of making the reply; above 0 where it is so much that callers must take turns.
    directions: Directions = NO_DIRECTIONS  # Where the reply stores its direction, if the request asks for that.


@dataclass(frozen=True, slots=True)
class CallContext:
    """What surrounds a request: its id, caller, when it came, the seconds its call then had, the models, the limits.

    `decode`: whether pictures are decoded. If not, a black one of the right size stands in for a request's picture,
    which suffices to know what the request costs. `picture`: the request's picture, where another request of the same
    call had it decoded already.
    """

    request_id: str
    arrived: float
    remaining: float | None
    cards: ServedModels
    limits: LimitSettings
    caller: Caller = NOBODY
    decode: bool = True
    picture: images.ModelInput | None = None
    directions: Directions = NO_DIRECTIONS  # Those that the caller keeps.


def model_card(name: str, cards: ServedModels) -> ModelCard:
    """The card of that name, or of the default model. Raises NOT_FOUND, FAILED_PRECONDITION if it was not loaded."""
    check_loaded(name or cards.default, cards, is_default=not name)
    card = cards.get(name or cards.default)
    if card is None:
        raise unknown_model(name or cards.default, cards, cards.unavailable)
    return card


def model_of(name: str, cards: ServedModels, *, positions: bool = False) -> tuple[ModelCard, Violations]:
    """The card of that name, or of the default model, and the collector of the request's violations.

    Where that model is missing, another model's card stands in, so that the request's other fields can be checked;
    `check` of the collector then raises an error in any case.

    `positions`: whether the call takes networks that give a score for each position; if not, it does not apply to them.
    """
    try:
        card, violations = model_card(name, cards), Violations()
        if card.positions and not positions:
            violations.not_applicable(POSITIONS.format(name=card.name))
        return card, violations
    except RequestError as error:
        if not cards:  # The caller may use none of those that are loaded.
            raise
        return next(iter(cards.values())), Violations(no_model=error)


def check_loaded(name: str, cards: ServedModels, *, is_default: bool = False) -> None:
    """Raises FAILED_PRECONDITION for a model of the configuration that could not be loaded."""
    if reason := cards.unavailable.get(name):
        raise model_unavailable(name, reason, cards if is_default else ())


def check_picture(
    request: PictureRequest, card: ModelCard, at: CallContext, violations: Violations
) -> images.ModelInput:
    """The request's picture as the model gets it; a black one, with a violation, where it cannot be used."""
    choice(pb.Preprocess.DESCRIPTOR, request.preprocess, "preprocess", violations)
    if at.picture is not None:
        return at.picture
    how = PREPROCESSES.get(request.preprocess, pb.PREPROCESS_MODEL_DEFAULT)
    return read_picture(request.image, how, card, at, violations, quick=request.options.quick_decode)


def read_picture(
    image: pb.Image,
    how: pb.Preprocess,
    card: ModelCard,
    at: CallContext,
    violations: Violations,
    path: str = "image",
    *,
    quick: bool = False,
) -> images.ModelInput:
    """A picture as the model gets it; a black one, with a violation of the field `path`, where it cannot be used."""
    if not at.decode:
        size = images.header_size(image) if how == pb.PREPROCESS_AS_IS else None
        if size is None or not images.fits(*size, card, at.limits):
            size = card.height, card.width
        return images.ModelInput(np.broadcast_to(np.uint8(0), (*size, 3)), pb.Region())
    picture = images.model_input(image, card, how, at.limits, violations, path, quick=quick)
    if picture is None:
        return images.ModelInput(np.zeros((card.height, card.width, 3), np.uint8), pb.Region())
    return picture._replace(preprocess=how)


@dataclass(frozen=True, slots=True)
class CheckedOptions:
    """The options of an RPC's request, and the precision and the deadline that they give."""

    rpc: Rpc
    options: pb.RequestOptions
    precision: Precision
    deadline: float  # Seconds of the monotonic clock.


def check_options(
    rpc: Rpc, options: pb.RequestOptions, card: ModelCard, at: CallContext, violations: Violations
) -> CheckedOptions:
    """Precision and deadline; faults become violations."""
    choice(pb.Priority.DESCRIPTOR, options.priority, "options.priority", violations)
    precision = _precision(options.precision, rpc, card, violations)
    if options.HasField("time_budget") and (seconds := _seconds(options.time_budget)) <= 0:
        violations.add("options.time_budget", f"must be above 0 s, was {seconds:g} s", for_every_model=True)
    return CheckedOptions(rpc, options, precision, at.arrived + time_budget(options, at.remaining))


def time_budget(options: pb.RequestOptions, remaining: float | None) -> float:
    """Seconds that a request may take until its reply is made, infinite without a limit.

    `remaining`: those until the deadline of its call, if that has one.
    """
    budget = float("inf")
    if remaining is not None:
        budget = remaining - min(MAX_REPLY_SECONDS, max(REPLY_MARGIN_SECONDS, REPLY_SHARE * remaining))
    if options.HasField("time_budget"):
        budget = min(budget, _seconds(options.time_budget) - REPLY_MARGIN_SECONDS)
    return budget


def _seconds(duration: Any) -> float:
    return float(duration.seconds + duration.nanos / 1e9)


def in_exact(checked: CheckedOptions, what: str, violations: Violations) -> CheckedOptions:
    """The options in EXACT, which AUTO then means; a violation where the request names another precision."""
    named = PRECISIONS.get(checked.options.precision, "auto")
    if named not in ("auto", "exact"):
        violations.not_applicable(
            f"{what} is computed in EXACT alone, since its many small numbers do not bear half precision, and "
            f"options.precision was {named.upper()}; name EXACT, or leave it out"
        )
    return replace(checked, precision="exact")


def _precision(number: int, rpc: Rpc, card: ModelCard, violations: Violations) -> Precision:
    choice(pb.Precision.DESCRIPTOR, number, "options.precision", violations)
    precision = PRECISIONS.get(number, "auto")
    if precision != "auto" and precision not in card.precisions:
        loaded = ", ".join(["AUTO", *(p.upper() for p in card.precisions)])
        reason = card.absent.get(precision, "")
        because = f": {reason}" if reason else ""
        violations.not_applicable(f"{card.name} is not loaded in {precision.upper()}{because}; there are: {loaded}")
    return card.auto.get(rpc, "exact") if precision == "auto" else precision


def least_prospect(request: Any, cards: ServedModels, caller: Caller) -> Prospect:
    """What is known of a request before anything in it is checked; it costs nothing yet."""
    options, model = request.options, request.model or cards.default
    precision, card = PRECISIONS.get(options.precision, "auto"), cards.get(model)
    if precision == "auto":
        word: Any = type(request).__name__.removesuffix("Request").lower()
        precision = card.auto.get(word, "exact") if card else "exact"
    interactive = PRIORITIES.get(options.priority) == "interactive"
    return Prospect(*caller, interactive, model, precision, 0.0, options.alone)


def area(pixels: np.ndarray, card: ModelCard) -> float:
    """The area of an image [H, W, 3] as a multiple of the model's own; its cost is proportional to it."""
    return float(pixels.shape[0] * pixels.shape[1] / (card.height * card.width))


def task_of(
    checked: CheckedOptions,
    card: ModelCard,
    pixels: np.ndarray,
    arguments: Any,
    cost: float,
    at: CallContext,
    *,
    may_end_early: bool = False,
) -> Task:
    """The task of a checked request, on an image [H, W, 3]. Raises RequestError if its time is up already.

    `may_end_early`: it may take less than its cost.
    """
    options = checked.options
    task = Task(
        id=at.request_id,
        rpc=checked.rpc,
        model=card.name,
        image=pixels,
        arguments=arguments,
        precision=checked.precision,
        priority=PRIORITIES[options.priority],
        seed=options.seed if options.HasField("seed") else 0,
        arrived=at.arrived,
        deadline=checked.deadline,
        allow_partial=options.allow_partial,
        cost=cost,
        least_cost=0.0 if may_end_early else cost,
        caller=at.caller.name,
        weight=at.caller.weight,
        alone=options.alone,
        generation=at.cards.generation,
    )
    if time.monotonic() >= checked.deadline:
        raise late()
    return task
