"""What a step of the engine tells: jobs that ended, jobs that report, passes that were run, and why jobs fail."""

from dataclasses import dataclass
from typing import Any, NamedTuple

from .job import Job, Progress


class NotFinite(Exception):
    """The model gave infinities or NaN for this job's rows."""


class OutOfMemory(Exception):
    """A pass of a single row does not fit the device's memory."""


class ModelFailed(Exception):
    """The model itself raised on this job's rows, and did so alone."""


class Ended(NamedTuple):
    """A job is over: its generator's return value, or what ended it."""

    job: Job
    result: Any = None
    error: Exception | None = None


class Progressed(NamedTuple):
    """A job reports how far it is."""

    job: Job
    progress: Progress


Event = Ended | Progressed


@dataclass(frozen=True, slots=True)
class Step:
    """One pass, for the statistics."""

    model: str
    rows: int
    seconds: float
    gflop: float = 0.0
    retried: bool = False
