"""The demo's chapter on what adversarial training buys: a model beside its robust sibling."""

from typing import TYPE_CHECKING

from gradserve.cli import page
from gradserve.cli.demo import samples
from gradserve.results.models import ModelCard

if TYPE_CHECKING:
    from gradserve.cli.demo.session import Session

_METHODS = ("gradient", "smooth_grad")
_EPS = "8/255"
_ASKED = (*_METHODS, "pgd")


def siblings(demo: "Session", card: ModelCard) -> page.Section:
    """For a model NAME-robust: maps of NAME's and of its own, and the same attack on both."""
    stories = []
    for picture in samples.pictures(card, demo.pictures) if _sibling(card) else []:
        figures = [
            figure
            for name in (_sibling(card), card.name)
            for figure in (*_maps(demo, name, picture), _attack(demo, name, picture))
        ]
        stories.append(page.Story(picture.name, picture.open(), figures=figures))
    lead = (
        f"The same network trained on pictures ({_sibling(card)}) and on attacked ones ({card.name}): the robust one's "
        "gradients follow what is to be seen, and the attack that turns the other leaves it standing more often, "
        "though not always."
    )
    return page.Section(f"{card.name} beside {_sibling(card)}", lead, stories)


def requests(card: ModelCard, pictures: int) -> int:
    """How many requests the chapter makes."""
    return 2 * len(_ASKED) * len(samples.pictures(card, pictures)) if _sibling(card) else 0


def _sibling(card: ModelCard) -> str:
    """The name of the model that this one is the robust sibling of, or nothing."""
    return card.name.removesuffix("-robust") if card.name.endswith("-robust") else ""


def _maps(demo: "Session", name: str, picture: samples.SamplePicture) -> list[page.Figure]:
    result, seconds = demo.timed(
        f"{name}: {picture.name}: {', '.join(_METHODS)}",
        lambda: demo.client.explain(picture.data, list(_METHODS), model=name),
    )
    figures = []
    for method, each in zip(_METHODS, result, strict=True):
        demo.note(picture.name, method, seconds / len(_METHODS), each.provenance, each.target_name)
        figures.append(page.Figure(f"{name}: {method}", (each.heatmap(),), each.target_name, (), each.warnings))
    return figures


def _attack(demo: "Session", name: str, picture: samples.SamplePicture) -> page.Figure:
    result, seconds = demo.timed(
        f"{name}: {picture.name}: pgd", lambda: demo.client.attack(picture.data, "pgd", eps=_EPS, steps=20, model=name)
    )
    before, after = result.certificate.before.predicted, result.certificate.after.predicted
    answer = f"{before.class_name} → {after.class_name} ({after.probability:.0%})"
    demo.note(picture.name, f"pgd, {_EPS}", seconds, result.provenance, answer)
    facts, warnings = [result.certificate.verdict.replace("_", " ")], result.certificate.warnings
    return page.Figure(f"{name}: pgd, {_EPS}", (result.image(),), answer, facts, warnings)
