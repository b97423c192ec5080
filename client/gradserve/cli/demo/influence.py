"""The demo's chapter on influence: test pictures with training examples that helped or harmed them; suspects."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from PIL import Image

from gradserve.cli import page
from gradserve.cli.demo import samples
from gradserve.results.influence import Influence, TrainingExample
from gradserve.results.models import ModelCard

if TYPE_CHECKING:
    from gradserve.cli.demo.session import Session

_METHODS = ("projected", "last_layer", "neighbours")
_TOP, _SUSPECTS, _PICTURES = 6, 12, 2


def influences(demo: "Session", card: ModelCard) -> page.Section:
    """For models with an index: helpers and harmers of predictions by each method, and the most suspicious labels."""
    stories = []
    if card.applies("influence"):
        for picture in samples.pictures(card, min(demo.pictures, _PICTURES)):
            figures = [figure for method in _METHODS for figure in _influence(demo, card, picture, method)]
            stories.append(page.Story(picture.name, picture.open(), figures=figures))
        stories += _suspects(demo, card)
    lead = (
        "Which training examples stand behind a prediction. Without the helpful ones its loss would be larger, without "
        "the harmful ones smaller: so the influence functions say, whose order is worth more than their sizes."
    )
    return page.Section(f"{card.name}: influence", lead, stories)


def requests(card: ModelCard, pictures: int) -> int:
    """How many requests the chapter makes."""
    if not card.applies("influence"):
        return 0
    return len(samples.pictures(card, min(pictures, _PICTURES))) * len(_METHODS) + 1


def _influence(demo: "Session", card: ModelCard, picture: samples.SamplePicture, method: str) -> list[page.Figure]:
    what = f"{card.name}: {picture.name}: influence, {method}"
    result, seconds = demo.timed(what, lambda: demo.client.influence(picture.data, method, top=_TOP, model=card.name))
    best = result.helpful[0] if result.helpful else None
    answer = "no example stands out" if best is None else f"most: {best.label_name}, row {best.row}"
    demo.note(picture.name, f"influence, {method}", seconds, result.provenance, answer)
    if method == "neighbours":
        return [_figure("similar (no influence)", result.helpful, f"cosine {_span(result.helpful)}", result, seconds)]
    loss = f"{result.label_name}: loss {result.value:.3g}"
    return [
        _figure(f"{method}: helpful", result.helpful, loss, result, seconds),
        _figure(f"{method}: harmful", result.harmful, loss, result, seconds),
    ]


def _figure(
    title: str, examples: Sequence[TrainingExample], value: str, result: Influence, seconds: float
) -> page.Figure:
    facts = [f"{each.label_name} {_score(each)}" for each in examples]
    costs = [f"{1000 * seconds:.0f} ms", f"of {result.examples} examples"]
    return page.Figure(title, _pictures(examples), value, [*facts, *costs], result.provenance.warnings)


def _suspects(demo: "Session", card: ModelCard) -> list[page.Story]:
    """The first of them is shown large; the others stand beside it."""
    what = f"{card.name}: suspects"
    result, seconds = demo.timed(what, lambda: demo.client.suspects(model=card.name, top=_SUSPECTS))
    demo.note("", "suspects", seconds, result.provenance, f"first: {result[0].label_name}, row {result[0].row}")
    pictures = _pictures(result.examples)
    if not pictures:
        return []
    facts = [f"{each.label_name} {each.self_influence:.2g}" for each in result]
    title = "labels to look at again"
    return [page.Story(title, pictures[0], figures=[page.Figure("suspects", pictures, "self-influence", facts)])]


def _pictures(examples: Sequence[TrainingExample]) -> list[Image.Image]:
    return [picture for picture in (each.picture() for each in examples) if picture is not None]


def _score(each: TrainingExample) -> str:
    return f"{each.change:+.1e}" if each.similarity is None else f"{each.similarity:.3f}"


def _span(examples: Sequence[TrainingExample]) -> str:
    return f"{_score(examples[-1])} to {_score(examples[0])}" if examples else ""
