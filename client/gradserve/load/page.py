"""A page about loads in one HTML file: latency over time, latency by load, and codes."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gradserve import pages
from gradserve.load import charts
from gradserve.load.figures import REFUSED, LoadFigures
from gradserve.load.loops import OpenLoop, Recording
from gradserve.load.sender import OK, Sample

_MAX_BINS = 60  # Stretches of time that a chart tells apart.
_MIN_WIDTH = 0.5  # The shortest of these stretches in seconds; a load that is shorter has one.
_SINCE = "seconds since counting began"


@dataclass(frozen=True)
class LoadRun:
    """A load under its title, as it was recorded and what came of it."""

    title: str
    recording: Recording
    figures: LoadFigures


def html(title: str, facts: Sequence[str], runs: Sequence[LoadRun]) -> str:
    """The whole page, which refers to no other file."""
    by_load = _by_load(runs)
    drawn = [(run, [_over_time(run.recording), _codes(run.recording)]) for run in runs]
    return pages.rendered("load", {"title": title, "facts": facts, "by_load": by_load, "runs": drawn, "size": charts})


def _over_time(recording: Recording) -> charts.Chart:
    """Percentiles of the requests that were due in each stretch of the measured time."""
    binned, width = _binned(recording)
    ok = [[each.seconds for each in samples if each.code == OK] for samples in binned]
    refused = [[each.seconds for each in samples if each.code == REFUSED] for samples in binned]
    wanted = {"p50": (ok, 50), "p95": (ok, 95), "max": (ok, 100), "refused, p95": (refused, 95)}
    series = {
        name: [
            ((place + 0.5) * width, float(np.percentile(seconds, percent)) if seconds else None)
            for place, seconds in enumerate(by_bin)
        ]
        for name, (by_bin, percent) in wanted.items()
    }
    return charts.latencies("Latency over time", _SINCE, width * len(binned), series)


def _codes(recording: Recording) -> charts.Chart:
    """How the requests ended that were due in each stretch of the measured time."""
    binned, width = _binned(recording)
    codes = [OK, *sorted({each.code for samples in binned for each in samples} - {OK})]
    series = {code: [sum(each.code == code for each in samples) / width for samples in binned] for code in codes}
    return charts.stacked("Codes", _SINCE, "requests per second", width, series)


def _by_load(runs: Sequence[LoadRun]) -> charts.Chart | None:
    """Percentiles by the rate of open loops; None where there was at most one."""
    opened = sorted(
        (run.figures.all for run in runs if isinstance(run.recording.loop, OpenLoop)), key=lambda all: all.offered
    )
    if len(opened) < 2:
        return None
    series = {
        name: [(each.offered, getattr(each.ok, name) if each.ok else None) for each in opened]
        for name in ("p50", "p95", "p99")
    }
    return charts.latencies("Latency by load", "requests offered per second", opened[-1].offered, series)


def _binned(recording: Recording) -> tuple[list[list[Sample]], float]:
    """The samples of the measured time in stretches of equal length, and that length in seconds."""
    seconds = recording.end - recording.begin
    count = max(1, min(_MAX_BINS, int(seconds / _MIN_WIDTH)))
    binned: list[list[Sample]] = [[] for _ in range(count)]
    for each in recording.samples:
        if recording.begin <= each.due <= recording.end:
            binned[min(int((each.due - recording.begin) / seconds * count), count - 1)].append(each)
    return binned, seconds / count
