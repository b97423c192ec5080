"""What the demo shows: a chapter is a function that asks the server about a model and gives a section of the page."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from gradserve.arguments import Pick, Rank, TargetLike, Unit
from gradserve.cli import page
from gradserve.cli.demo import influence, robust, samples
from gradserve.client import Client
from gradserve.errors import FailedPrecondition
from gradserve.messages import fields
from gradserve.messages.explain import EXPLAIN_METHOD
from gradserve.results.common import Provenance
from gradserve.results.explain import Explanation
from gradserve.results.models import Layer, ModelCard
from gradserve.results.predict import Prediction

T = TypeVar("T")
_ATTACKS: Sequence[tuple[str, Mapping[str, Any]]] = (
    ("fgsm", {"method": "fgsm"}),
    ("pgd", {"method": "pgd"}),
    ("pgd to the least likely class", {"method": "pgd", "target": Pick.LEAST_LIKELY, "loss": "margin", "steps": 20}),
    ("pgd, eps 0.5 in L2", {"method": "pgd", "norm": "l2", "eps": 0.5}),
    ("square", {"method": "square", "queries": 300}),
    ("one_pixel", {"method": "one_pixel", "population": 50, "generations": 10}),
)
_METHODS = fields.names(EXPLAIN_METHOD)


@dataclass(frozen=True)
class LogEntry:
    """One request to the server, its cost and its answer."""

    model: str
    picture: str
    asked: str
    seconds: float
    rows: int
    answer: str


@dataclass
class Session:
    """A running demo: its client, how many pictures it uses, a callback before each request, and the log so far."""

    client: Client
    pictures: int
    begin: Callable[[str], None]
    log: list[LogEntry] = field(default_factory=list)

    def timed(self, what: str, ask: Callable[[], T]) -> tuple[T, float]:
        """The answer, and the seconds it took."""
        self.begin(what)
        start = time.perf_counter()
        return ask(), time.perf_counter() - start

    def note(self, picture: str, asked: str, seconds: float, origin: Provenance, answer: str) -> None:
        """Adds a request to the log."""
        self.log.append(LogEntry(origin.model, picture, asked, seconds, origin.rows, answer))


def explanations(demo: Session, card: ModelCard) -> page.Section:
    """Predict and every method of Explain on several pictures."""
    stories = []
    for picture in samples.pictures(card, demo.pictures):
        prediction = _predict(demo, card, picture)
        bars = [(score.class_name, score.probability) for score in prediction]
        figures = [_explain(demo, card, picture, method) for method in _METHODS]
        stories.append(page.Story(picture.name, picture.open(), bars, figures=figures))
    lead = "What the model predicts, and which pixels its top score depends on, as each method sees it."
    return page.Section(card.name, lead, stories, _facts_of(card))


def targets(demo: Session, card: ModelCard) -> page.Section:
    """One method for several targets in one request: classes by rank, and units inside the network."""
    stories = []
    for picture in samples.pictures(card, 1):
        units = [_strongest(demo, card, picture, layer) for layer in _layers(card)]
        figures = _for_targets(demo, card, picture, [Rank(1), Rank(2), *units])
        stories.append(page.Story(picture.name, picture.open(), figures=figures))
    lead = "One request with several targets: the two top classes, and single units of layers inside the network."
    return page.Section(f"{card.name}: any target", lead, stories)


def attacks(demo: Session, card: ModelCard) -> page.Section:
    """Adversarial pictures: what the model saw before, what it sees now, and the difference magnified."""
    stories = []
    for picture in samples.pictures(card, min(demo.pictures, 2)):
        figures = [_attack(demo, card, picture, title, facts) for title, facts in _ATTACKS]
        stories.append(page.Story(picture.name, picture.open(), figures=figures))
    lead = "Pictures changed a little so that the model errs: before, after, and the difference magnified around grey."
    return page.Section(f"{card.name}: attacks", lead, stories)


CHAPTERS = (explanations, targets, attacks, robust.siblings, influence.influences)


def requests(card: ModelCard, pictures: int) -> int:
    """How many requests the chapters make for a model."""
    count = len(samples.pictures(card, pictures))
    explained = count * (1 + len(_METHODS)) + min(count, 1) * (1 + len(_layers(card)))
    attacked = min(count, 2) * len(_ATTACKS) + robust.requests(card, pictures)
    return explained + attacked + influence.requests(card, pictures)


def _predict(demo: Session, card: ModelCard, picture: samples.SamplePicture) -> Prediction:
    what = f"{card.name}: {picture.name}: predict"
    result, seconds = demo.timed(what, lambda: demo.client.predict(picture.data, model=card.name))
    answer = f"{result[0].class_name} ({result[0].probability:.1%})"
    demo.note(picture.name, "predict", seconds, result.provenance, answer)
    return result


def _explain(demo: Session, card: ModelCard, picture: samples.SamplePicture, method: str) -> page.Figure:
    what = f"{card.name}: {picture.name}: {method}"
    try:
        result, seconds = demo.timed(what, lambda: demo.client.explain(picture.data, method, model=card.name))
    except FailedPrecondition as refusal:
        demo.log.append(LogEntry(card.name, picture.name, method, 0.0, 0, f"does not apply: {refusal}"))
        return page.Figure(method, refusal=f"does not apply to this model: {refusal}")
    demo.note(picture.name, method, seconds, result.provenance, _value(result))
    return _figure(method, result, [f"{1000 * seconds:.0f} ms", f"{result.provenance.rows} rows"])


def _for_targets(
    demo: Session, card: ModelCard, picture: samples.SamplePicture, targets: list[TargetLike]
) -> list[page.Figure]:
    what = f"smooth_grad, {len(targets)} targets"
    result, seconds = demo.timed(
        f"{card.name}: {picture.name}: {what}",
        lambda: demo.client.explain(picture.data, "smooth_grad", samples=16, target=targets, model=card.name),
    )
    demo.note(picture.name, what, seconds, result[0].provenance, "; ".join(map(_value, result)))
    return [_figure("smooth_grad", each, ()) for each in result]


def _attack(
    demo: Session, card: ModelCard, picture: samples.SamplePicture, title: str, facts: Mapping[str, Any]
) -> page.Figure:
    result, seconds = demo.timed(
        f"{card.name}: {picture.name}: {title}",
        lambda: demo.client.attack(picture.data, model=card.name, perturbation=True, **facts),
    )
    certificate = result.certificate
    before, after = certificate.before.predicted, certificate.after.predicted
    answer = f"{before.class_name} {before.probability:.1%} → {after.class_name} {after.probability:.1%}"
    demo.note(picture.name, title, seconds, result.provenance, answer)
    goal = f", to be {certificate.target_name}" if certificate.target is not None else ""
    captions = [
        certificate.verdict.replace("_", " ") + goal,
        f"L∞ {certificate.linf * 255:.3g}/255",
        f"L2 {certificate.l2:.3g}",
        f"{certificate.l0} pixels",
        f"difference × {result.magnification:.3g}",
        f"{certificate.queries} queries",
        f"{1000 * seconds:.0f} ms",
    ]
    pictures = (result.original_image(), result.image(), result.perturbation_image())
    return page.Figure(title, pictures, answer, captions, certificate.warnings)


def _figure(title: str, result: Explanation, costs: Sequence[str]) -> page.Figure:
    facts = [f"{name} {_short(value)}" for name, value in result.parameters.items()]
    if result.completeness_gap is not None:
        facts.append(f"completeness gap {result.completeness_gap:.2g}")
    warnings = tuple(dict.fromkeys((*result.warnings, *result.provenance.warnings)))
    pictures = (result.overlay(), result.heatmap())
    return page.Figure(title, pictures, _value(result), [*facts, *costs], warnings)


def _value(result: Explanation) -> str:
    return f"{result.target_name} = {result.target_value:.3g}"


def _short(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value).lower()


def _layers(card: ModelCard) -> list[Layer]:
    """An early and the last layer with a map."""
    mapped = [layer for layer in card.layers if layer.channels and min(layer.height, layer.width) > 1]
    return list(dict.fromkeys([mapped[len(mapped) // 4], mapped[-1]])) if mapped else []


def _strongest(demo: Session, card: ModelCard, picture: samples.SamplePicture, layer: Layer) -> Unit:
    """The one of sixteen channels whose unit in the middle of the map answers most to the picture."""
    channels = range(0, layer.channels, max(1, -(-layer.channels // 16)))
    units = [Unit(layer.name, channel, layer.height // 2, layer.width // 2) for channel in channels]
    what = f"gradient, {len(units)} units"
    result, seconds = demo.timed(
        f"{card.name}: {picture.name}: {what}",
        lambda: demo.client.explain(picture.data, "gradient", target=units, model=card.name),
    )
    best = max(range(len(units)), key=lambda place: result[place].target_value)
    demo.note(picture.name, what, seconds, result[best].provenance, f"the most is {_value(result[best])}")
    return units[best]


def _facts_of(card: ModelCard) -> list[str]:
    height, width = card.input_size
    return [
        f"built by {card.builder}",
        f"{len(card.classes)} classes",
        f"input {height} x {width}",
        f"{card.gflop:.3g} GFLOP",
        f"{len(card.layers)} layers",
        f"weights {card.weights_digest[:12]}",
    ]
