"""`gradserve robustness --merge`: the reports of one run from those of its shards."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from gradserve.cli.commands import robustness_report
from gradserve.cli.commands.robustness_options import Thresholds
from gradserve.robustness import reading, shards
from gradserve.robustness.certified import check_radii
from gradserve.robustness.judging import all_figures


def merge(folders: Sequence[Path], thresholds: Thresholds, out: Path, model: str = "") -> dict[str, Any]:
    """Write the reports into `out`; the document of results.json. Raises ValueError where they are not one run's.

    `model`: the one that they must have measured, if that is told.
    """
    if out.resolve() in [folder.resolve() for folder in folders]:
        raise ValueError(f"--out {out} is the folder of a shard, whose results would be overwritten; name another one")
    record, effort = shards.merged(folders)
    if model not in ("", record.plan.model):
        raise ValueError(f"--model {model}: these shards measured {record.plan.model}")
    if thresholds.group not in ("", record.column):
        grouped = f"by {record.column}" if record.column else "not grouped"
        raise ValueError(
            f"--group {thresholds.group}: these shards are {grouped}, which is told when they are measured"
        )
    baseline = reading.record(thresholds.baseline) if thresholds.baseline else None
    limits = thresholds.limits(record.column)
    check_radii(record.plan, limits)
    figures = all_figures(record, limits, baseline)
    weights = {f"weights of {name}": digest for name, digest in record.plan.digests.items()}
    date = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    origin = {"date": date, "merged from": " ".join(map(str, folders)), **weights}
    out.mkdir(parents=True, exist_ok=True)
    return robustness_report.write(out, record, figures, effort, robustness_report.Shown(), origin)
