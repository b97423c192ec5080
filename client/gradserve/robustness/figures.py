"""Counting outcomes: accuracies with Wilson intervals, corruption errors, mCE, and whether the thresholds hold."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from gradserve.datasets import Example
from gradserve.robustness import certified
from gradserve.robustness.certified import CertifiedAccuracy
from gradserve.robustness.comparison import Comparison
from gradserve.robustness.curves import Curve
from gradserve.robustness.journal import Outcome
from gradserve.robustness.plan import CLEAN, Plan, Trial
from gradserve.robustness.proportion import Proportion
from gradserve.robustness.record import Picture
from gradserve.robustness.stages import StageStanding, after_stages
from gradserve.robustness.thresholds import Limits, Threshold, Verdict

NO_LIMITS = Limits()
_WORST_FIRST = ("wrong", "not_measured", "right")


@dataclass(frozen=True)
class Robustness:
    """What one attack leaves standing of all readable pictures. A failed request leaves nothing standing.

    Pictures whose attack had nothing to follow are not measured: they may stand or not. `reasons` and `warnings` have
    the number of pictures that each came with.
    """

    attack: str
    eps: str
    standing: Proportion
    failed: int
    verdicts: Mapping[str, int]
    not_measured: int = 0
    reasons: Mapping[str, int] = field(default_factory=dict)
    tried_again: int = 0  # Pictures that were attacked again with another loss.
    warnings: Mapping[str, int] = field(default_factory=dict)
    stages: Sequence[StageStanding] = ()  # What stands after each attack of an ensemble.

    @property
    def possible(self) -> Proportion:
        """What it would leave standing if every picture that was not measured stood."""
        return Proportion(self.standing.count + self.not_measured, self.standing.of)

    @property
    def blind(self) -> bool:
        """Whether it measured nothing at all."""
        return set(self.verdicts) == {"not_measured"}


@dataclass(frozen=True)
class CorruptionResult:
    """The errors under one kind of corruption by severity; `relative` is their sum over the reference model's."""

    kind: str
    errors: Mapping[str, float]
    reference: Mapping[str, float]
    failed: int
    warnings: Mapping[str, int] = field(default_factory=dict)
    of: int = 0  # Pictures that each error is a share of.

    def wrong(self, severity: str) -> Proportion:
        """The pictures that were named wrongly at a severity."""
        return Proportion(round(self.errors[severity] * self.of), self.of)

    @property
    def mean(self) -> float:
        """The mean error over the severities."""
        return sum(self.errors.values()) / len(self.errors)

    @property
    def relative(self) -> float | None:
        """CE (Hendrycks & Dietterich 2019); None without a reference that errs."""
        total = sum(self.reference.values())
        return sum(self.errors.values()) / total if total else None


@dataclass(frozen=True)
class Figures:
    """Everything that was counted."""

    clean: Proportion
    attacks: Sequence[Robustness]
    together: Sequence[Robustness]  # All attacks of one eps together, where there are several.
    corruptions: Sequence[CorruptionResult]
    mce: float | None
    unreadable: Mapping[str, str]
    failed: Mapping[str, str]
    thresholds: Sequence[Threshold]
    warnings: Mapping[str, int] = field(default_factory=dict)  # Warnings for the clean pictures, and their counts.
    head: str = "softmax"  # The model's head.
    comparison: Comparison | None = None  # With an earlier run.
    curves: Sequence[Curve] = ()  # Accuracy over budget.
    column: str = ""  # The column of labels.csv that groups the pictures, and the figures of each group.
    groups: Mapping[str, "Figures"] = field(default_factory=dict)
    certified: CertifiedAccuracy | None = None

    def beside(self, comparison: Comparison) -> "Figures":
        """With a comparison and its thresholds."""
        return replace(self, comparison=comparison, thresholds=[*self.thresholds, *comparison.thresholds])

    @property
    def verdict(self) -> Verdict:
        """Whether the thresholds hold.

        "failed": one fails, whatever became of the pictures that were not measured. "not_measured": that depends on
        these pictures, or an attack measured nothing and no threshold is about attacks.
        """
        verdicts = {each.verdict for each in self.thresholds}
        if "failed" in verdicts:
            return "failed"
        limits_attacks = any(each.possible is not None for each in self.thresholds)
        blind = not limits_attacks and any(each.blind for each in self.attacks)
        return "not_measured" if "not_measured" in verdicts or blind else "passed"


