"""The demo's chapter "Which examples?": those behind predictions, suspicious labels, and what excites units."""

from collections.abc import Sequence

from PIL import Image

from gradserve.cli.demo.explaining import verdict
from gradserve.cli.demo.page import Figure
from gradserve.cli.demo.samples import SamplePicture, digits
from gradserve.cli.demo.session import Chapter, DemoRequest, Row
from gradserve.client import Client
from gradserve.results.exemplars import Exemplars
from gradserve.results.influence import Influence, Suspects, TrainingExample
from gradserve.results.models import ModelCard

_TOP, _SUSPECTS, _UNITS = 6, 6, 3


def chapter(card: ModelCard) -> Chapter:
    """Helpers and harmers of predictions, labels to look at again, what excites units, of a model of digits."""
    requests = [_influence(card, picture) for picture in digits()]
    lead = (
        "Influence functions tell which training examples stand behind a prediction. Digits, because their training "
        "set travels with the model."
    )
    rows = [Row([*requests, _suspects(card)], columns=7), Row([_exemplars(card)], columns=7)]
    return Chapter("Which examples?", lead, rows)


def _influence(card: ModelCard, picture: SamplePicture) -> DemoRequest:
    def draw(answer: Influence) -> Sequence[Figure]:
        value = f"read as {answer.label_name}, {answer.probability:.0%}"
        mark, warnings = verdict(card, picture, answer.label_name), answer.provenance.warnings
        return [
            Figure(picture.name, [picture.open()], "", value, mark, warnings=warnings),
            Figure(
                "helped", _pictures(answer.helpful), f"Without them the loss would be larger: {_names(answer.helpful)}."
            ),
            Figure("harmed", _pictures(answer.harmful), f"Without them it would be smaller: {_names(answer.harmful)}."),
        ]

    return DemoRequest(
        card.name,
        picture.name,
        "influence",
        lambda client: client.influence(picture.data, top=_TOP, model=card.name),
        draw,
    )


def _suspects(card: ModelCard) -> DemoRequest:
    def draw(answer: Suspects) -> Sequence[Figure]:
        agreed = sum(each.label == each.predicted for each in answer)
        fit = f"Of {answer.total} labels the least fitting: {_names(answer.examples)}."
        text = f"{fit} The model agrees with {agreed} of {len(answer)}."
        return [Figure("labels to look at again", _pictures(answer.examples), text)]

    return DemoRequest(card.name, "", "suspects", lambda client: client.suspects(model=card.name, top=_SUSPECTS), draw)


def _exemplars(card: ModelCard) -> DemoRequest:
    def draw(answer: Exemplars) -> Sequence[Figure]:
        return [
            Figure(
                f"unit {each.channel} of {answer.layer}",
                [patch.image for patch in each.exemplars],
                f"What excites it most of {answer.pictures} pictures: "
                f"{', '.join(patch.label_name for patch in each.exemplars)}.",
            )
            for each in answer
        ]

    def ask(client: Client) -> Exemplars:
        return client.exemplars(model=card.name, count=_UNITS, top=_TOP)

    return DemoRequest(card.name, "", "exemplars", ask, draw)


def _pictures(examples: Sequence[TrainingExample]) -> list[Image.Image]:
    return [picture for picture in (each.picture() for each in examples) if picture is not None]


def _names(examples: Sequence[TrainingExample]) -> str:
    return ", ".join(each.label_name for each in examples)
