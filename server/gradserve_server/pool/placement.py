"""Which worker runs which task, and which tasks wait for one."""

from collections.abc import Sequence
from contextlib import suppress

from .members import Member, Pending
from .wire import Cancel, Failure, FailureKind, Outcome, Task

MAX_ATTEMPTS = 3  # Most workers that run a task, if each of them dies.
# Most times that a task leaves a worker that is silent. Then it waits there: a pass that keeps every worker from
# speaking for some seconds must come to its end on one of them.
MAX_MOVES = 2


class Placement:
    """The tasks of a pool's workers."""

    def __init__(self, workers: Sequence[Member]) -> None:
        """`workers`: those of the pool, also while they are not ready."""
        self._workers = workers
        self._waiting: list[Pending] = []  # Tasks that wait for a worker to be ready.
        self._last_attempts: list[Pending] = []  # Tasks in their last attempt; the first runs, the others wait.

    @property
    def ready(self) -> list[Member]:
        """The workers that take tasks."""
        return [worker for worker in self._workers if worker.ready]

    def place(self, pending: Pending) -> None:
        """Gives a task to the worker with the least outstanding work, or lets it wait for one."""
        ready = self.ready
        if not ready:
            self._waiting.append(pending)
            return
        worker = min(ready, key=lambda each: self._seconds_ahead(each, pending.task))
        pending.worker = worker
        worker.pending[pending.task.id] = pending
        worker.handle.send(pending.task)

    def place_waiting(self) -> None:
        """Gives the ready workers the tasks that wait for one, or for a silent worker to speak again."""
        waiting, self._waiting = self._waiting, []
        for pending in waiting:
            self.place(pending)
        for worker in self._workers:
            if worker.state == "silent":
                self.move_from(worker)

    def move_from(self, silent: Member) -> int:
        """Gives tasks of a silent worker to those that are ready; returns how many. Where none is ready, they wait."""
        moving = [each for each in silent.pending.values() if each.moves < MAX_MOVES] if self.ready else []
        for pending in moving:
            del silent.pending[pending.task.id]
            silent.handle.send(Cancel(pending.task.id))  # It is read when the worker runs again.
            pending.moves += 1
            self.place(pending)
        return len(moving)

    def run_again(self, pendings: Sequence[Pending]) -> None:
        """Places the tasks of a worker that died, but for those that have lost too many."""
        for pending in pendings:
            pending.worker = None
            pending.deaths += 1
            if pending.deaths >= MAX_ATTEMPTS:
                _fail(pending, "crashed", f"its worker died {pending.deaths} times while it ran")
            elif pending.deaths < MAX_ATTEMPTS - 1:
                self.place(pending)
            else:  # Of the tasks in their last attempt only one runs at a time.
                self._last_attempts.append(pending)
                if len(self._last_attempts) == 1:
                    self.place(pending)

    def forget(self, pending: Pending) -> None:
        """Drops a task that is answered, or whose caller is gone; its worker is told."""
        with suppress(ValueError):
            self._waiting.remove(pending)
        if pending in self._last_attempts:
            first = self._last_attempts[0] is pending
            self._last_attempts.remove(pending)
            if first and self._last_attempts:
                self.place(self._last_attempts[0])
        worker = pending.worker
        if worker is not None and pending.task.id in worker.pending:
            del worker.pending[pending.task.id]
            worker.handle.send(Cancel(pending.task.id))

    def fail_all(self, text: str) -> None:
        """Ends all tasks as lost, also those that wait."""
        running = [pending for worker in self._workers for pending in worker.pending.values()]
        for pending in dict.fromkeys([*running, *self._waiting, *self._last_attempts]):
            _fail(pending, "lost", text)
        self._waiting = []

    def _seconds_ahead(self, worker: Member, task: Task) -> tuple[float, float]:
        """The outstanding work of a worker, in seconds: what the task would wait for there, and all of it.

        Interactive tasks wait for no batch work. Workers on one device count as equally fast: speeds vary with load.
        """
        alike = [each for each in self.ready if each.settings.device == worker.settings.device]
        seconds, before = 0.0, 0.0
        for pending in worker.pending.values():
            kind = pending.task.model, pending.task.precision
            each = worker.left(pending.task) * len(alike) / sum(other.speeds[kind] for other in alike)
            seconds += each
            before += each if pending.task.priority == "interactive" or task.priority == "batch" else 0.0
        return before, seconds


def _fail(pending: Pending, kind: FailureKind, text: str) -> None:
    pending.replies.put_nowait(Outcome(pending.task.id, failure=Failure(kind, text)))
