"""The figures as a JSON document."""

from dataclasses import dataclass
from typing import Any

from gradserve.robustness.figures import CorruptionResult, Figures, Proportion, Robustness, Threshold
from gradserve.robustness.plan import Plan
from gradserve.robustness.words import meaning


@dataclass(frozen=True)
class RunStats:
    """What a run cost: pictures in the set, answers that the journal knew already, rows and seconds of the others."""

    pictures: int
    known: int
    rows: int
    seconds: float

    @property
    def rows_per_second(self) -> float:
        """Rows a second; a row is one picture through one pass."""
        return self.rows / self.seconds if self.seconds else 0.0


def document(plan: Plan, figures: Figures, effort: RunStats) -> dict[str, Any]:
    """All figures of a run, as JSON takes them."""
    return {
        "verdict": figures.verdict,
        "holds": figures.verdict == "passed",
        "model": plan.model,
        "head": figures.head,
        "accuracy_means": meaning(figures),
        "weights": dict(plan.digests),
        "seed": plan.seed,
        "preprocess": plan.preprocess,
        "precision": plan.precision,
        "pictures": effort.pictures,
        "clean": {**_share(figures.clean), "warnings": dict(figures.warnings)},
        "robust": [_robustness(each) for each in figures.attacks],
        "robust_to_all": [_robustness(each) for each in figures.together],
        "corruptions": [_corruption(each) for each in figures.corruptions],
        "mce": figures.mce,
        "thresholds": [_threshold(each) for each in figures.thresholds],
        "unreadable": dict(figures.unreadable),
        "failed": dict(figures.failed),
        "effort": {
            "answers_from_the_journal": effort.known,
            "rows": effort.rows,
            "seconds": effort.seconds,
            "rows_per_second": effort.rows_per_second,
        },
    }


def _share(share: Proportion) -> dict[str, Any]:
    low, high = share.interval
    return {"accuracy": share.value, "low": low, "high": high, "right": share.count, "of": share.of}


def _corruption(result: CorruptionResult) -> dict[str, Any]:
    return {
        "kind": result.kind,
        "errors": dict(result.errors),
        "mean_error": result.mean,
        "reference_errors": dict(result.reference),
        "ce": result.relative,
        "failed": result.failed,
        "warnings": dict(result.warnings),
    }


def _threshold(threshold: Threshold) -> dict[str, Any]:
    return {
        "name": threshold.name,
        "value": threshold.value,
        "possible": threshold.possible,
        "least": threshold.least,
        "most": threshold.most,
        "verdict": threshold.verdict,
        "holds": threshold.verdict == "passed",
    }


def _robustness(attack: Robustness) -> dict[str, Any]:
    return {
        "attack": attack.attack,
        "eps": attack.eps,
        **_share(attack.standing),
        "failed": attack.failed,
        "not_measured": attack.not_measured,
        "possible_accuracy": attack.possible.value,
        "reasons": dict(attack.reasons),
        "tried_again": attack.tried_again,
        "verdicts": dict(attack.verdicts),
        "warnings": dict(attack.warnings),
    }
