"""What `gradserve robustness` says of certified accuracy."""

from collections.abc import Iterator

from gradserve.robustness import page
from gradserve.robustness.certified import CertifiedAccuracy, chart
from gradserve.robustness.figures import Figures
from gradserve.robustness.words import certificate_facts, certified_text

_INTERVAL = "95 % interval (Clopper-Pearson)"
_LEAD = (
    "The share of the pictures whose label the smoothed classifier predicts, with at least that radius in L2 (Cohen et "
    "al. 2019). It is proven of the smoothed classifier, not of the network without noise."
)


def lines(figures: Figures) -> Iterator[str]:
    """The noise, and a line for each radius, of all pictures and then of each group."""
    every = [("", figures), *((f"{figures.column} {name}: ", group) for name, group in figures.groups.items())]
    for prefix, each in every:
        if each.certified:
            yield f"{prefix}certified accuracy, {'; '.join(certificate_facts(each.certified))}"
            for point in each.certified.points:
                yield f"{prefix}certified within {point.radius:.4g}: {certified_text(point)}"


def sections(figures: Figures) -> list[page.Section]:
    """The curve with its table; one more table by group."""
    accuracy = figures.certified
    if accuracy is None:
        return []
    tables = [page.Table(["radius", "accuracy", _INTERVAL, "pictures"], _rows(accuracy))]
    if figures.column:
        rows = [
            [name, *row] for name, group in figures.groups.items() if group.certified for row in _rows(group.certified)
        ]
        tables.append(page.Table([figures.column, "radius", "accuracy", _INTERVAL, "pictures"], rows))
    return [page.Section("Certified accuracy", _LEAD, [], certificate_facts(accuracy), tables, [chart(accuracy)])]


def _rows(accuracy: CertifiedAccuracy) -> list[list[str | float]]:
    rows: list[list[str | float]] = []
    for point in accuracy.points:
        low, high = point.interval
        count = f"{point.certified.count} of {point.certified.of}"
        rows.append([f"{point.radius:.4g}", point.certified.value, f"{low:.1%} to {high:.1%}", count])
    return rows
