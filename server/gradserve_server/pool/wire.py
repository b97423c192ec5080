"""The messages between the keeper, front-ends and workers: small frozen dataclasses with numpy arrays."""

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple

import numpy as np

from .. import __version__
from ..engine.events import PassStats
from ..engine.job import Priority
from ..engine.timeline import Timeline
from ..logs import LogSettings
from ..models.card import ModelCard, Precision
from ..models.catalogue import ModelSpec

CUT_OFF = 3  # The exit code of a front-end, and of the server, where a request was ended before its time.
LONG_PASS_SECONDS = 5.0  # A worker tells its keeper of each pass that should take longer than this.
SAME_PACKAGES = "all hosts of a server need the same packages"  # The likeliest reason why messages cannot be read.
FailureKind = Literal[
    "deadline", "refused", "not_finite", "model_failed", "out_of_memory", "lost", "crashed", "unread", "internal"
]
ChangeAction = Literal["load", "unload", "reload"]
ChangeState = Literal["waiting", "reading", "loading", "warming_up", "ready"]
ChangeFailureKind = Literal["unknown", "refused", "stopping", "withdrawn", "lost", "internal"]


@dataclass(frozen=True, slots=True)
class WorkerSettings:
    """What a worker process gets when it starts."""

    models: tuple[ModelSpec, ...]
    device: str
    threads: int = 1
    rows: int | None = None  # Rows of a full pass, for every model and size; None lets the worker find them.
    strict: bool = False  # Whether one model that cannot be loaded keeps the worker from beginning.
    log: LogSettings = field(default_factory=LogSettings)
    folder: str = ""  # Where workers of one host tell each other of weights in common memory; empty for none.
    served: Mapping[str, ModelCard] = field(default_factory=dict)  # Cards that the models of a new worker must match.
    generation: int = 0  # Each change of the served models makes new workers, of the next generation.
    logs_models: bool = False  # Whether it logs each model that it loads, as one worker of a server does.


@dataclass(frozen=True, slots=True)
class Task:
    """A bound request: method, parameters, image, seed, deadline, priority.

    Times are of the monotonic clock of the process that holds it.
    """

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
    generation: int = 0  # Of the workers that have the models that it was made for.
    timed: bool = False  # Whether its outcome is to have a timeline.

    def on_clock(self, behind: float) -> "Task":
        """This task for a process whose clock is so many seconds behind this one's."""
        return replace(self, arrived=self.arrived - behind, deadline=self.deadline - behind)


class Held(NamedTuple):
    """A task that a worker holds, as others need to know of it. Costs are in GFLOP."""

    caller: str
    weight: float
    priority: Priority
    model: str
    precision: Precision
    alone: bool
    cost: float
    done: float = 0.0


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
    warming_up: bool = False


@dataclass(frozen=True, slots=True)
class Noted:
    """Tells a worker that its keeper has got its Loading, which would be lost if the worker died while it is sent."""


@dataclass(frozen=True, slots=True)
class Ready:
    """The worker takes tasks from the receiver. `unavailable` has the reasons of models that failed, by name."""

    cards: tuple[ModelCard, ...]
    device: str
    speeds: Mapping[tuple[str, Precision], float]  # GFLOP per second in the warm-up, by model and precision
    rows: Mapping[tuple[str, Precision], int] = field(default_factory=dict)  # Rows of a full pass, likewise.
    unavailable: Mapping[str, str] = field(default_factory=dict)
    generation: int = 0
    version: str = __version__
    pid: int = field(default_factory=os.getpid)
    sent: float = field(default_factory=time.monotonic)  # By the worker's clock.


@dataclass(frozen=True, slots=True)
class Broken:
    """The process that sends this cannot start serving; `error` says why."""

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
    timeline: Timeline | None = None


@dataclass(frozen=True, slots=True)
class Preview:
    """A running task's progress."""

    id: str
    step: int
    steps: int
    losses: Mapping[str, float]
    images: tuple[np.ndarray, ...] = ()  # Small pictures, each [h, w, 3] uint8.
    answer: Any = None  # A part of the answer, from tasks that have several.


@dataclass(frozen=True, slots=True)
class Beat:
    """The worker begins a pass that should take so many seconds; 0 where no such pass was run before.

    It says so before passes that are new or long, and before the first one after it had none to run.
    """

    expected: float = 0.0


@dataclass(frozen=True, slots=True)
class Tick:
    """A worker's statistics since its last one."""

    passes: tuple[PassStats, ...]
    jobs: int
    memory: int  # Bytes in use on the device (on a CPU: the peak resident size of the process).
    busy: float = 0.0  # Seconds in which it neither waited for work nor read models for jobs.
    progress: Mapping[str, float] = field(default_factory=dict)  # GFLOP done for each task that has begun
    cancelled_rows: int = 0  # Rows computed for tasks that were cancelled.
    others: tuple[Held, ...] = ()  # Tasks that it holds from other front-ends than the receiver.
    sent: float = field(default_factory=time.monotonic)  # By the worker's clock.


@dataclass(frozen=True, slots=True)
class Hello:
    """A front-end's first message to its keeper."""


@dataclass(frozen=True, slots=True)
class Serving:
    """The front-end listens: it takes requests for the models of `newest`, and still has some for those of `oldest`."""

    newest: int = 0
    oldest: int = 0


@dataclass(frozen=True, slots=True)
class Serve:
    """The models that a front-end serves, and why others cannot be served, by name."""

    cards: tuple[ModelCard, ...]
    unavailable: Mapping[str, str]
    generation: int = 0  # Of the workers that have loaded them.


@dataclass(frozen=True, slots=True)
class Drain:
    """Tells a front-end to let its requests end, take no others, and end itself.

    If there is a `reason`, the requests fail with it.
    """

    reason: str = ""


@dataclass(frozen=True, slots=True)
class CutOff:
    """Tells a front-end that drains to end its requests at once."""


@dataclass(frozen=True, slots=True)
class ChangeModels:
    """A front-end's caller wants these models to be loaded, unloaded or replaced."""

    id: str
    action: ChangeAction
    names: tuple[str, ...]
    visible: tuple[str, ...] | None = None  # The models that the caller may know of; None for all.

    def sees(self, name: str) -> bool:
        """Whether the caller may know of that model."""
        return self.visible is None or name in self.visible


@dataclass(frozen=True, slots=True)
class DropChange:
    """Tells the keeper that nobody waits for that change; it makes it all the same if it has begun."""

    id: str


@dataclass(frozen=True, slots=True)
class Changing:
    """How far a change of the models is. Workers are counted from 1; 0 stands for none."""

    id: str
    state: ChangeState
    worker: int = 0
    workers: int = 0
    model: str = ""


@dataclass(frozen=True, slots=True)
class Changed:
    """The end of a change of the models: from now on the new ones are served, or `failure` says why they are not."""

    id: str
    failure: "ChangeFailure | None" = None


@dataclass(frozen=True, slots=True)
class ChangeFailure:
    """Why a change was not made."""

    kind: ChangeFailureKind
    text: str
