"""A run beside an earlier one on the same pictures: which figures changed, which pictures changed sides."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

from gradserve.robustness.certified import radii_of
from gradserve.robustness.journal import State
from gradserve.robustness.plan import CLEAN, Trial
from gradserve.robustness.proportion import Proportion
from gradserve.robustness.record import Picture, Record
from gradserve.robustness.thresholds import Threshold

_MAX_IDS_SHOWN = 5  # The most pictures that a refusal names.


class NotComparable(ValueError):
    """Two runs that did not measure the same thing: says what differs."""


@dataclass(frozen=True)
class Change:
    """One figure in both runs, on the pictures that both could read.

    `lost` stood in the baseline and stand no longer, `gained` the reverse. `least` and `most` are the change in the
    number of pictures that stand; they differ where not every picture was measured.
    """

    name: str
    before: Proportion
    now: Proportion
    lost: Sequence[str]
    gained: Sequence[str]
    least: int
    most: int
    attack: bool = False  # Whether it is the figure of an attack.

    @property
    def p_value(self) -> float:
        """That of the exact test of McNemar (1947), two-sided."""
        return mcnemar(len(self.lost), len(self.gained))

    def threshold(self, no_worse: float) -> Threshold:
        """The figure may fall by so much of the pictures."""
        least, most = (count / self.now.of for count in (self.least, self.most))
        name = f"change of {self.name} since the baseline"
        return Threshold(name, least, least=0.0 - no_worse, possible=most if self.attack else None)


@dataclass(frozen=True)
class Comparison:
    """A run and its baseline. `left_out` are pictures that one of them could not read."""

    model: str  # The baseline's model.
    digest: str  # The digest of its weights.
    same_weights: bool
    changes: Sequence[Change]
    left_out: int
    no_worse: float | None = None

    @property
    def thresholds(self) -> list[Threshold]:
        """What is asked of the changes."""
        return [] if self.no_worse is None else [each.threshold(self.no_worse) for each in self.changes]


def mcnemar(lost: int, gained: int) -> float:
    """The probability of so uneven a split of these pictures, or a more uneven one, if each side were as likely.

    Both tails of the binomial distribution with a half, computed in whole numbers.
    """
    count, term, total = lost + gained, 1, 0
    for place in range(min(lost, gained) + 1):
        total += term
        term = term * (count - place) // (place + 1)
    return float(min(Fraction(1), Fraction(2 * total, 1 << count)))


def check_comparable(now: Record, before: Record) -> None:
    """Raises NotComparable where two runs ask other things or of other pictures, whatever was answered."""
    if differing := [*_differences(now, before)]:
        raise NotComparable("the baseline measured something else: " + "; ".join(differing))


def compared(now: Record, before: Record, no_worse: float | None = None) -> Comparison:
    """Every figure of both runs. Raises NotComparable where they did not measure the same thing."""
    check_comparable(now, before)
    unread = {each.id for record in (now, before) for each in record.outcomes if each.state == "unreadable"}
    ids = [each.id for each in now.pictures if each.id not in unread]
    if not ids:
        raise NotComparable("no picture could be read both now and in the baseline's run")
    earlier = {_name(trial): trial for trial in _own(before)}
    changes = [_clean(now, before, ids)]
    groups = [(f"accuracy, {trial}", [trial]) for trial in _own(now) if trial.natural]
    hostile = [trial for trial in _own(now) if trial.hostile]
    groups = [(f"robust accuracy, {trial}", [trial]) for trial in hostile] + groups
    for level in dict.fromkeys(trial.level for trial in hostile):
        several = [trial for trial in hostile if trial.level == level]
        if len(several) > 1:
            groups.append((f"robust accuracy, {' + '.join(each.name for each in several)} {level}", several))
    for name, trials in groups:
        sides = (_sides(before, [earlier[_name(each)] for each in trials], ids), _sides(now, trials, ids))
        changes.append(_change(name, *sides, attack=not trials[0].natural))
    for trial in (each for each in _own(now) if each.certifies):
        for radius in radii_of(trial):
            sides = (_certified(before, earlier[_name(trial)], radius, ids), _certified(now, trial, radius, ids))
            changes.append(_change(f"certified accuracy, radius {radius:g}", *sides, attack=False))
    digest, model = before.plan.digests[before.plan.model], before.plan.model
    return Comparison(model, digest, digest == now.plan.digests[now.plan.model], changes, len(unread), no_worse)


def _own(record: Record) -> list[Trial]:
    """The trials of the model that is checked, without those of a reference."""
    return [trial for trial in record.plan.trials if trial.model == record.plan.model]


def _name(trial: Trial) -> tuple[str, str]:
    return trial.name, trial.level


def _clean(now: Record, before: Record, ids: Sequence[str]) -> Change:
    sides = [
        {id: "right" if id in found and found[id].state == "right" else "wrong" for id in ids}
        for found in (record.by_trial.get(CLEAN, {}) for record in (before, now))
    ]
    return _change("clean accuracy", *sides, attack=False)  # type: ignore[arg-type]


def _sides(record: Record, trials: Sequence[Trial], ids: Sequence[str]) -> dict[str, State]:
    """Whether each picture stands all trials. One without an outcome was named wrongly before any attack."""
    by_trial = [record.by_trial.get(trial.key, {}) for trial in trials]
    sides: dict[str, State] = {}
    for id in ids:
        states = {found[id].state if id in found else "wrong" for found in by_trial}
        sides[id] = (
            "right" if states == {"right"} else "not_measured" if states <= {"right", "not_measured"} else "wrong"
        )
    return sides


def _certified(record: Record, trial: Trial, radius: float, ids: Sequence[str]) -> dict[str, State]:
    """Whether each picture is certified with at least that radius."""
    found = record.by_trial.get(trial.key, {})
    right = {id for id, each in found.items() if each.state == "right" and (each.radius or 0.0) >= radius}
    return {id: "right" if id in right else "wrong" for id in ids}


def _change(name: str, before: Mapping[str, State], now: Mapping[str, State], *, attack: bool) -> Change:
    sure = [sum(side == "right" for side in sides.values()) for sides in (before, now)]
    possible = [sum(side != "wrong" for side in sides.values()) for sides in (before, now)]
    return Change(
        name,
        Proportion(sure[0], len(before)),
        Proportion(sure[1], len(now)),
        lost=[id for id in now if (before[id], now[id]) == ("right", "wrong")],
        gained=[id for id in now if (before[id], now[id]) == ("wrong", "right")],
        least=sure[1] - possible[0],
        most=possible[1] - sure[0],
        attack=attack,
    )


def _differences(now: Record, before: Record) -> Iterator[str]:
    """What makes two runs incomparable; weights may differ."""
    yield from _other_pictures(now, before)
    for name in ("seed", "preprocess", "precision"):
        mine, theirs = getattr(now.plan, name), getattr(before.plan, name)
        if mine != theirs:
            yield f"{name} is {mine} here and {theirs} in the baseline"
    heads = [record.plan.head for record in (now, before)]
    if heads.count("multilabel") == 1:
        yield f"the model's head is {heads[0]} here and {heads[1]} in the baseline, with other accuracies"
    yield from _other_trials(now, before)


def _other_trials(now: Record, before: Record) -> Iterator[str]:
    mine, theirs = ({_name(trial): trial.settings for trial in _own(record)} for record in (now, before))
    for where, only in (("here", mine.keys() - theirs.keys()), ("in the baseline", theirs.keys() - mine.keys())):
        if only:
            yield f"only {where} there is {', '.join(sorted(' '.join(each) for each in only))}"
    for trial in (each for each in mine if each in theirs and mine[each] != theirs[each]):
        a, b = mine[trial], theirs[trial]
        parts = (
            f"{key} is {a.get(key, 'the default')} here and {b.get(key, 'the default')} in the baseline"
            for key in sorted(a.keys() | b.keys())
            if a.get(key) != b.get(key)
        )
        yield f"of {' '.join(trial)} {', '.join(parts)}"


def _other_pictures(now: Record, before: Record) -> Iterator[str]:
    mine, theirs = ({each.id: each for each in record.pictures} for record in (now, before))
    both = [(mine[id], theirs[id]) for id in mine if id in theirs]
    kinds = {
        "pictures only here": [id for id in mine if id not in theirs],
        "pictures only in the baseline": [id for id in theirs if id not in mine],
        "pictures of other content": [a.id for a, b in both if a.digest != b.digest],
        "pictures of another class": [a.id for a, b in both if not _same_class(a, b)],
    }
    for text, ids in kinds.items():
        if ids:
            more = f" and {len(ids) - _MAX_IDS_SHOWN} more" if len(ids) > _MAX_IDS_SHOWN else ""
            yield f"{text}: {', '.join(ids[:_MAX_IDS_SHOWN])}{more}"


def _same_class(one: Picture, other: Picture) -> bool:
    """Whether both models mean the same class: by its name, or by its number where a model has no names."""
    if one.class_name == other.class_name:
        return True
    nameless = any(re.fullmatch(r"class \d+|", each.class_name) for each in (one, other))
    return nameless and one.label == other.label
