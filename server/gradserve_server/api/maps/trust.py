"""Trust in maps: what judging them costs, which methods are to be tried on a model, and what is said of both."""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from gradserve.v1 import explain_pb2

from ...engine.costs import passes_cost, rule_cost
from ...methods.explain import METHODS, Call, ExplainArguments, Explained, relevance_of
from ...methods.explain.curves import area
from ...methods.explain.judging import judging_rows
from ...methods.explain.sanity import MAX_CORRELATION, PICTURES, Trial, trial_rows, tried_parameters
from ...methods.explain.trust import Judgement
from ...methods.targets import Contrast, layers_of
from ...models.card import ModelCard

MAX_KNOWN = 1024  # Trials that are remembered.
CLAIM_SECONDS = 120.0  # So long other requests leave a trial to the one that has begun it, and then try for themselves.
INSENSITIVE = (
    "INSENSITIVE: on {model} the maps that {method} gives for {what} stay much the same when the weights of the logits "
    "are shuffled (rank correlation {correlation:.2f} over {pictures} pictures, above {most}), so that they show what "
    "is in the picture rather than what speaks for this target; ask by another method"
)
OR_CONTRAST = ", or for a contrast with another class, whose signs tell the two apart"
KINDS = {"class": "a class", "contrast": "a contrast of classes"}  # Kinds of targets whose methods are tried.
UNTRIED = (
    "UNTRIED: whether the maps of {method} for a class depend on the weights of the logits was not tried, since "
    "{model} does not end in a linear layer or convolution that gives them"
)

TrialKey = tuple[str, str, str, tuple[tuple[str, object], ...]]  # Digest, method, kind of target, parameters.


class KnownTrials:
    """The rank correlations that trials of methods have measured, see `sanity`. Threads may share it."""

    def __init__(self) -> None:
        self._known: OrderedDict[TrialKey, float] = OrderedDict()
        self._claims: dict[TrialKey, float] = {}  # Times when requests began with trials that have not ended.
        self._lock = threading.Lock()

    def get(self, key: TrialKey) -> float | None:
        """The correlation that the trial measured, or None where there was none yet."""
        return self._known.get(key)

    def put(self, key: TrialKey, correlation: float) -> None:
        """Remembers the correlation that a trial measured; the oldest ones are forgotten."""
        with self._lock:
            self._claims.pop(key, None)
            self._known[key] = correlation
            while len(self._known) > MAX_KNOWN:
                self._known.popitem(last=False)

    def is_wanted(self, key: TrialKey, now: float, *, claim: bool = False) -> bool:
        """Whether a trial is neither known nor being made by a request; `claim` notes that a request begins it now."""
        with self._lock:
            wanted = key not in self._known and now - self._claims.get(key, -CLAIM_SECONDS) >= CLAIM_SECONDS
            if wanted and claim:
                self._claims = {each: at for each, at in self._claims.items() if now - at < CLAIM_SECONDS} | {key: now}
            return wanted

    def release(self, keys: Iterable[TrialKey]) -> None:
        """Gives up a request's claims at its end; trials that have measured nothing are wanted again."""
        with self._lock:
            for key in keys:
                self._claims.pop(key, None)


TRIALS = KnownTrials()  # Of this front-end.


@contextmanager
def claimed(
    arguments: ExplainArguments, card: ModelCard, fits: Callable[[ExplainArguments], bool]
) -> Iterator[ExplainArguments]:
    """The arguments, with a trial of those of their methods that were not yet tried on the model, if there are any.

    There is a trial only where maps are to be judged, and where `fits` says that the arguments with the trial are not
    too much. Until the end of the `with` other requests leave these methods to this one. Methods of forward passes
    alone are not tried: they see nothing but the target's values.
    """
    first = dict[TrialKey, int]()
    if arguments.trust and card.logits_layer:
        for i, call in enumerate(arguments.calls):
            if _kind(call) and METHODS[call.method].wrt != "nothing":
                first.setdefault(_key(call, card), i)
    now = time.monotonic()
    keys = [key for key in first if TRIALS.is_wanted(key, now)]
    trial = Trial(card.logits_layer, (card.height, card.width), tuple(first[key] for key in keys))
    if not keys or not fits(replace(arguments, trial=trial)):
        yield arguments
        return
    keys = [key for key in keys if TRIALS.is_wanted(key, now, claim=True)]
    try:
        numbers = tuple(first[key] for key in keys)
        yield replace(arguments, trial=replace(trial, calls=numbers) if numbers else None)
    finally:
        TRIALS.release(keys)


