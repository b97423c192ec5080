"""What `gradserve check` finds out about one model: what a worker would, a map of each method, and what is odd."""

import contextlib
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..engine.engine import Engine
from ..engine.events import Ended
from ..engine.job import Job
from ..engine.scores import log_probabilities
from ..methods.explain import METHODS, Call, ExplainArguments, explain
from ..methods.parameters import bind
from ..methods.targets import Target
from ..models.behaviour import varied
from ..models.builders import text_of, where
from ..models.card import ModelCard, Precision
from ..models.catalogue import ModelSpec
from ..models.checkpoints import shown
from ..models.loading import GREY_NOTE, OWN_WEIGHTS, LoadError
from ..models.preparation import prepare
from ..models.prepared import Prepared
from ..models.sample import difference
from ..models.taps import Place, Taps
from ..pool.startup import begin, set_up_torch
from ..pool.wire import WorkerSettings

# Parameters of a map that only shows that its method works.
SHORT = {"samples": 2, "steps": 4, "patch": 0.5, "stride": 1.0}
SATURATED = 0.9999  # A head is saturated if each test picture's answer has at least this probability.
# Beginnings of notes that say what a network is, and nothing that its author should look at.
PLAIN_FACTS = (GREY_NOTE, OWN_WEIGHTS, "PARTIALLY_GUIDED", "POSITIONS")
AUXILIARY = re.compile(r"(.*\.)?aux", re.IGNORECASE)  # Names of classifiers that only training needs.
UNNAMED = "its classes have no names, and are called class 0 and so on; give labels"
CERTAIN = (
    "its probabilities are 0 or 1, up to 1e-4, for every test picture, so that probabilities have hardly a gradient; "
    "look at mean and std, and at the scale of its logits"
)


@dataclass(frozen=True)
class ModelReport:
    """What was found out about a model; without a card where it is refused."""

    name: str
    refused: str = ""  # Why it is not served, in the words of a server that starts.
    seconds: float = 0.0
    card: ModelCard | None = None
    rows: Mapping[Precision, int] = field(default_factory=dict)  # The rows of a full pass, by precision.
    refusals: Mapping[str, str] = field(default_factory=dict)  # Why methods of Explain do not apply, by method.
    failures: Mapping[str, str] = field(default_factory=dict)  # Why maps failed, by method.
    odd: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()  # What else its card says.

    @property
    def passed(self) -> bool:
        """Whether it is served, and every map could be made."""
        return not self.refused and not self.failures


def check_model(settings: WorkerSettings) -> ModelReport:
    """Starts as a worker with one model does, makes its maps and looks for what is odd."""
    began, (spec,) = time.monotonic(), settings.models
    set_up_torch(settings.threads)
    try:
        engine, ready = begin(settings)
    except LoadError as error:
        refused = str(error).removeprefix(f"model {spec.name}: ")
        return ModelReport(spec.name, refused, time.monotonic() - began)
    (card,) = ready.cards
    model = engine.models[card.name]
    pictures = varied(card.height, card.width).to(model.device, model.dtype)
    failures, empty = maps(engine, card, pictures[:1])
    notes = [note for note in card.notes if note not in spec.notes]
    facts = tuple(note for note in notes if note.startswith(PLAIN_FACTS))
    odd = [note for note in notes if note not in facts]
    odd += left_out(spec, card)
    try:
        if spec.weights != "random":  # Random weights may well silence layers, or make a head certain.
            odd += unlike_a_trained_network(model, pictures)
        if unused := unused_weights(model, pictures[:1]):
            odd.append(f"its logits do not depend on the weights of {shown(unused)}")
    except Exception as error:  # A network may raise anything for a picture that it was not tried with before.
        odd.append(f"a pass over a test picture failed{where(error)}: {text_of(error)}")
    if empty:
        odd.append(f"maps of {shown(empty)} are 0 everywhere on a test picture, which its top score does not depend on")
    return ModelReport(
        name=card.name,
        seconds=time.monotonic() - began,
        card=card,
        rows={precision: rows for (_, precision), rows in ready.rows.items()},
        refusals={name: why for name, method in METHODS.items() if (why := method.refuses(card))},
        failures=failures,
        odd=tuple(odd),
        notes=facts,
    )


