"""A pool's workers and the tasks that they are given, as a front-end keeps them."""

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace

from ..engine.costs import passes_cost
from ..methods.explain.reporting import PartOfAnswer
from ..models.card import ModelCard, Precision
from .forecast import Load, Prospect
from .wire import Held, Outcome, Preview, Ready, Task, Tick

SMOOTHING = 0.2  # Weight of the newest statistics in a worker's speed.
# A task is taken to have at least this share of its cost still to do, since it may need more rows than expected.
MIN_SHARE_LEFT = 0.05
MIN_GFLOP_PER_SECOND = 1e-9  # Lowest speed of a worker, so that nothing is divided by zero.


class Replies:
    """The messages about a task that its caller has not read yet, in their order.

    Of each map that is not finished only the newest state is kept, so that they do not pile up for a slow caller.
    """

    def __init__(self) -> None:
        self._unread: dict[object, Outcome | Preview] = {}  # By the place of an unfinished map.
        self._come = asyncio.Event()

    def put(self, message: Outcome | Preview) -> None:
        """Adds a message, in place of an earlier state of the same map."""
        part = message.answer if isinstance(message, Preview) else None
        if isinstance(part, PartOfAnswer):
            self._unread.pop(part.place, None)
        key = part.place if isinstance(part, PartOfAnswer) and not part.finished else object()
        self._unread[key] = message
        self._come.set()

    async def get(self) -> Outcome | Preview:
        """The first message that was not read, once there is one."""
        while not self._unread:
            self._come.clear()
            await self._come.wait()
        return self._unread.pop(next(iter(self._unread)))

    def __len__(self) -> int:
        return len(self._unread)


@dataclass(eq=False)
class Pending:
    """A task that has no outcome yet."""

    task: Task
    replies: Replies = field(default_factory=Replies)
    worker: "Member | None" = None  # The worker that runs it.
    losses: int = 0  # How many workers were lost while they ran it.


class Member:
    """A worker that takes tasks from this front-end."""

    def __init__(self, ready: Ready, send: Callable[[object], None]) -> None:
        """`send` sends it a message."""
        self.send, self.pid, self.device, self.generation = send, ready.pid, ready.device, ready.generation
        # Seconds by which its clock is behind this process's, plus the shortest time that one of its messages took.
        self.behind = time.monotonic() - ready.sent
        self.cards: Mapping[str, ModelCard] = {card.name: card for card in ready.cards}
        self.speeds: dict[tuple[str, Precision], float] = {  # GFLOP per second.
            kind: max(speed, MIN_GFLOP_PER_SECOND) for kind, speed in ready.speeds.items()
        }
        self.first_speeds = dict(self.speeds)  # Those of the warm-up.
        self.rows = ready.rows  # Rows of a full pass.
        self.memory = 0  # Bytes in use.
        self.pending: dict[str, Pending] = {}  # This front-end's tasks here, by id.
        self.done: Mapping[str, float] = {}  # GFLOP done for tasks that have begun, by id.
        self.others: tuple[Held, ...] = ()  # Tasks of other front-ends, as they were at the last tick.

    def take_speeds(self, others: Iterable["Member"]) -> None:
        """Raises its speeds to those of other workers on its device: its own warm-up was slowed by their passes."""
        for other in others:
            if other.device == self.device:
                for kind in self.speeds.keys() & other.speeds.keys():
                    self.speeds[kind] = max(self.speeds[kind], other.speeds[kind])

    @property
    def name(self) -> str:
        """What log lines call it."""
        return f"the worker on {self.device} (process {self.pid})"

    @property
    def idle(self) -> bool:
        """Whether it has no task of any front-end."""
        return not self.pending and not self.others

    @property
    def cost(self) -> float:
        """GFLOP outstanding for this front-end."""
        return sum(pending.task.cost for pending in list(self.pending.values()))

    def knows(self, task: Task | Prospect) -> bool:
        """Whether its speed on the task's model and precision was measured."""
        return (task.model, task.precision) in self.speeds

    def row_seconds(self, task: Task | Prospect) -> float:
        """Seconds of one gradient on the task's model."""
        return passes_cost(self.cards[task.model].gflop, "image") / self.speeds[task.model, task.precision]

    def rows_of(self, task: Task | Prospect) -> int:
        """Rows of a full pass over the task's model."""
        return 1 if task.alone else self.rows.get((task.model, task.precision), 1)

    def least_seconds(self, task: Task) -> float:
        """Seconds that a task takes at least: lone rows are slower than the full passes of the warm-up."""
        kind = task.model, task.precision
        return task.least_cost / max(self.speeds[kind], self.first_speeds[kind])

    def seconds(self, task: Task | Prospect) -> float:
        """Seconds that a task takes here alone."""
        return task.cost / self.speeds[task.model, task.precision]

    def loads(self) -> list[Load]:
        """What is outstanding here, for all front-ends."""
        return [self._load(held) for held in self.held() if (held.model, held.precision) in self.speeds]

    def held(self) -> list[Held]:
        """The tasks here, for all front-ends."""
        return [*map(self._held, list(self.pending.values())), *self.others]

    def _held(self, pending: Pending) -> Held:
        task = pending.task
        who, done = (task.caller, task.weight, task.priority), self.done.get(task.id, 0.0)
        return Held(*who, task.model, task.precision, task.alone, task.cost, done)

    def _load(self, held: Held) -> Load:
        kind = held.model, held.precision
        row = passes_cost(self.cards[held.model].gflop, "image") / self.speeds[kind]
        rows = 1 if held.alone else self.rows.get(kind, 1)
        seconds, interactive = left(held) / self.speeds[kind], held.priority == "interactive"
        return Load(held.caller, held.weight, interactive, seconds, row, rows, begun=held.done > 0)

    def reply(self, message: Outcome | Preview) -> None:
        """Hands a message on to whoever waits for its task; drops it if the task is answered, cancelled or moved."""
        pending = self.pending.get(message.id)
        if pending is None:
            return
        if isinstance(message, Outcome):
            del self.pending[message.id]
            message = self._on_own_clock(message)
        pending.replies.put(message)

    def _on_own_clock(self, outcome: Outcome) -> Outcome:
        """The outcome with the times of its timeline, if it has one, converted to this process's clock."""
        if outcome.timeline is None:
            return outcome
        self.behind = min(self.behind, time.monotonic() - outcome.timeline.ended)
        return replace(outcome, timeline=outcome.timeline.on_clock(-self.behind))

    def learn(self, tick: Tick) -> None:
        """Updates speeds from the latest passes: those of the warm-up depend on what else the machine did then.

        What the worker does between its passes counts as well, since the tasks of small models wait for it.
        """
        self.behind = min(self.behind, time.monotonic() - tick.sent)
        self.memory, self.done, self.others = tick.memory, tick.progress, tick.others
        in_passes = sum(each.seconds for each in tick.passes)
        if in_passes <= 0:
            return
        overhead = max(1.0, tick.busy / in_passes)
        for kind in {(each.model, each.precision) for each in tick.passes} & self.speeds.keys():
            passes = [each for each in tick.passes if (each.model, each.precision) == kind]
            seconds = sum(each.seconds for each in passes)
            if seconds > 0:
                speed = sum(each.gflop for each in passes) / seconds / overhead
                self.speeds[kind] = max((1 - SMOOTHING) * self.speeds[kind] + SMOOTHING * speed, MIN_GFLOP_PER_SECOND)


def left(held: Held) -> float:
    """GFLOP that are still to do of a task."""
    return max(MIN_SHARE_LEFT * held.cost, held.cost - held.done)