def counted(
    plan: Plan, pictures: Iterable[Example | Picture], answers: Iterable[Outcome], limits: Limits = NO_LIMITS
) -> Figures:
    """The figures of these pictures in a finished run, whose journal may know the outcomes of others too."""
    ids = {picture.id for picture in pictures}
    outcomes = [outcome for outcome in answers if outcome.id in ids]
    unreadable = {each.id: each.detail for each in outcomes if each.state == "unreadable"}
    names = {trial.key: str(trial) if trial.model == plan.model else trial.key for trial in plan.trials}
    failed = {f"{o.id}, {names.get(o.trial, o.trial)}": o.detail for o in outcomes if o.state == "failed"}
    readable = [id for id in ids if id not in unreadable]
    by_trial: dict[str, dict[str, Outcome]] = {}
    for each in outcomes:
        by_trial.setdefault(each.trial, {})[each.id] = each
    clean = Proportion(_right(by_trial.get(CLEAN, {}), readable), len(readable))
    hostile = [trial for trial in plan.trials if trial.hostile]
    attacks = [_robustness([trial], by_trial, readable) for trial in hostile]
    levels = dict.fromkeys(trial.level for trial in hostile)
    groups = [[trial for trial in hostile if trial.level == level] for level in levels]
    together = [_robustness(group, by_trial, readable) for group in groups if len(group) > 1]
    corruptions = _corruptions(plan, by_trial, readable)
    mce = mean_ce(corruptions)
    accuracy = certified.certified_accuracy(plan, by_trial, readable)
    thresholds = [*_thresholds(limits, clean, [*attacks, *together], mce), *certified.thresholds(accuracy, limits)]
    warnings = _count_pictures(by_trial.get(CLEAN, {}).values(), "warnings")
    figures = Figures(clean, attacks, together, corruptions, mce, unreadable, failed, thresholds, warnings, plan.head)
    return replace(figures, certified=accuracy)


def _right(outcomes: Mapping[str, Outcome], readable: Iterable[str]) -> int:
    return sum(1 for id in readable if id in outcomes and outcomes[id].state == "right")


def _robustness(
    trials: Sequence[Trial], by_trial: Mapping[str, Mapping[str, Outcome]], readable: Sequence[str]
) -> Robustness:
    """What stands all of these attacks. A picture without an outcome was named wrongly before any attack."""
    by_attack = [by_trial.get(trial.key, {}) for trial in trials]
    by_picture = [[each[id] for each in by_attack if id in each] for id in readable]
    states = [{each.state for each in outcomes} for outcomes in by_picture if len(outcomes) == len(trials)]
    outcomes = [each for several in by_picture for each in several]
    return Robustness(
        attack=" + ".join(trial.name for trial in trials),
        eps=trials[0].level,
        standing=Proportion(sum(each == {"right"} for each in states), len(readable)),
        failed=sum(each.state == "failed" for each in outcomes),
        verdicts=dict(Counter(filter(None, map(_verdict, by_picture)))),
        not_measured=sum("not_measured" in each <= {"right", "not_measured"} for each in states),
        reasons=_count_pictures(outcomes, "reasons"),
        tried_again=len({each.id for each in outcomes if each.loss}),
        warnings=_count_pictures(outcomes, "warnings"),
        stages=after_stages(" + ".join(trial.name for trial in trials), outcomes, len(readable)),
    )


def _count_pictures(outcomes: Iterable[Outcome], field: Literal["warnings", "reasons"]) -> dict[str, int]:
    """The number of pictures that each text came with, the most frequent first."""
    pictures = {(text, each.id) for each in outcomes for text in getattr(each, field)}
    return dict(sorted(Counter(text for text, _ in pictures).items(), key=lambda each: (-each[1], each[0])))


def _verdict(outcomes: Sequence[Outcome]) -> str | None:
    """On one picture: of the first attack that it does not stand, else of any; None without an answer."""
    answered = (each for each in outcomes if each.state != "failed")
    worst = min(answered, key=lambda each: _WORST_FIRST.index(each.state), default=None)
    return worst.detail if worst else None


def _corruptions(
    plan: Plan, by_trial: Mapping[str, Mapping[str, Outcome]], readable: Sequence[str]
) -> list[CorruptionResult]:
    natural = [trial for trial in plan.trials if trial.natural]
    errors: dict[tuple[str, str], dict[str, float]] = {}
    answered: dict[str, list[Outcome]] = {}
    failed: Counter[str] = Counter()
    for trial in natural:
        outcomes = by_trial.get(trial.key, {})
        unanswered = sum(1 for each in outcomes.values() if each.state == "failed")
        failed[trial.name] += unanswered
        # A failure counts against the model and for the reference.
        flattered = 0 if trial.model == plan.model else unanswered
        right = _right(outcomes, readable) + flattered
        errors.setdefault((trial.name, trial.model), {})[trial.level] = 1 - Proportion(right, len(readable)).value
        answered.setdefault(trial.name, []).extend(outcomes.values())
    return [
        CorruptionResult(
            kind,
            errors[kind, plan.model],
            errors.get((kind, plan.reference), {}),
            failed[kind],
            _count_pictures(answered[kind], "warnings"),
            len(readable),
        )
        for kind in dict.fromkeys(trial.name for trial in natural)
    ]


def mean_ce(corruptions: Sequence[CorruptionResult]) -> float | None:
    """The mean CE over the kinds under which the reference errs; None where it never does but the model does."""
    relatives = [each.relative for each in corruptions if each.relative is not None]
    beyond = any(each.relative is None and each.mean > 0 for each in corruptions)
    return sum(relatives) / len(relatives) if relatives and not beyond else None


def _thresholds(limits: Limits, clean: Proportion, attacks: Sequence[Robustness], mce: float | None) -> list[Threshold]:
    thresholds = [Threshold("clean accuracy", clean.value, least=limits.clean)] if limits.clean is not None else []
    if limits.robust is not None:
        thresholds += [
            Threshold(
                f"robust accuracy, {each.attack} {each.eps}",
                each.standing.value,
                least=limits.robust,
                possible=each.possible.value,
            )
            for each in attacks
        ]
    return thresholds + ([Threshold("mCE", mce, most=limits.mce)] if limits.mce is not None else [])
