"""Figures by group: the pictures that share a value in a column of labels.csv."""

from dataclasses import replace

from gradserve.datasets import LABELS_FILE, Dataset
from gradserve.robustness.figures import Figures, counted
from gradserve.robustness.record import Record
from gradserve.robustness.thresholds import Threshold

NO_VALUE = "(none)"  # The name of the group of pictures whose cell is empty.


def check_column(dataset: Dataset, column: str) -> None:
    """Raises ValueError where the pictures of a set have no such column, or one has two values."""
    values: dict[str, str] = {}
    for example in dataset:
        if not example.columns:
            raise ValueError(f"--group needs a folder with {LABELS_FILE}; {dataset.path} has none")
        if column not in example.columns:
            columns = ", ".join(example.columns)
            raise ValueError(f"{dataset.path / LABELS_FILE} has no column {column!r} for --group; it has {columns}")
        if values.setdefault(example.id, example.columns[column]) != example.columns[column]:
            raise ValueError(f"{dataset.path}: {example.id} is in two groups by the column {column}; keep one line")


def grouped(figures: Figures, record: Record, least: float | None) -> Figures:
    """With the figures of each group, and the least robust accuracy that is asked of each."""
    names = sorted({picture.group or "" for picture in record.pictures})
    groups = {
        name or NO_VALUE: counted(record.plan, [p for p in record.pictures if (p.group or "") == name], record.outcomes)
        for name in names
    }
    thresholds = [
        Threshold(
            f"robust accuracy, {each.attack} {each.eps}, {record.column} {name}",
            each.standing.value,
            least=least,
            possible=each.possible.value,
        )
        for name, group in groups.items()
        for each in [*group.attacks, *group.together]
        if least is not None
    ]
    return replace(figures, column=record.column, groups=groups, thresholds=[*figures.thresholds, *thresholds])
