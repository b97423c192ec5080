"""The pool of workers as a front-end uses it: they connect to it, get its tasks, and return outcomes."""

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import contextmanager

from .. import __version__
from ..models.card import ModelCard
from ..models.sample import difference
from ..models.served import ServedModels
from .frames import Unread
from .hub import Hub
from .keys import Keys
from .members import Member, Pending
from .placement import Placement
from .wire import SAME_PACKAGES, Failure, Outcome, Preview, Ready, Task, Tick

log = logging.getLogger(__name__)

REPLACED = "the model was replaced, and the workers that had it died meanwhile; ask again"


class NoWorker(Exception):
    """No worker takes tasks: the server starts or stops."""


class Pool:
    """The workers that have connected to a front-end. Its methods are called on the event loop's thread alone."""

    def __init__(
        self,
        endpoints: Sequence[str],
        keys: Keys | None = None,
        *,
        default: str = "",
        queue_seconds: float | None = None,
    ) -> None:
        """`endpoints`: where workers connect; those of other machines need the keys.

        `default`: the model of requests that name none.
        `queue_seconds`: the longest wait of interactive requests; None takes the bound that follows from their cost.
        """
        self.cards = ServedModels(default=default)
        self._next: ServedModels | None = None  # Models that are served as soon as a connected worker has them.
        self._uses = Counter[int]()  # Requests under way by the generation of their models.
        self.queue_seconds = queue_seconds
        self._workers: dict[bytes, Member] = {}
        self._placement = Placement(self._workers.values())
        self._refused: set[bytes] = set()  # Workers whose refusal was logged already.
        self._closing = ""  # Why it takes no tasks any more.
        self.changed = asyncio.Event()  # Set when a worker came or went; whoever waits clears it.
        self._hub = Hub(endpoints, self._on_message, self._on_lost, keys)

    @property
    def members(self) -> list[Member]:
        """The workers that take tasks for the models that are served now."""
        return [worker for worker in self._workers.values() if worker.generation == self.cards.generation]

    @property
    def generations(self) -> set[int]:
        """The generations of the workers that are connected."""
        return {worker.generation for worker in self._workers.values()}

    @property
    def oldest(self) -> int:
        """The oldest generation whose models are served, or have requests under way."""
        return min([self.cards.generation, *self._uses])

    @property
    def outstanding(self) -> float:
        """GFLOP outstanding on all workers, for this front-end."""
        return sum(worker.cost for worker in self._workers.values())

    def serve(self, models: ServedModels) -> None:
        """Serves these models: at once if none are served yet, else as soon as a connected worker has them."""
        self._next = models
        self._serve_next()

    def _serve_next(self) -> None:
        models = self._next
        if models is None or (self.cards and models.generation not in self.generations):
            return
        self.cards, self._next = models, None
        for name, worker in list(self._workers.items()):
            if self._is_other(name, worker.generation, worker.cards):
                self._on_lost(name)
        for generation in filter(self._is_gone, self._uses):  # Their workers died while nothing had replaced them.
            self._placement.fail_waiting(generation, REPLACED)
        self._placement.place_waiting()
        self.changed.set()

    @contextmanager
    def using(self) -> Iterator[ServedModels]:
        """The models of a request. Until the end of the `with` they have workers, also where they are replaced."""
        generation = self.cards.generation
        self._uses[generation] += 1
        try:
            yield self.cards
        finally:
            self._uses[generation] -= 1
            if not self._uses[generation]:
                del self._uses[generation]
                if generation != self.cards.generation:
                    self.changed.set()

    def end_tasks(self, reason: str) -> None:
        """Fails all tasks, and takes no others."""
        self._closing = reason
        self._placement.fail_all(reason)

    def close(self) -> None:
        """Closes the connections to the workers; tasks without an outcome fail."""
        self.end_tasks(self._closing or "the server is stopping")
        self._hub.close()

    async def stream(self, task: Task) -> AsyncGenerator[Outcome | Preview, None]:
        """Previews, then the outcome. Closing this cancels the task. Raises NoWorker."""
        if self._closing:
            raise NoWorker("the server is stopping")
        if not self.cards:
            raise NoWorker("no worker is ready yet; try again in some seconds")
        if self._is_gone(task.generation):
            yield Outcome(task.id, failure=Failure("lost", REPLACED))
            return
        pending = Pending(task)
        try:
            self._placement.place(pending)
            while True:
                reply = await pending.replies.get()
                yield reply
                if isinstance(reply, Outcome):
                    return
        finally:
            self._placement.forget(pending)

    def _on_message(self, name: bytes, message: object) -> None:
        """Takes a worker's message."""
        if isinstance(message, Ready):
            self._on_ready(name, message)
        elif worker := self._workers.get(name):
            match message:
                case Outcome() | Preview():
                    worker.reply(message)
                case Unread():
                    reason = f"the answer of {worker.name} cannot be read ({message.reason}); {SAME_PACKAGES}"
                    worker.reply(Outcome(message.id, failure=Failure("unread", reason)))
                case Tick():
                    worker.learn(message)

    def _on_ready(self, name: bytes, ready: Ready) -> None:
        """Gives the tasks that wait for a worker to one that is ready, for the first time or again."""
        if ready.version != __version__:
            self._refuse(name, f"it has version {ready.version}, and this server has {__version__}")
            return
        if self._is_other(name, ready.generation, {card.name: card for card in ready.cards}):
            return
        before = self._workers.pop(name, None)
        member = Member(ready, lambda message: self._hub.send(name, [message]))
        if ready.generation > self.cards.generation:
            member.take_speeds(self.members)
        self._workers[name] = member
        if before is not None:  # It has dropped these when it lost the connection.
            self._placement.run_again(list(before.pending.values()))
        self._serve_next()
        self._placement.place_waiting()
        self.changed.set()

    def _is_gone(self, generation: int) -> bool:
        """Whether the workers that had models which are replaced have all died; no others will come."""
        return generation < self.cards.generation and generation not in self.generations

    def _is_other(self, name: bytes, generation: int, theirs: Mapping[str, ModelCard]) -> bool:
        """Whether a worker of the generation that is served has other models than this server; logs that once."""
        if generation != self.cards.generation:
            return False
        for card in self.cards.values():
            reason = difference(card, theirs[card.name]) if card.name in theirs else "it has not loaded it"
            if reason:
                self._refuse(name, f"model {card.name}: {reason}")
                return True
        return False

    def _refuse(self, name: bytes, reason: str) -> None:
        if name not in self._refused:
            self._refused.add(name)
            log.error("worker %s gets no tasks: %s", name.decode(errors="replace"), reason)

    def _on_lost(self, name: bytes) -> None:
        """Gives the tasks of a worker that died, or is not heard, to others."""
        worker = self._workers.pop(name, None)
        if worker is None or self._closing:
            return
        if worker.pending:
            log.warning("%s is lost; its %d tasks run elsewhere", worker.name, len(worker.pending))
        self.changed.set()
        pendings, worker.pending = list(worker.pending.values()), {}
        self._placement.run_again(pendings)
        if self._is_gone(worker.generation):
            self._placement.fail_waiting(worker.generation, REPLACED)
