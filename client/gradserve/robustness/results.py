"""The figures and the outcomes as a JSON document; docs/robustness.md describes it."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gradserve.robustness.certified import CertifiedAccuracy
from gradserve.robustness.comparison import Change, Comparison
from gradserve.robustness.curves import Curve, smallest_budgets
from gradserve.robustness.figures import CorruptionResult, Figures, Robustness
from gradserve.robustness.journal import Outcome
from gradserve.robustness.plan import Trial
from gradserve.robustness.proportion import Proportion
from gradserve.robustness.record import Record
from gradserve.robustness.thresholds import Threshold
from gradserve.robustness.words import meaning

SCHEMA = 1  # The version of the document. A name that is removed or means something else raises it, a new one does not.


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


def write(path: Path, document: Mapping[str, Any]) -> None:
    """Write the document with a line for each picture's outcomes."""
    head = {name: value for name, value in document.items() if name != "outcomes"}
    lines = ",\n".join("    " + json.dumps(each, ensure_ascii=False) for each in document["outcomes"])
    text = json.dumps(head, indent=2, ensure_ascii=False).removesuffix("\n}")
    path.write_text(f'{text},\n  "outcomes": [\n{lines}\n  ]\n}}\n', encoding="utf-8")


def document(record: Record, figures: Figures, effort: RunStats) -> dict[str, Any]:
    """All figures and outcomes of a run, as JSON takes them."""
    plan = record.plan
    return {
        "schema": SCHEMA,
        "verdict": figures.verdict,
        "holds": figures.verdict == "passed",
        "model": plan.model,
        "head": figures.head,
        "accuracy_means": meaning(figures),
        "weights": dict(plan.digests),
        "heads": dict(plan.heads),
        "reference": plan.reference,
        "seed": plan.seed,
        "preprocess": plan.preprocess,
        "precision": plan.precision,
        "pictures": effort.pictures,
        "shard": {"number": record.shard.number, "of": record.shard.of} if record.shard else None,
        "set": {"pictures": record.whole.pictures, "digest": record.whole.digest},
        "clean": {**_share(figures.clean), "warnings": dict(figures.warnings)},
        "robust": [_robustness(each) for each in figures.attacks],
        "robust_to_all": [_robustness(each) for each in figures.together],
        "curves": [_curve(each) for each in figures.curves],
        "corruptions": [_corruption(each) for each in figures.corruptions],
        "mce": figures.mce,
        "certified": _certified(figures.certified),
        "thresholds": [_threshold(each) for each in figures.thresholds],
        "unreadable": dict(figures.unreadable),
        "failed": dict(figures.failed),
        "effort": {
            "answers_from_the_journal": effort.known,
            "rows": effort.rows,
            "seconds": effort.seconds,
            "rows_per_second": effort.rows_per_second,
        },
        "groups": _groups(figures) if figures.column else None,
        "comparison": _comparison(figures.comparison) if figures.comparison else None,
        "trials": [_trial(trial) for trial in plan.trials],
        "outcomes": _outcomes(record),
    }


def _trial(trial: Trial) -> dict[str, Any]:
    return {
        "name": trial.name,
        "level": trial.level,
        "eps": trial.arguments.get("eps"),
        "model": trial.model,
        "natural": trial.natural,
        "settings": trial.settings,
    }


def _outcomes(record: Record) -> list[dict[str, Any]]:
    """Each picture with its outcomes by the names of the trials; values that are empty are left out."""
    names = record.trial_names()
    budgets = smallest_budgets(record)
    by_picture: dict[str, dict[str, Any]] = {}
    for each in record.outcomes:
        by_picture.setdefault(each.id, {})[names[each.trial]] = _outcome(each)
    return [
        {
            "id": each.id,
            "label": each.label,
            "class_name": each.class_name,
            "digest": each.digest,
            **({} if each.group is None else {"group": each.group}),
            "smallest_eps": {attack: found[each.id] for attack, found in budgets.items() if each.id in found},
            "trials": {name: found[name] for name in names.values() if name in found},
        }
        for each, found in ((each, by_picture.get(each.id, {})) for each in record.pictures)
    ]


def _outcome(outcome: Outcome) -> dict[str, Any]:
    values = {
        "state": outcome.state,
        "predicted": outcome.predicted,
        "margin": outcome.margin if outcome.margin is not None and math.isfinite(outcome.margin) else None,
        "detail": outcome.detail,
        "loss": outcome.loss,
        "felled_by": outcome.felled_by,
        "warnings": list(outcome.warnings),
        "reasons": list(outcome.reasons),
        "radius": outcome.radius,
    }
    return {name: value for name, value in values.items() if value not in ("", None, [])}


def _comparison(comparison: Comparison) -> dict[str, Any]:
    return {
        "model": comparison.model,
        "weights": comparison.digest,
        "same_weights": comparison.same_weights,
        "no_worse": comparison.no_worse,
        "left_out": comparison.left_out,
        "changes": [_change(each) for each in comparison.changes],
    }


def _change(change: Change) -> dict[str, Any]:
    return {
        "name": change.name,
        "before": _share(change.before),
        "now": _share(change.now),
        "least_change": change.least / change.now.of,
        "most_change": change.most / change.now.of,
        "p_value": change.p_value,
        "lost": list(change.lost),
        "gained": list(change.gained),
    }


def _curve(curve: Curve) -> dict[str, Any]:
    points = [
        {
            "eps": point.eps,
            "level": point.level,
            **_share(point.standing),
            "high": point.band[1],
            "possible_accuracy": point.possible.value,
        }
        for point in curve.points
    ]
    return {"attack": curve.attack, "norm": curve.norm, "points": points}


def _groups(figures: Figures) -> dict[str, Any]:
    figures_of = {
        name: {
            "clean": _share(group.clean),
            "robust": [_robustness(each) for each in group.attacks],
            "robust_to_all": [_robustness(each) for each in group.together],
            "corruptions": [_corruption(each) for each in group.corruptions],
            "mce": group.mce,
            "certified": _certified(group.certified),
        }
        for name, group in figures.groups.items()
    }
    return {"column": figures.column, "figures": figures_of}


def _certified(accuracy: CertifiedAccuracy | None) -> dict[str, Any] | None:
    if accuracy is None:
        return None
    points = []
    for point in accuracy.points:
        low, high = point.interval
        points.append({"radius": point.radius, **_share(point.certified), "low": low, "high": high})
    noise = {name: json.loads(text) for name, text in accuracy.trial.settings.items()}
    counts = {"abstained": accuracy.abstained, "failed": accuracy.failed, "warnings": dict(accuracy.warnings)}
    return {**noise, "points": points, **counts}


def _share(share: Proportion) -> dict[str, Any]:
    low, high = share.interval
    return {"accuracy": share.value, "low": low, "high": high, "right": share.count, "of": share.of}


def _corruption(result: CorruptionResult) -> dict[str, Any]:
    return {
        "kind": result.kind,
        "errors": dict(result.errors),
        "intervals": {severity: list(result.wrong(severity).interval) for severity in result.errors},
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
        "stages": [
            {"method": each.method, **_share(each.standing), "possible_accuracy": each.possible.value}
            for each in attack.stages
        ],
        "verdicts": dict(attack.verdicts),
        "warnings": dict(attack.warnings),
    }