def trust_rows(arguments: ExplainArguments, card: ModelCard) -> int:
    """The rows that judging the maps takes, with the trial."""
    return _judging_rows(arguments) + sum(trial_rows(_tried_rows(call, card)) for call in _tried(arguments))


def judging_cost(arguments: ExplainArguments, card: ModelCard, area: float) -> float:
    """The cost in GFLOP of judging maps of an image that is `area` times as large as the model's own."""
    return _judging_rows(arguments) * passes_cost(card.gflop, "nothing") * area


def trial_cost(arguments: ExplainArguments, card: ModelCard) -> float:
    """The cost in GFLOP of the trial, whose pictures have the model's own size."""
    cost = 0.0
    for call in _tried(arguments):
        price = passes_cost(card.gflop, METHODS[call.method].wrt) * rule_cost(relevance_of(call))
        cost += PICTURES * (passes_cost(card.gflop, "nothing") + 2 * _tried_rows(call, card) * price)
    return cost


def _judging_rows(arguments: ExplainArguments) -> int:
    if not arguments.trust:
        return 0
    return judging_rows([call.region for call in arguments.calls], with_curves=arguments.curves)


def _tried(arguments: ExplainArguments) -> list[Call]:
    return [arguments.calls[i] for i in (arguments.trial.calls if arguments.trial else ())]


def _tried_rows(call: Call, card: ModelCard) -> int:
    return METHODS[call.method].rows(tried_parameters(call.parameters), (card.height, card.width), card)


def learn(calls: Sequence[Call], answers: Sequence[Explained], card: ModelCard) -> None:
    """Remembers what the trials of a request have measured."""
    for call, answer in zip(calls, answers, strict=True):
        if answer.shuffled_correlation is not None:
            TRIALS.put(_key(call, card), answer.shuffled_correlation)


def trial_warnings(call: Call, answer: Explained, card: ModelCard) -> list[str]:
    """A warning where the method's maps of a class hardly depend on the logits' weights.

    Where maps were judged, also a warning that this cannot be tried on the model.
    """
    if not _kind(call):
        return []
    if answer.judgement is not None and not card.logits_layer and METHODS[call.method].wrt != "nothing":
        return [UNTRIED.format(method=call.method, model=card.name)]
    correlation = TRIALS.get(_key(call, card))
    if correlation is None or correlation <= MAX_CORRELATION:
        return []
    facts = {"correlation": correlation, "pictures": PICTURES, "most": MAX_CORRELATION}
    text = INSENSITIVE.format(model=card.name, method=call.method, what=KINDS[_kind(call)], **facts)
    return [text + OR_CONTRAST if relevance_of(call) and _kind(call) == "class" else text]


def trust_message(judgement: Judgement) -> explain_pb2.Trust:
    """A judgement as it stands in a reply."""
    message = explain_pb2.Trust(
        agreement=judgement.agreement,
        chance_p=judgement.chance_p,
        centre_agreement=judgement.centre_agreement,
        verdict=f"TRUST_VERDICT_{judgement.verdict.upper()}",
        sentence=judgement.sentence,
    )
    if judgement.curves is not None:
        insertion, deletion = judgement.curves.insertion, judgement.curves.deletion
        areas = {"insertion_area": area(insertion), "deletion_area": area(deletion)}
        message.curves.CopyFrom(explain_pb2.Curves(insertion=insertion, deletion=deletion, **areas))
    return message


def _kind(call: Call) -> str:
    """Which of KINDS the target is; empty for one that reads other layers than the logits, or a region of them."""
    if call.region is not None or layers_of(call.target):
        return ""
    return "contrast" if isinstance(call.target, Contrast) else "class"


def _key(call: Call, card: ModelCard) -> TrialKey:
    parameters = tried_parameters(call.parameters)
    return card.digest, call.method, _kind(call), tuple(sorted(parameters.items()))
