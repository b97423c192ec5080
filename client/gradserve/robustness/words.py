"""Texts that all reports share: how much was measured, why not more, and the warnings."""

from collections.abc import Iterator

from gradserve.robustness.certified import CertifiedAccuracy, CertifiedPoint
from gradserve.robustness.figures import Figures, Robustness
from gradserve.robustness.stages import StageStanding

EXCLUSIVE = "accuracy: share of the pictures whose label is predicted, as the most probable class"
_CAUTIONS = {  # What the code of a warning means for the verdict of a whole run.
    "MASKED_GRADIENTS": "{count} pictures fell to square alone, which asks for scores and no gradients: the network "
    "hides its gradients, and the verdict of gradient attacks alone (--quick, or --attack pgd) is too good",
    "RANDOMISED": "{count} pictures got other scores when asked again: the network is random, so that one attempt "
    "proves little, and the verdict of gradient attacks alone may be too good",
}
INDEPENDENT = "accuracy: share of the pictures whose own label is present (logit above 0), whatever other labels are"


def meaning(figures: Figures) -> str:
    """What an accuracy counts, which depends on what the model's outputs mean."""
    return INDEPENDENT if figures.head == "multilabel" else EXCLUSIVE


def ranged(result: Robustness | StageStanding) -> str:
    """The share of the pictures that stand, with its interval.

    Where not all were measured, it is a range: from those that surely stand to those that may.
    """
    low, high = result.standing, result.possible
    if low == high:
        return str(low)
    return f"{low.value:.1%} to {high.value:.1%} ({low.interval[0]:.1%} to {high.interval[1]:.1%})"


def certified_text(point: CertifiedPoint) -> str:
    """The share that is certified with a radius, with its interval."""
    low, high = point.interval
    return f"{point.certified.value:.1%} ({low:.1%} to {high:.1%})"


def certificate_facts(accuracy: CertifiedAccuracy) -> list[str]:
    """The noise of the certificates, and how many proved nothing."""
    settings = accuracy.trial.settings
    facts = [
        f"sigma {settings['sigma']}",
        f"{settings['samples']} samples after {settings['selection_samples']} that chose the class",
    ]
    facts += [f"alpha {settings['alpha']} for each picture", f"{accuracy.abstained} of {accuracy.of} abstentions"]
    return facts + ([f"{accuracy.failed} requests failed, counted as not certified"] if accuracy.failed else [])


def unmeasured(robustness: Robustness) -> str:
    """ "12 of 30 pictures not measured: ZERO_GRADIENT: ... (12)"."""
    reasons = "; ".join(f"{text} ({count})" for text, count in robustness.reasons.items())
    return f"{robustness.not_measured} of {robustness.standing.of} pictures not measured: {reasons}"


def warnings(figures: Figures) -> Iterator[tuple[str, str, int]]:
    """The place of a warning, its text, and the number of pictures that it came with."""
    places = [("clean", figures.warnings)]
    places += [(f"{each.attack} {each.eps}", each.warnings) for each in figures.attacks]
    places += [(each.kind, each.warnings) for each in figures.corruptions]
    places += [(str(figures.certified.trial), figures.certified.warnings)] if figures.certified else []
    for where, texts in places:
        for text, count in texts.items():
            yield where, text, count


def cautions(figures: Figures) -> Iterator[tuple[str, str]]:
    """The attack and in words what makes its verdict doubtful, or that of others."""
    for each in figures.attacks:
        for code, text in _CAUTIONS.items():
            if count := sum(count for told, count in each.warnings.items() if told.startswith(f"{code}:")):
                yield f"{each.attack} {each.eps}", text.format(count=count)
