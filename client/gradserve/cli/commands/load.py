"""A closed loop of callers: each sends its next request when the last one is answered."""

import asyncio
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from gradserve.aio import AsyncClient
from gradserve.arguments import ImageLike
from gradserve.errors import ServiceError

PREDICT = "predict"


@dataclass(frozen=True)
class Sample:
    """One request: what it was, how long it took, how many rows it cost; code is empty where it was answered."""

    method: str
    seconds: float
    rows: int
    code: str = ""


@dataclass(frozen=True)
class Load:
    """What is asked, by how many callers, until so many seconds or requests are over."""

    image: ImageLike
    model: str
    mix: Mapping[str, float]
    callers: int
    seconds: float
    requests: int | None = None


@dataclass(frozen=True)
class Figures:
    """What one method, or all together, did under load; times in milliseconds."""

    method: str
    requests: int
    failed: dict[str, int]
    requests_per_second: float
    rows_per_second: float
    p50_ms: float = field(default=0.0)
    p95_ms: float = field(default=0.0)
    p99_ms: float = field(default=0.0)


async def run(client: AsyncClient, load: Load, seed: int = 0) -> tuple[list[Sample], float]:
    """Every request's sample, and the seconds that it took; one request of each method goes ahead uncounted."""
    for method in load.mix:
        await _ask(client, load, method)
    samples: list[Sample] = []
    chance = random.Random(seed)
    begin = time.perf_counter()
    begun = 0

    async def caller() -> None:
        nonlocal begun
        while time.perf_counter() - begin < load.seconds and (load.requests is None or begun < load.requests):
            begun += 1
            (method,) = chance.choices(list(load.mix), list(load.mix.values()))
            samples.append(await _timed(client, load, method))

    await asyncio.gather(*(caller() for _ in range(load.callers)))
    return samples, time.perf_counter() - begin


def figures(samples: Sequence[Sample], seconds: float) -> list[Figures]:
    """The figures of every method, and of all together at the end."""
    methods = sorted({sample.method for sample in samples})
    by_method = [_figures(method, [each for each in samples if each.method == method], seconds) for method in methods]
    return [*by_method, _figures("all", samples, seconds)]


async def _ask(client: AsyncClient, load: Load, method: str) -> int:
    if method == PREDICT:
        return (await client.predict(load.image, model=load.model)).provenance.rows
    return (await client.explain(load.image, method, model=load.model)).provenance.rows


async def _timed(client: AsyncClient, load: Load, method: str) -> Sample:
    begin = time.perf_counter()
    try:
        rows, code = await _ask(client, load, method), ""
    except ServiceError as error:
        rows, code = 0, error.code.name
        await asyncio.sleep(error.retry_after or 0)
    return Sample(method, time.perf_counter() - begin, rows, code)


def _figures(method: str, samples: Sequence[Sample], seconds: float) -> Figures:
    answered = [each for each in samples if not each.code]
    codes = [each.code for each in samples if each.code]
    times = 1000 * np.percentile([each.seconds for each in answered] or [0.0], [50, 95, 99])
    return Figures(
        method=method,
        requests=len(samples),
        failed={code: codes.count(code) for code in sorted(set(codes))},
        requests_per_second=len(answered) / seconds,
        rows_per_second=sum(each.rows for each in answered) / seconds,
        p50_ms=float(times[0]),
        p95_ms=float(times[1]),
        p99_ms=float(times[2]),
    )
