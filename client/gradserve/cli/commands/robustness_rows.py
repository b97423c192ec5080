"""The lines of the tables of accuracies in the reports of `gradserve robustness`."""

from dataclasses import dataclass

from gradserve.robustness.figures import Figures, Robustness
from gradserve.robustness.proportion import Proportion
from gradserve.robustness.run import UNSATURATED_LOSS


@dataclass(frozen=True)
class Row:
    """A line of the table of accuracies; `exact` is the share where all was measured."""

    name: str
    accuracy: str
    exact: float | None
    interval: str
    pictures: str
    remark: str

    def cells(self) -> list[str | float]:
        """What a page's table shows of it, without the remark."""
        return [self.name, self.accuracy if self.exact is None else self.exact, self.interval, self.pictures]


def accuracy_rows(figures: Figures) -> list[Row]:
    """The clean accuracy, what each attack and all attacks of a budget leave, and each stage of an ensemble."""
    shares = [("clean", figures.clean, figures.clean, "")]
    for each in [*figures.attacks, *figures.together]:
        name = f"{each.attack} {each.eps}"
        shares.append((name, each.standing, each.possible, _remark(each)))
        shares += [(f"after {stage.method}", stage.standing, stage.possible, "") for stage in each.stages]
    return [_row(*row) for row in shares]


def _row(name: str, least: Proportion, most: Proportion, remark: str) -> Row:
    """Two shares where not every picture was measured: what surely stands, and what may."""
    interval = f"{least.interval[0]:.1%} to {most.interval[1]:.1%}"
    if least == most:
        return Row(name, f"{least.value:.1%}", least.value, interval, f"{least.count} of {least.of}", remark)
    accuracy = f"{least.value:.1%} to {most.value:.1%}"
    return Row(name, accuracy, None, interval, f"{least.count} to {most.count} of {least.of}", remark)


def _remark(attack: Robustness) -> str:
    remarks = {
        "already_misclassified": "wrong before the attack",
        "lost_in_encoding": "lost in 8 bits, counted as fallen",
    }
    parts = [f"{count} {remarks[verdict]}" for verdict, count in attack.verdicts.items() if verdict in remarks]
    if attack.not_measured:
        parts.append(f"{attack.not_measured} not measured")
    if attack.tried_again:
        parts.append(f"{attack.tried_again} tried again with loss {UNSATURATED_LOSS}")
    return ", ".join([*parts, *([f"{attack.failed} requests failed, counted as fallen"] if attack.failed else [])])
