"""The figures as a JSON document."""

from dataclasses import dataclass
from typing import Any

from gradserve.robustness.figures import Figures, Robustness, Share
from gradserve.robustness.plan import Plan


@dataclass(frozen=True)
class Effort:
    """What a run cost: pictures in the set, answers that the journal knew already, rows and seconds of the others."""

    pictures: int
    known: int
    rows: int
    seconds: float

    @property
    def rows_per_second(self) -> float:
        """Rows a second; a row is one picture through one pass."""
        return self.rows / self.seconds if self.seconds else 0.0


def document(plan: Plan, figures: Figures, effort: Effort) -> dict[str, Any]:
    """Everything that was found, as JSON takes it."""
    return {
        "holds": figures.holds,
        "model": plan.model,
        "weights": dict(plan.digests),
        "seed": plan.seed,
        "preprocess": plan.preprocess,
        "precision": plan.precision,
        "pictures": effort.pictures,
        "clean": _share(figures.clean),
        "robust": [_robustness(each) for each in figures.attacks],
        "robust_to_all": [_robustness(each) for each in figures.together],
        "corruptions": [
            {
                "kind": each.kind,
                "errors": dict(each.errors),
                "mean_error": each.mean,
                "reference_errors": dict(each.reference),
                "ce": each.relative,
                "failed": each.failed,
            }
            for each in figures.corruptions
        ],
        "mce": figures.mce,
        "thresholds": [
            {"name": each.name, "value": each.value, "least": each.least, "most": each.most, "holds": each.holds}
            for each in figures.thresholds
        ],
        "unreadable": dict(figures.unreadable),
        "failed": dict(figures.failed),
        "effort": {
            "answers_from_the_journal": effort.known,
            "rows": effort.rows,
            "seconds": effort.seconds,
            "rows_per_second": effort.rows_per_second,
        },
    }


def _share(share: Share) -> dict[str, Any]:
    low, high = share.interval
    return {"accuracy": share.value, "low": low, "high": high, "right": share.count, "of": share.of}


def _robustness(found: Robustness) -> dict[str, Any]:
    verdicts = dict(found.verdicts)
    return {"attack": found.attack, "eps": found.eps, **_share(found.standing), "failed": found.failed} | {
        "verdicts": verdicts
    }
