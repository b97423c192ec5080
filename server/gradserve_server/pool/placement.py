"""Which worker runs which task, and which tasks wait for one."""

from collections.abc import Collection, Sequence
from contextlib import suppress

from .members import Member, Pending, left
from .wire import Cancel, Failure, FailureKind, Outcome, Task

MAX_ATTEMPTS = 3  # Most workers that run a task, if each of them is lost.


class Placement:
    """The tasks of a pool's workers."""

    def __init__(self, workers: Collection[Member]) -> None:
        """`workers`: those of the pool, a view that follows them as they come and go."""
        self._workers = workers
        self._waiting: list[Pending] = []  # Tasks that wait for a worker.
        self._last_attempts: list[Pending] = []  # Tasks in their last attempt; the first runs, the others wait.

    def place(self, pending: Pending) -> None:
        """Gives a task to the worker of its generation with the least outstanding work, or lets it wait for one."""
        workers = [each for each in self._workers if each.generation == pending.task.generation]
        if not workers:
            self._waiting.append(pending)
            return
        worker = workers[0]
        if len(workers) > 1:
            worker = min(workers, key=lambda each: self._seconds_ahead(each, pending.task))
        pending.worker = worker
        worker.pending[pending.task.id] = pending
        worker.send(pending.task.on_clock(worker.behind))

    def place_waiting(self) -> None:
        """Gives the workers the tasks that wait for one."""
        waiting, self._waiting = self._waiting, []
        for pending in waiting:
            self.place(pending)

    def run_again(self, pendings: Sequence[Pending]) -> None:
        """Places the tasks of a lost worker again; those that have lost MAX_ATTEMPTS workers fail instead."""
        for pending in pendings:
            pending.worker = None
            pending.losses += 1
            if pending.losses >= MAX_ATTEMPTS:
                _fail(pending, "crashed", f"its worker died or froze {pending.losses} times while it ran")
            elif pending.losses < MAX_ATTEMPTS - 1:
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
            worker.send(Cancel(pending.task.id))

    def fail_waiting(self, generation: int, text: str) -> None:
        """Fails the tasks of a generation as lost, once no worker of that generation is left."""
        tasks = dict.fromkeys([*self._waiting, *self._last_attempts])
        for pending in [each for each in tasks if each.task.generation == generation]:
            _fail(pending, "lost", text)

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
        kind_of_worker = worker.device, worker.generation
        alike = [each for each in self._workers if (each.device, each.generation) == kind_of_worker]
        seconds, before = 0.0, 0.0
        for held in worker.held():
            kind = held.model, held.precision
            each = left(held) * len(alike) / sum(other.speeds[kind] for other in alike)
            seconds += each
            before += each if held.priority == "interactive" or task.priority == "batch" else 0.0
        return before, seconds


def _fail(pending: Pending, kind: FailureKind, text: str) -> None:
    pending.replies.put(Outcome(pending.task.id, failure=Failure(kind, text)))
