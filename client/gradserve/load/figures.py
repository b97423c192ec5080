"""What the samples of a load say: rates, goodput, latencies, codes."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gradserve.load.loops import OpenLoop, Recording
from gradserve.load.mix import MixEntry
from gradserve.load.sender import NOT_SENT, OK, Sample

REFUSED = "RESOURCE_EXHAUSTED"
ALL = "all"
_MAX_LATE = 0.05  # Seconds; where more than 1 % of the requests are sent later than this, the generator was too slow.
_MAX_CPU = 0.9  # Share of a processor from which on the generator may be what limits the load.


@dataclass(frozen=True)
class Latency:
    """Percentiles of seconds from when requests were due until they came to their end."""

    p50: float
    p90: float
    p95: float
    p99: float
    max: float

    @classmethod
    def of(cls, seconds: Sequence[float]) -> "Latency | None":
        """None where there are none."""
        return cls(*map(float, np.percentile(seconds, [50, 90, 95, 99, 100]))) if seconds else None


@dataclass(frozen=True)
class EntryFigures:
    """What one entry of the mix, or all together, did in the measured time.

    requests, codes, reasons and latencies are of the requests that were due in it. answered, goodput and rows, each per
    second, are of the answers that came in it; goodput counts those that came within their deadline.
    """

    name: str
    rpc: str
    requests: int
    offered: float
    sent: float
    answered: float
    goodput: float
    rows: float
    codes: dict[str, int]
    reasons: dict[str, dict[str, int]]
    ok: Latency | None
    refused: Latency | None


@dataclass(frozen=True)
class LoadFigures:
    """What a load did: its entries, all together, and how well the generator kept to its times (in seconds)."""

    seconds: float
    entries: list[EntryFigures]
    all: EntryFigures
    late_p99: float
    most_under_way: int
    cpu_share: float
    warnings: list[str]


def figures(recording: Recording, mix: Sequence[MixEntry], deadlines: Sequence[float]) -> LoadFigures:
    """The figures of a recording of that mix, whose entries have those deadlines in seconds."""
    seconds = max(recording.end - recording.begin, 1e-9)
    by_entry: list[list[Sample]] = [[] for _ in mix]
    for sample in recording.samples:
        by_entry[sample.entry].append(sample)
    entries = [
        _figures(entry.name, entry.rpc, samples, recording, deadlines)
        for entry, samples in zip(mix, by_entry, strict=True)
    ]
    late = [each.late for each in recording.samples if each.code != NOT_SENT and each.due >= recording.begin]
    late_p99 = float(np.percentile(late, 99)) if late else 0.0
    together = _figures(ALL, ALL, recording.samples, recording, deadlines)
    warnings = _warnings(recording, together, late_p99)
    return LoadFigures(seconds, entries, together, late_p99, recording.most_under_way, recording.cpu_share, warnings)


def _figures(
    name: str, rpc: str, samples: Sequence[Sample], recording: Recording, deadlines: Sequence[float]
) -> EntryFigures:
    begin, end = recording.begin, recording.end
    due = [each for each in samples if begin <= each.due <= end]
    answers = [each for each in samples if each.code == OK and begin <= each.due + each.seconds <= end]
    good = sum(each.seconds <= deadlines[each.entry] for each in answers)
    codes = Counter(each.code for each in due)
    reasons: dict[str, Counter[str]] = {}
    for each in due:
        if each.reason:
            reasons.setdefault(each.code, Counter())[each.reason] += 1
    seconds = max(end - begin, 1e-9)
    return EntryFigures(
        name=name,
        rpc=rpc,
        requests=len(due),
        offered=len(due) / seconds,
        sent=(len(due) - codes[NOT_SENT]) / seconds,
        answered=len(answers) / seconds,
        goodput=good / seconds,
        rows=sum(each.rows for each in answers) / seconds,
        codes=dict(codes.most_common()),
        reasons={code: dict(counts.most_common()) for code, counts in reasons.items()},
        ok=Latency.of([each.seconds for each in due if each.code == OK]),
        refused=Latency.of([each.seconds for each in due if each.code == REFUSED]),
    )


def _warnings(recording: Recording, together: EntryFigures, late_p99: float) -> list[str]:
    loop, warnings = recording.loop, []
    if not_sent := together.codes.get(NOT_SENT):
        assert isinstance(loop, OpenLoop)
        warnings.append(f"{not_sent} requests were not sent, since {loop.max_under_way} were under way")
    if late_p99 > _MAX_LATE:
        warnings.append(f"the generator was too slow: 1 % of the requests were sent {late_p99:.3f} s late or more")
    if recording.cpu_share > _MAX_CPU:
        warnings.append(f"the generator used {recording.cpu_share:.0%} of a processor and may have been the bottleneck")
    return warnings
