"""What `gradserve bench` found: tables for the terminal, a document for programs, a page."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from gradserve.cli import output
from gradserve.load.capacity import Capacity
from gradserve.load.figures import EntryFigures, Latency, LoadFigures
from gradserve.load.loops import Loop, OpenLoop
from gradserve.load.page import LoadRun, html
from gradserve.load.sender import Sender
from gradserve.results.common import to_dict

_RATES = ("offered", "sent", "answered", "goodput", "rows")


def title(loop: Loop) -> str:
    """A load in words."""
    who = f"open loop, {loop.rate:.4g}/s" if isinstance(loop, OpenLoop) else f"closed loop, {loop.callers} callers"
    return f"{who}, {loop.seconds:g} s"


def document(sender: Sender, runs: Sequence[LoadRun], capacity: Capacity | None) -> dict[str, Any]:
    """Everything as JSON takes it; times are in seconds, rates per second."""
    return {
        "seed": sender.seed,
        "mix": [{"name": each.name, **to_dict(each)} for each in sender.mix],
        "runs": [
            {
                "loop": {"kind": "open" if isinstance(run.recording.loop, OpenLoop) else "closed"}
                | to_dict(run.recording.loop),
                **dataclasses.asdict(run.figures),
            }
            for run in runs
        ],
        "capacity": dataclasses.asdict(capacity) if capacity else None,
    }


def show(runs: Sequence[LoadRun], capacity: Capacity | None) -> None:
    """Print a table for each load, or one for all steps on the way to the capacity, and the capacity."""
    if capacity:
        output.out().print(_table("", [(run.title, run.figures.all) for run in runs]))
        output.out().print(f"capacity: {capacity.rate:.1f}/s\n  {capacity.how}\n  {_closed(capacity)}")
        return
    for run in runs:
        entries = run.figures.entries if len(run.figures.entries) > 1 else []
        table = _table(run.title, [(each.name, each) for each in (*entries, run.figures.all)])
        output.out().print(table)
        output.out().print(_generator(run.figures), soft_wrap=True)


def write_page(path: Path, server: str, sender: Sender, runs: Sequence[LoadRun], capacity: Capacity | None) -> None:
    """Write the page with the charts."""
    mix = ", ".join(f"{each.weight:g} {each.name}" for each in sender.mix)
    facts = [f"mix: {mix}"]
    if capacity:
        facts.append(f"capacity: {capacity.rate:.1f}/s; {capacity.how}; {_closed(capacity)}")
    path.write_text(html(f"Load on {server}", facts, runs), encoding="utf-8")


def _closed(capacity: Capacity) -> str:
    return f"{capacity.callers} callers that wait for their answers got {capacity.closed_rate:.1f}/s"


def _generator(run: LoadFigures) -> str:
    """How well the generator kept to its times."""
    late = f"99% were sent at most {1000 * run.late_p99:.1f} ms late"
    return f"load generator: {late}, at most {run.most_under_way} under way, {run.cpu_share:.0%} of a processor used"


def _table(heading: str, rows: Sequence[tuple[str, EntryFigures]]) -> Table:
    table = Table(title=heading or None, title_justify="left", box=None)
    table.add_column("load" if not heading else "request")
    refusals = any(each.refused for _, each in rows)
    times = ("p50 ms", "p90", "p95", "p99", "max", *(["refused p95 ms"] if refusals else []))
    for column in (*(f"{name}/s" for name in _RATES), *times):
        table.add_column(column, justify="right")
    table.add_column("codes")
    for name, each in rows:
        rates = (f"{getattr(each, rate):.1f}" for rate in _RATES)
        refused = [f"{1000 * each.refused.p95:.1f}" if each.refused else ""] if refusals else []
        table.add_row(name, *rates, *_times(each.ok), *refused, _codes(each))
    return table


def _times(latency: Latency | None) -> list[str]:
    return [f"{1000 * value:.1f}" for value in dataclasses.astuple(latency)] if latency else [""] * 5


def _codes(each: EntryFigures) -> str:
    """Counts by code, and by reason where the server gave one: "12 OK, 3 RESOURCE_EXHAUSTED (3 QUEUE_FULL)"."""
    texts = []
    for code, count in each.codes.items():
        reasons = ", ".join(f"{part} {reason}" for reason, part in each.reasons.get(code, {}).items())
        texts.append(f"{count} {code}" + (f" ({reasons})" if reasons else ""))
    return ", ".join(texts)
