"""Accuracy over budget: what each attack leaves as its budget grows, and the smallest budget that felled a picture."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from gradserve.load import charts
from gradserve.robustness.plan import Trial
from gradserve.robustness.proportion import Proportion
from gradserve.robustness.record import Record

_FALLEN = ("wrong", "failed")


@dataclass(frozen=True)
class Point:
    """What stands this budget and all smaller ones. It surely does, or may where that was not measured."""

    eps: float
    level: str
    standing: Proportion
    possible: Proportion

    @property
    def band(self) -> tuple[float, float]:
        """The 95 % interval (Wilson): from that of what surely stands to that of what may."""
        return self.standing.interval[0], self.possible.interval[1]


@dataclass(frozen=True)
class Curve:
    """The points of one attack, or of several together, in the order of their budgets."""

    attack: str
    norm: str
    points: Sequence[Point]


def smallest_budgets(record: Record) -> dict[str, dict[str, float | None]]:
    """By attack and picture the smallest budget that felled it.

    0 where the picture was named wrongly before any attack, None where it fell to none. A failed request counts as
    fallen, and pictures that could not be read are left out.
    """
    return {
        name: {id: _smallest(record, levels, id) for id in _readable(record)}
        for name, levels in _levels(record)
        if " + " not in name
    }


def curves(record: Record) -> list[Curve]:
    """The curve of every attack with two budgets or more, and of all attacks together."""
    return [
        Curve(name, next(iter(levels.values()))[0].settings.get("norm", "linf"), _points(record, levels))
        for name, levels in _levels(record)
        if len(levels) > 1
    ]


def chart(curves: Sequence[Curve]) -> charts.Chart:
    """The curves with their bands; budgets in 255ths where all are whole ones."""
    points = [point for curve in curves for point in curve.points]
    whole = all(abs(point.eps * 255 - round(point.eps * 255)) < 1e-9 * 255 for point in points)
    scale, unit = (255, ", in 1/255") if whole else (1, "")
    series = {
        curve.attack: [(scale * point.eps, point.standing.value, *point.band) for point in curve.points]
        for curve in curves
    }
    return charts.shares("Accuracy over budget", f"budget ({curves[0].norm}{unit})", "accuracy", series)


def _levels(record: Record) -> Iterator[tuple[str, dict[float, list[Trial]]]]:
    """The trials of each attack, and of all together, by budget from the smallest on."""
    hostile = [trial for trial in record.plan.trials if trial.hostile]
    names = list(dict.fromkeys(trial.name for trial in hostile))
    for several in [*([name] for name in names), *([names] if len(names) > 1 else [])]:
        chosen = sorted((trial for trial in hostile if trial.name in several), key=lambda trial: trial.arguments["eps"])
        levels: dict[float, list[Trial]] = {}
        for trial in chosen:
            levels.setdefault(trial.arguments["eps"], []).append(trial)
        yield " + ".join(several), levels


def _readable(record: Record) -> list[str]:
    unread = {each.id for each in record.outcomes if each.state == "unreadable"}
    return [picture.id for picture in record.pictures if picture.id not in unread]


def _states(record: Record, trials: Sequence[Trial], id: str) -> set[str]:
    """What became of a picture in these trials; nothing where it was named wrongly before any attack."""
    found = (record.by_trial.get(trial.key, {}).get(id) for trial in trials)
    return {each.state for each in found if each}


def _smallest(record: Record, levels: Mapping[float, Sequence[Trial]], id: str) -> float | None:
    states = {eps: _states(record, trials, id) for eps, trials in levels.items()}
    if not any(states.values()):
        return 0.0
    return next((eps for eps, found in states.items() if found.intersection(_FALLEN)), None)


def _points(record: Record, levels: Mapping[float, Sequence[Trial]]) -> list[Point]:
    ids = _readable(record)
    smallest = {id: _smallest(record, levels, id) for id in ids}
    points = []
    for eps, trials in levels.items():
        left = [id for id in ids if (fell := smallest[id]) is None or fell > eps]
        sure = sum(_states(record, trials, id) == {"right"} for id in left)
        points.append(Point(eps, trials[0].level, Proportion(sure, len(ids)), Proportion(len(left), len(ids))))
    return points
