"""What the keeper knows of one worker."""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from ..metrics import Metrics
from ..models.card import ModelCard
from ..models.sample import difference
from ..pool.wire import Loading, Ready, Tick, WorkerSettings
from .kept import Kept, Owner
from .watchdog import WorkerState

DEATH_CAUSES = "(out of memory? a crash in its builder?)"
SHORT_PASS = 1e-9  # Stands for the estimate of a pass so short that the worker does not tell of it.


class NotJoined(Exception):
    """A successor did not become ready; the text says why."""


def death_reason(name: str) -> str:
    """The reason that is given for a model whose loading has killed the worker's process."""
    return f"the worker died while loading it {DEATH_CAUSES}; leave it out, or try it alone: --model {name}"


class KeptWorker(Kept):
    """One worker's place."""

    def __init__(self, settings: WorkerSettings) -> None:
        super().__init__(f"the worker on {settings.device}")
        self.settings = settings
        self.state: WorkerState = "down"
        self.lost_seconds = 0.0  # Since its connection was lost.
        self.pass_seconds = 0.0  # Since it told that a pass began; 0 while it has none.
        self.in_pass = False
        self.memory = 0  # Bytes in use.
        self.expected = 0.0  # Estimated seconds of that pass, 0 where it is not known.
        self.loading = ""  # Name of the model that it loads now.
        self.cards: Mapping[str, ModelCard] = {}
        self.unavailable: Mapping[str, str] = {}  # Reasons by the models that it could not load.
        self.died: dict[str, str] = {}  # Reasons by the models that killed its process at the start.
        self.joining: asyncio.Future[None] | None = None  # Of a successor, until it is ready for the first time.
        self.on_loading: Callable[[Loading], None] = lambda loading: None

    async def join(self, owner: Owner) -> Mapping[str, ModelCard]:
        """Starts it beside others; returns its cards when it is ready for the first time. Raises NotJoined."""
        self.joining = asyncio.get_running_loop().create_future()
        self.keep(owner)
        await self.joining
        return self.cards

    def begin(self, ready: Ready) -> None:
        """Notes that its process takes tasks."""
        self.state, self.loading = "ready", ""
        self.ready_since = self.ready_since or time.monotonic()
        self.cards = {card.name: card for card in ready.cards}
        self.unavailable = {**ready.unavailable, **self.died}
        if self.joining and not self.joining.done():
            self.joining.set_result(None)

    def note_loading(self, loading: Loading) -> None:
        """Notes what it loads or warms up now."""
        self.loading = loading.name
        if self.joining and not self.joining.done():
            self.on_loading(loading)

    def fail_to_join(self, reason: str) -> bool:
        """Whether it is a successor that was never ready; if so, its change fails, and it is not started again."""
        if not self.joining:
            return False
        if not self.joining.done():
            self.joining.set_exception(NotJoined(reason))
            self.release()
        return self.joining.cancelled() or self.joining.exception() is not None

    def note_pass(self, expected: float | None) -> None:
        """Notes that a pass began, with its estimate, or that none runs."""
        self.in_pass, self.pass_seconds, self.expected = expected is not None, 0.0, expected or 0.0

    def leave_out(self) -> str:
        """Leaves out the model that its process died of while loading; returns why that model is not served."""
        name, self.loading = self.loading, ""
        self.settings = replace(self.settings, models=tuple(m for m in self.settings.models if m.name != name))
        self.died[name] = death_reason(name)
        return self.died[name]


def common_models(workers: Sequence[KeptWorker], ready: Ready) -> tuple[dict[str, ModelCard], dict[str, str]]:
    """The cards of the models that all workers have loaded, and why others are not served. `ready`: of any worker."""
    failed = {name: reason for worker in workers for name, reason in worker.unavailable.items()}
    for name, reason in failed.items():
        count = sum(name in worker.unavailable for worker in workers)
        failed[name] = reason + (f" (in {count} of {len(workers)} workers)" if count < len(workers) else "")
    for card in ready.cards:
        reasons = [difference(card, worker.cards.get(card.name, card)) for worker in workers]
        if card.name not in failed and (reason := next(filter(None, reasons), "")):
            failed[card.name] = reason
    return {card.name: card for card in ready.cards if card.name not in failed}, failed


def count_passes(tick: Tick, metrics: Metrics) -> None:
    """Adds what a worker has told of its passes to the metrics."""
    metrics.unanswered.inc(tick.cancelled_rows)
    for each in tick.passes:
        if each.retried:
            metrics.oom.inc()
            continue
        metrics.step.labels(each.model).observe(each.seconds)
        metrics.step_rows.labels(each.model).observe(each.rows)
