"""The demo's chapter of concepts: patterns that are drawn by code, and the classes that depend on them."""

from collections.abc import Sequence

from gradserve import images, patterns
from gradserve.cli.demo.page import Figure
from gradserve.cli.demo.session import Chapter, DemoRequest, Row
from gradserve.client import Client
from gradserve.results.concepts import ConceptDirection
from gradserve.results.models import ModelCard

_PATTERNS = (("stripes", "black_white"), ("dots", "random"))
_COUNT, _SHOWN, _COLUMNS, _TOP = 20, 9, 3, 4


def chapter(card: ModelCard) -> Chapter:
    """Which classes depend on stripes and dots."""
    lead = (
        "From pictures that show a concept, and others that do not, comes a direction in the last layer; the classes "
        "whose scores rise most along it depend on the concept."
    )
    return Chapter("Does it know stripes?", lead, [Row([_concept(card, *each) for each in _PATTERNS], columns=2)])


def _concept(card: ModelCard, name: str, colours: str) -> DemoRequest:
    """The classes that depend most on a pattern, beside some of its pictures."""
    drawn = patterns.PATTERNS[name](_COUNT, colours=colours)

    def draw(answer: ConceptDirection) -> Sequence[Figure]:
        best = ", ".join(f"{row.name} (z {row.z:.1f})" for row in answer.classes[:_TOP])
        text = f"Some of {_COUNT} pictures, against {_COUNT} without a pattern. They speak for: {best}."
        sheet = images.sheet(drawn[:_SHOWN], [""] * _SHOWN, _COLUMNS)
        return [Figure(name, [sheet], text, answer.classes[0].name, warnings=answer.warnings)]

    def call(client: Client) -> ConceptDirection:
        return client.concepts(drawn, patterns.blobs(_COUNT, 1, colours=colours), model=card.name)

    return DemoRequest(card.name, name, "concepts", call, draw, weight=3)
