"""What this machine does best: the rows per pass of each precision, and which precision AUTO should mean."""

import os
import platform
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import NamedTuple

import torch

from ..config import PoolSettings, devices
from ..engine.batch_limits import default_rows, max_rows
from ..engine.differentiate import differentiate
from ..engine.objective import logit
from ..engine.query import Part, Query
from ..models.card import Precision
from ..models.catalogue import ModelSpec
from ..models.preparation import prepare
from ..models.prepared import Prepared
from ..models.tables import toml_value

ROUNDS = 5  # Every round measures each candidate once; the first only warms up.
# The fewest rows that reach this share of the best rate are taken, since a new query then waits less.
MIN_RATE_SHARE = 0.95
MIN_GAIN = 1.1  # A precision becomes AUTO's only where it is this many times as fast as EXACT.
FASTEST_RPCS = ("maximize", "stylize")  # AUTO takes the fastest precision for these; other replies must be exact.


class Candidate(NamedTuple):
    """A way to run a model."""

    precision: Precision
    rows: int


@dataclass(frozen=True)
class TuningResult:
    """Rows per second of every candidate for a model, and the settings that follow from them."""

    name: str
    rates: Mapping[Candidate, float]

    @property
    def rows(self) -> dict[Precision, int]:
        """For each precision the fewest rows that come near its best rate."""
        return {precision: self._fewest(precision) for precision in dict.fromkeys(c.precision for c in self.rates)}

    @property
    def speedup(self) -> dict[Precision, float]:
        """How much faster than EXACT each precision is, at its best."""
        rows = self.rows
        exact = self.rates[Candidate("exact", rows["exact"])]
        return {precision: self.rates[Candidate(precision, count)] / exact for precision, count in rows.items()}

    @property
    def auto(self) -> dict[str, Precision]:
        """The precision of the RPCs that want speed."""
        best = max(self.speedup, key=lambda precision: self.speedup[precision])
        return dict.fromkeys(FASTEST_RPCS, best) if self.speedup[best] >= MIN_GAIN else {}

    def _fewest(self, precision: Precision) -> int:
        rates = {c.rows: rate for c, rate in self.rates.items() if c.precision == precision}
        return min(rows for rows, rate in rates.items() if rate >= MIN_RATE_SHARE * max(rates.values()))


def tune(
    specs: Sequence[ModelSpec], device: torch.device, threads: int, track: Callable[[Iterable[int], str], Iterable[int]]
) -> Iterator[TuningResult]:
    """Measures model after model; `track` shows how far it is. Raises LoadError."""
    torch.set_num_threads(threads)
    for spec in specs:
        model = prepare(spec, device)
        yield TuningResult(spec.name, rates(model, track(range(ROUNDS), spec.name)))


def rates(model: Prepared, rounds: Iterable[int]) -> dict[Candidate, float]:
    """Rows per second of gradients, for every candidate in turn; medians of the rounds after the first."""
    ways = list(candidates(model))
    seconds: dict[Candidate, list[float]] = {candidate: [] for candidate in ways}
    for _ in rounds:
        for candidate in ways:
            seconds[candidate].append(_pass_seconds(model, candidate))
    return {candidate: candidate.rows / median(times[1:]) for candidate, times in seconds.items()}


def candidates(model: Prepared) -> Iterator[Candidate]:
    """Powers of two up to twice the default, and no more than the device's precision allows."""
    card = model.card
    for precision in card.precisions:
        top = min(max_rows(model.device, precision), 2 * default_rows(model.device, card.height, card.width, precision))
        yield from (Candidate(precision, rows) for rows in (1, 2, 4, 8, 16, 32, 64, 128) if rows < top)
        yield Candidate(precision, top)


def _pass_seconds(model: Prepared, candidate: Candidate) -> float:
    """Of one forward and backward: the thread's own time on a CPU, where others may be busy."""
    on_gpu = model.device.type == "cuda"
    clock = time.perf_counter if on_gpu else time.thread_time
    images = torch.rand(
        candidate.rows, 3, model.card.height, model.card.width, generator=torch.Generator().manual_seed(0)
    )
    part = Part(Query(images.to(model.device), logit(0), "image"), range(candidate.rows))
    begin = clock()
    differentiate(model.at(candidate.precision), [part])
    if on_gpu:
        torch.cuda.synchronize(model.device)
    return clock() - begin


def device_of(pool: PoolSettings) -> torch.device:
    """The device of the first worker."""
    return torch.device(devices(pool)[0])


def machine(device: torch.device) -> dict[str, str | int]:
    """The machine that the figures were measured on."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else _processor()
    return {"device": name, "cores": os.cpu_count() or 1, "torch": torch.__version__.partition("+")[0]}


def _processor() -> str:
    try:
        with open("/proc/cpuinfo") as lines:
            return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def as_toml(results: Sequence[TuningResult], device: torch.device) -> str:
    """The file that `gradserve serve --tuned` reads."""
    lines = [
        "# Measured by `gradserve bench --tune` on the machine named below; serve with --tuned THIS_FILE.",
        "[machine]",
    ]
    lines += [f"{key} = {toml_value(value)}" for key, value in machine(device).items()]
    for each in results:
        lines += ["", f"[models.{toml_value(each.name)}]"]
        lines.append(f"rows = {toml_value(each.rows)}")
        if each.auto:
            lines.append(f"auto = {toml_value(each.auto)}")
        speed = ", ".join(f"{precision} {ratio:.2f}x" for precision, ratio in each.speedup.items())
        lines.append(f"# gradients per second against EXACT: {speed}")
    return "\n".join(lines) + "\n"
