"""What stands after each attack of an ensemble, of which each one meets only what still stands."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from gradserve.robustness.journal import Outcome
from gradserve.robustness.proportion import Proportion

STANDARD, QUICK = "ensemble", "malt"  # The attacks of --standard and --quick.
# The attacks of each ensemble, in their order.
STAGES: Mapping[str, Sequence[str]] = {STANDARD: ("apgd", "apgd_targeted", "fab_targeted", "square")}


@dataclass(frozen=True)
class StageStanding:
    """What stands after one attack of an ensemble and those before it: surely, and what may."""

    method: str
    standing: Proportion
    possible: Proportion


def after_stages(attack: str, outcomes: Iterable[Outcome], pictures: int) -> list[StageStanding]:
    """What stands after each stage of so many pictures; nothing for an attack without stages.

    A picture without an outcome was wrong before the attack. One that is wrong though no stage felled it, as behind a
    defence, and a failed request count as fallen from the first stage on, so that the last stage leaves what the
    attack leaves.
    """
    if attack not in STAGES:
        return []
    names = STAGES[attack]
    sure, unknown = [0] * len(names), 0
    for each in outcomes:
        unknown += each.state == "not_measured"
        for stage in range(_stands_for(each, names)):
            sure[stage] += 1
    return [
        StageStanding(name, Proportion(count, pictures), Proportion(count + unknown, pictures))
        for name, count in zip(names, sure, strict=True)
    ]


def _stands_for(outcome: Outcome, names: Sequence[str]) -> int:
    """How many of the first stages the picture surely stands."""
    if outcome.state == "right":
        return len(names)
    fell = outcome.state == "wrong" and outcome.felled_by in names
    return names.index(outcome.felled_by) if fell else 0
