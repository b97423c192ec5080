"""What crosses the pipe between the front-end and a worker: small frozen dataclasses with numpy arrays."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from ..engine.events import PassStats
from ..engine.job import Priority
from ..models.card import ModelCard, Precision
from ..models.catalogue import ModelSpec

FailureKind = Literal[
    "deadline", "refused", "not_finite", "model_failed", "out_of_memory", "lost", "crashed", "internal"
]


@dataclass(frozen=True, slots=True)
class WorkerSettings:
    """What a worker process gets when it starts."""

    models: tuple[ModelSpec, ...]
    device: str
    threads: int = 1
    rows: int | None = None
    strict: bool = False  # Whether one model that cannot be loaded keeps the worker from beginning.
    log_level: int = logging.WARNING
    served: Mapping[str, ModelCard] = field(default_factory=dict)  # Cards that the models of a new worker must match.


@dataclass(frozen=True, slots=True)
class Task:
    """A bound request: method, parameters, image, seed, deadline, priority. Times are of the monotonic clock."""

    id: str
    rpc: str
    model: str
    image: np.ndarray  # [H, W, 3], or a batch [n, H, W, 3]; uint8 or float32 in [0, 1]
    arguments: Any = None  # The method's arguments beside the image, in a frozen dataclass of its own.
    precision: Precision = "exact"
    priority: Priority = "interactive"
    seed: int = 0
    arrived: float = 0.0
    deadline: float = float("inf")
    allow_partial: bool = False
    cost: float = 1.0  # Estimated GFLOP.
    least_cost: float = 0.0  # GFLOP that it takes at least, 0 where that is not known
    caller: str = ""  # Who asked; callers have equal shares, but for their weights.
    weight: float = 1.0
    alone: bool = False  # Whether each of its rows has a pass of its own.
    report_every: float = float("inf")  # Least seconds between two previews.


@dataclass(frozen=True, slots=True)
class Cancel:
    """Tells a worker to drop that task, whose caller is gone."""

    id: str


@dataclass(frozen=True, slots=True)
class Stop:
    """Tells a worker to end at once."""


@dataclass(frozen=True, slots=True)
class Loading:
    """The worker begins to load or warm up that model. If it dies before its next message, the model is the cause."""

    name: str


@dataclass(frozen=True, slots=True)
class Ready:
    """The worker has loaded and warmed up its models; `unavailable` has the reasons of those that failed, by name."""

    cards: tuple[ModelCard, ...]
    device: str
    speeds: Mapping[tuple[str, Precision], float]  # GFLOP per second in the warm-up, by model and precision
    rows: Mapping[tuple[str, Precision], int] = field(default_factory=dict)  # Rows of a full pass, likewise.
    unavailable: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Broken:
    """The worker cannot begin; the text says why."""

    error: str


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a task has no result."""

    kind: FailureKind
    text: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """The end of a task: a result or a failure, with the rows and seconds that it took."""

    id: str
    result: Any = None
    failure: Failure | None = None
    rows: int = 0
    queue_seconds: float = 0.0
    compute_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Preview:
    """A running task's progress."""

    id: str
    step: int
    steps: int
    losses: Mapping[str, float]
    images: tuple[np.ndarray, ...] = ()  # Small pictures, each [h, w, 3] uint8.


@dataclass(frozen=True, slots=True)
class Beat:
    """The worker's process runs. Seconds that its pass has run for and was expected to take; 0: none, not known."""

    pass_seconds: float = 0.0
    expected: float = 0.0


@dataclass(frozen=True, slots=True)
class Tick:
    """A worker's statistics since its last one."""

    passes: tuple[PassStats, ...]
    jobs: int
    memory: int  # Bytes in use on the device (on a CPU: resident in the process).
    busy: float = 0.0  # Seconds in which it did not wait for work.
    progress: Mapping[str, float] = field(default_factory=dict)  # GFLOP done for each task that has begun
    cancelled_rows: int = 0  # Rows computed for tasks that were cancelled.