def built_otherwise(settings: WorkerSettings, card: ModelCard) -> str:
    """Why this process would serve another network than that of the card; empty if it serves the same."""
    (spec,) = settings.models
    set_up_torch(settings.threads)
    exact = spec.model_copy(update={"precisions": ("exact",), "auto": {}, "rows": {}})
    try:
        return difference(prepare(exact, torch.device(settings.device)).card, card)
    except LoadError as error:
        return str(error).removeprefix(f"model {spec.name}: ")


def maps(engine: Engine, card: ModelCard, picture: Tensor) -> tuple[dict[str, str], list[str]]:
    """Makes a map by each method that applies: why those that fail do, by method, and which maps are 0 everywhere."""
    failures, empty = dict[str, str](), list[str]()
    for name, method in METHODS.items():
        if method.refuses(card):
            continue
        parameters = bind(method.function, {})
        parameters |= {key: value for key, value in SHORT.items() if key in parameters}
        if method.default_layer:
            parameters["layer"] = card.grad_cam_layer
        arguments = ExplainArguments((Call(name, parameters, Target(rank=1)),))
        engine.submit(Job(name, card.name, lambda job, arguments=arguments: explain(job, picture, arguments)))  # type: ignore[misc]
        (ended,) = _ends(engine)
        # Rules of ReLUs, and maps of layers, are often 0 for a picture that shows nothing.
        often_empty = method.guided or method.wrt == "taps"
        if ended.error is not None:
            failures[name] = str(ended.error)
        elif not ended.result[0].values.any() and not often_empty:
            empty.append(name)
    return failures, empty


def _ends(engine: Engine) -> Iterator[Ended]:
    """Runs the engine until it is idle; the ends of its jobs."""
    while not engine.idle:
        yield from (event for event in engine.step() if isinstance(event, Ended))


def left_out(spec: ModelSpec, card: ModelCard) -> Iterator[str]:
    """What the entry leaves to be assumed, beside what its card has notes of."""
    if spec.is_own and (spec.height is None or spec.width is None):
        yield f"height and width are not given: {card.height}x{card.width} is used"
    if card.classes == tuple(f"class {i}" for i in range(len(card.classes))):
        yield UNNAMED


def unlike_a_trained_network(model: Prepared, pictures: Tensor) -> Iterator[str]:
    """What trained networks do not do: answers without doubt, and layers that give nothing."""
    with torch.no_grad():
        logits = torch.cat([model(picture) for picture in pictures.split(1)])
    if _is_saturated(logits, model):
        yield CERTAIN
    if silent := silent_layers(model, pictures):
        yield f"layers that give nothing but 0 for every test picture: {shown(silent)}"


def _is_saturated(logits: Tensor, model: Prepared) -> bool:
    """Whether every picture's answer is as good as certain."""
    probabilities = log_probabilities(logits, model.card.head).exp()
    if model.card.head == "softmax":
        return bool((probabilities.amax(1) > SATURATED).all())
    return bool((torch.maximum(probabilities, 1 - probabilities) > SATURATED).all())


def silent_layers(model: Prepared, pictures: Tensor) -> list[str]:
    """The layers that give nothing but zeros for every picture."""
    layers = {model.places[layer.name]: layer.name for layer in model.card.layers}
    heard = set[Place]()
    for picture in pictures.split(1):
        taps = Taps(layers)
        with torch.no_grad(), taps.listening(model.network):
            model.head.run(model.network, model.normalised(picture))
        heard |= {place for place in layers if place not in taps.kept or bool(taps.kept[place].any())}
    return [name for place, name in layers.items() if place not in heard]


def unused_weights(model: Prepared, picture: Tensor) -> list[str]:
    """The modules whose weights the logits do not depend on; none where the logits have no gradient at all."""
    weights = {name: each for name, each in model.network.named_parameters() if each.is_floating_point()}
    if model.card.no_gradient or not weights:
        return []
    for each in weights.values():
        each.requires_grad_(True)
    grads: tuple[Tensor | None, ...] = ()
    # A network that was frozen may write over weights in place, which torch refuses where they need a gradient.
    with torch.enable_grad(), contextlib.suppress(RuntimeError):
        logits = model.head.run(model.network, model.normalised(picture))
        grads = torch.autograd.grad(logits.sum(), list(weights.values()), allow_unused=True)
    for each in weights.values():
        each.requires_grad_(False)
    names = [name for name, grad in zip(weights, grads, strict=False) if grad is None and not AUXILIARY.match(name)]
    return list(dict.fromkeys(name.rpartition(".")[0] or name for name in names))
