"""What a step of the engine returns: jobs that ended, progress, statistics of passes, and the errors of jobs."""

from dataclasses import dataclass
from typing import Any, NamedTuple

from ..models.card import Precision
from .job import Job, Progress


class NotFinite(Exception):
    """The model gave infinities or NaN for this job's rows."""


class OutOfMemory(Exception):
    """A pass does not fit the device's memory. As the error of a job: not even one of a single row does."""


class ModelFailed(Exception):
    """The model raised an exception on this job's rows, also in a pass without rows of other jobs."""


class Ended(NamedTuple):
    """A job is over: the return value of its generator, or the exception that ended it."""

    job: Job
    result: Any = None
    error: Exception | None = None


class Progressed(NamedTuple):
    """A job reports how far it is."""

    job: Job
    progress: Progress
    answer: Any = None  # What `progress.answer` gave when it was reported.


Event = Ended | Progressed


@dataclass(frozen=True, slots=True)
class PassStats:
    """Statistics of one pass; `retried` stands for one that ran out of memory and is tried again with fewer rows."""

    model: str
    rows: int
    seconds: float
    gflop: float = 0.0
    retried: bool = False
    precision: Precision = "exact"
