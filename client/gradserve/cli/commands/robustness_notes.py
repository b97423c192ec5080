"""What `gradserve robustness` says beside its figures: what was not measured, what is doubtful, and warnings."""

from collections.abc import Iterator

from gradserve.robustness import page
from gradserve.robustness.figures import Figures
from gradserve.robustness.words import cautions, unmeasured, warnings

_MAX_NAMES_SHOWN = 10  # The most unreadable pictures, and failed requests, that are named.


def lines(figures: Figures) -> Iterator[str]:
    """What a reader should know beside the figures, a line each."""
    for where, text in cautions(figures):
        yield f"caution: {where}: {text}"
    for what, reasons in (("unreadable", figures.unreadable), ("failed", figures.failed)):
        for name, reason in list(reasons.items())[:_MAX_NAMES_SHOWN]:
            yield f"{what}: {name}: {reason}"
        if len(reasons) > _MAX_NAMES_SHOWN:
            yield f"{what}: and {len(reasons) - _MAX_NAMES_SHOWN} more"
    for each in [*figures.attacks, *figures.together]:
        if each.not_measured:
            yield f"not measured: {each.attack} {each.eps}: {unmeasured(each)}"
    for where, text, count in warnings(figures):
        yield f"warning: {where}: {text} ({count} pictures)"


def sections(figures: Figures) -> list[page.Section]:
    """Those of a page: what makes a verdict doubtful, what was not measured, and warnings."""
    return [*_cautions(figures), *_unmeasured(figures), *_warnings(figures)]


def _cautions(figures: Figures) -> list[page.Section]:
    """What makes a verdict doubtful."""
    rows: list[list[str | float]] = [[where, text] for where, text in cautions(figures)]
    return [page.Section("Caution", "", [], (), [page.Table(["", "what it means"], rows)])] if rows else []


def _unmeasured(figures: Figures) -> list[page.Section]:
    """The attacks that did not measure every picture, with the reasons."""
    rows: list[list[str | float]] = [
        [f"{each.attack} {each.eps}", f"{each.not_measured} of {each.standing.of}", "; ".join(each.reasons)]
        for each in [*figures.attacks, *figures.together]
        if each.not_measured
    ]
    lead = "The attack had nothing to follow on these pictures, which may stand or not."
    return [page.Section("Not measured", lead, [], (), [page.Table(["", "pictures", "why"], rows)])] if rows else []


def _warnings(figures: Figures) -> list[page.Section]:
    rows: list[list[str | float]] = [[where, text, str(count)] for where, text, count in warnings(figures)]
    return [page.Section("Warnings", "", [], (), [page.Table(["", "warning", "pictures"], rows)])] if rows else []


def problems(figures: Figures) -> page.Section:
    """Pictures that could not be read, and requests that failed."""
    rows = [["unreadable", id, reason] for id, reason in figures.unreadable.items()]
    rows += [["failed", what, reason] for what, reason in figures.failed.items()]
    lead = "Unreadable pictures are counted apart; failed requests count as fallen."
    return page.Section("Not judged", lead, [], (), [page.Table(["", "what", "why"], rows)])
