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
    """Everything that was found, as JSON takes it."""
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


def _corruption(found: CorruptionResult) -> dict[str, Any]:
    return {
        "kind": found.kind,
        "errors": dict(found.errors),
        "mean_error": found.mean,
        "reference_errors": dict(found.reference),
        "ce": found.relative,
        "failed": found.failed,
        "warnings": dict(found.warnings),
    }


def _threshold(found: Threshold) -> dict[str, Any]:
    return {
        "name": found.name,
        "value": found.value,
        "possible": found.possible,
        "least": found.least,
        "most": found.most,
        "verdict": found.verdict,
        "holds": found.verdict == "passed",
    }


def _robustness(found: Robustness) -> dict[str, Any]:
    return {
        "attack": found.attack,
        "eps": found.eps,
        **_share(found.standing),
        "failed": found.failed,
        "not_measured": found.not_measured,
        "possible_accuracy": found.possible.value,
        "reasons": dict(found.reasons),
        "tried_again": found.tried_again,
        "verdicts": dict(found.verdicts),
        "warnings": dict(found.warnings),
    }
