"""What `gradserve robustness` says of a run beside its baseline."""

from collections.abc import Iterator, Mapping, Sequence

from PIL import Image

from gradserve.datasets import Dataset, Unreadable
from gradserve.robustness import page
from gradserve.robustness.comparison import Change, Comparison
from gradserve.robustness.record import Picture

_MAX_ROWS = 200  # The most pictures that the page's table lists.


def lines(comparison: Comparison | None) -> Iterator[str]:
    """A line for the baseline and one for each figure."""
    if not comparison:
        return
    yield f"beside the baseline, {_baseline(comparison)}:"
    for each in comparison.changes:
        yield (
            f"{each.name}: {each.before.value:.1%} before, {_change(each)}; {len(each.lost)} pictures lost, "
            f"{len(each.gained)} gained, p = {each.p_value:.2g}"
        )


def section(comparison: Comparison, pictures: Sequence[Picture], changed: Sequence[page.Story]) -> page.Section:
    """The figures of both runs, and the pictures that changed sides."""
    rows: list[list[str | float]] = [
        [
            each.name,
            f"{each.before.value:.1%}",
            f"{each.now.value:.1%}",
            _change(each),
            str(len(each.lost)),
            str(len(each.gained)),
            f"{each.p_value:.2g}",
        ]
        for each in comparison.changes
    ]
    columns = ["", "baseline", "now", "change", "lost", "gained", "p (McNemar, exact)"]
    lead = "On the same pictures: lost are those that stood in the baseline and fall now, gained the reverse."
    facts = [f"baseline: {_baseline(comparison)}"]
    facts += [f"{comparison.left_out} pictures left out, which one run could not read"] if comparison.left_out else []
    tables = [page.Table(columns, rows)]
    sides = _by_picture(comparison)
    if sides:
        named = {picture.id: picture.class_name for picture in pictures}
        listed: list[list[str | float]] = [
            [id, named[id], "; ".join(lost), "; ".join(gained)]
            for id, (lost, gained) in list(sides.items())[:_MAX_ROWS]
        ]
        tables.append(page.Table(["picture", "class", "lost", "gained"], listed))
    if len(sides) > _MAX_ROWS:
        facts.append(f"{len(sides)} pictures changed sides; {_MAX_ROWS} are listed, and all in results.json")
    return page.Section("Since the baseline", lead, changed, facts, tables)


def stories(comparison: Comparison, dataset: Dataset, count: int) -> list[page.Story]:
    """So many of the pictures that were lost, in most figures first."""
    examples = {example.id: example for example in dataset}
    stories = []
    for id, (lost, gained) in list(_by_picture(comparison).items())[:count]:
        if not lost:
            break
        try:
            picture = Image.fromarray(examples[id].pixels())
        except Unreadable:  # The server's decoder reads more formats.
            continue
        figures = [page.Figure("lost", facts=lost), *([page.Figure("gained", facts=gained)] if gained else [])]
        stories.append(page.Story(f"{id}: {examples[id].class_name}", picture, figures=figures))
    return stories


def _by_picture(comparison: Comparison) -> Mapping[str, tuple[list[str], list[str]]]:
    """The names of the figures in which each picture was lost and gained; the most often lost picture first."""
    sides: dict[str, tuple[list[str], list[str]]] = {}
    for each in comparison.changes:
        for id in each.lost:
            sides.setdefault(id, ([], []))[0].append(_short(each.name))
        for id in each.gained:
            sides.setdefault(id, ([], []))[1].append(_short(each.name))
    return dict(sorted(sides.items(), key=lambda each: (-len(each[1][0]), len(each[1][1]))))


def _short(name: str) -> str:
    """ "pgd 4/255" of "robust accuracy, pgd 4/255"."""
    return name.removeprefix("robust ").removeprefix("accuracy, ")


def _baseline(comparison: Comparison) -> str:
    same = "the same weights" if comparison.same_weights else "other weights"
    return f"{comparison.model}, {same} ({comparison.digest[:12]})"


def _change(change: Change) -> str:
    least, most = (f"{count / change.now.of:+.1%}" for count in (change.least, change.most))
    return least if least == most else f"{least} to {most}"
