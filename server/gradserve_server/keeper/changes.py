"""Changes of the served models: new workers load beside those that serve, and take their places at one moment."""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from ..api.errors import clipped
from ..config import StartError
from ..metrics import Metrics
from ..models.card import ModelCard
from ..models.catalogue import ModelSpec
from ..models.tables import nearest
from ..pool.wire import (
    ChangeAction,
    Changed,
    ChangeFailure,
    ChangeFailureKind,
    ChangeModels,
    ChangeState,
    Changing,
    Loading,
    Serve,
)
from .front_ends import FrontEnds
from .kept_worker import KeptWorker, NotJoined
from .threads import in_thread
from .workers import Workers

log = logging.getLogger(__name__)

MAX_NAMES_SHOWN = 12  # The most names of models that an error text lists.
MAX_LOGGED_BYTES = 200  # The most bytes of a change's action and names that the log repeats.
# Fields of a card that must stay as they are for models that a change does not name; `difference` compares the others.
UNCHANGED = ("classes", "height", "width", "resize", "interpolation", "mean", "std", "head")
READ_SECONDS = 60.0  # Longest time for reading the catalogue, whose files may lie on a server that does not answer.
STOPPING = ChangeFailure("stopping", "the server is stopping")
WITHDRAWN = ChangeFailure("withdrawn", "its caller is gone")
# What callers are told where the reason could name models that they may not know of.
SEE_LOG = "the change could not be made; the server's log says why"
# Returns the models of the catalogue, and by name what is wrong with some of them.
ReadCatalogue = Callable[[], tuple[Sequence[ModelSpec], Mapping[str, str]]]
Send = Callable[[bytes, Sequence[object]], None]


class NotChanged(Exception):
    """A change that cannot be made. `of_all`: the text may name models that its caller may not know of."""

    def __init__(self, kind: ChangeFailureKind, text: str, *, of_all: bool = False) -> None:
        super().__init__(text)
        self.failure = ChangeFailure(kind, text)
        self.of_all = of_all


class Changes:
    """Makes the changes that front-ends ask for, one after the other.

    Every worker gets a successor that loads the models of the next generation. They load one after the other, so that
    requests keep most of the processors. When all are ready, all front-ends go over to them; the old workers end when
    no request needs them any more. Until then nothing has changed, so that there is nothing to undo where one fails.
    """

    def __init__(
        self,
        workers: Workers,
        front_ends: FrontEnds,
        send: Send,
        read: ReadCatalogue,
        metrics: Metrics,
        patience: float,
    ) -> None:
        """`read`: reads the models of the configuration file as it is now. It raises OSError, ValueError, StartError.

        `patience`: the most seconds until a new worker is ready.
        """
        self._workers, self._front_ends, self._send, self._read = workers, front_ends, send, read
        self._metrics, self._patience = metrics, patience
        self._stopping = False
        self._one_at_a_time = asyncio.Lock()
        self._tasks = set[asyncio.Task[None]]()
        # Changes that have not begun, by their ids, with the front-ends that ask for them.
        self._waiting: dict[str, tuple[bytes, asyncio.Task[None]]] = {}
        self._letting_go: asyncio.Task[None] | None = None  # Ends the workers that the last change has replaced.

    def take(self, front_end: bytes, order: ChangeModels) -> None:
        """Begins a change, or lets it wait for others; the front-end is told what becomes of it."""
        if self._stopping:
            self._end(front_end, order, STOPPING)
        else:
            self._waiting[order.id] = front_end, self._begin(self._make(front_end, order))

    def drop(self, order_id: str) -> None:
        """Drops a change that nobody waits for, unless it has begun."""
        if order_id in self._waiting:
            self._waiting.pop(order_id)[1].cancel()

    def on_lost(self, front_end: bytes) -> None:
        """Drops the changes of a front-end that have not begun: nobody there waits for them any more."""
        for order_id in [order_id for order_id, (of, _) in self._waiting.items() if of == front_end]:
            self.drop(order_id)

    def _begin(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def stop(self) -> None:
        """Ends all changes, and takes no others."""
        self._stopping = True
        await asyncio.sleep(0)  # Tasks that were just made begin, so that each tells its front-end of its end.
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _end(self, front_end: bytes, order: ChangeModels, failure: ChangeFailure | None = None) -> None:
        self._metrics.model_changes.labels(order.action, failure.kind if failure else "done").inc()
        self._send(front_end, [Changed(order.id, failure)])

    async def _make(self, front_end: bytes, order: ChangeModels) -> None:
        def tell(state: ChangeState, worker: int = 0, model: str = "") -> None:
            workers = len(self._serving()) if worker else 0
            shown = model if order.sees(model) else ""
            self._send(front_end, [Changing(order.id, state, worker, workers, shown)])

        end = partial(self._end, front_end, order)
        what = clipped(f"{order.action} {', '.join(map(repr, order.names))}", MAX_LOGGED_BYTES)
        try:
            if self._one_at_a_time.locked() or (self._letting_go and not self._letting_go.done()):
                tell("waiting")
            async with self._one_at_a_time:
                if self._letting_go:  # With those that it waits for there are never more than two generations.
                    await asyncio.wait([self._letting_go])
                self._waiting.pop(order.id)
                replaced = await self._change(order, tell)
                self._letting_go = self._begin(self._let_go(replaced))
            log.info("models were changed: %s", what)
            end()
        except NotChanged as error:
            log.warning("models were not changed (%s): %s", what, error)
            hidden = error.of_all and order.visible is not None
            end(replace(error.failure, text=SEE_LOG) if hidden else error.failure)
        except asyncio.CancelledError:
            end(STOPPING if self._stopping else WITHDRAWN)
            raise
        except Exception:
            log.exception("a fault in a change of the models: %s", what)
            end(ChangeFailure("internal", "a fault in the server; its log has the details"))

    async def _let_go(self, replaced: Sequence[KeptWorker]) -> None:
        """Ends workers when no request needs them any more."""
        try:
            await self._front_ends.leave(self._generation)
        except Exception:
            log.exception("a fault in the wait for requests of the replaced workers, which end now")
        await self._workers.remove(replaced)

    @property
    def _generation(self) -> int:
        return self._workers.served.generation if self._workers.served else 0

    def _serving(self) -> list[KeptWorker]:
        """The workers whose models are served."""
        return [worker for worker in self._workers.all if worker.settings.generation == self._generation]

    async def _change(self, order: ChangeModels, tell: Callable[..., None]) -> list[KeptWorker]:
        """Makes a change; returns the workers that are not needed any more. Raises NotChanged."""
        served = self._workers.served
        if served is None:
            raise NotChanged("stopping", "the server is starting")
        specs = await self._specs(order, served, tell)
        kept = {card.name: card for card in served.cards if card.name not in order.names}
        try:
            successors = await self._successors(specs, kept, served.generation + 1, tell)
        except NotJoined as error:
            of_all = not _is_about(str(error), order.names)
            raise NotChanged("refused", _reason(str(error), kept), of_all=of_all) from error
        unavailable = {name: reason for name, reason in served.unavailable.items() if name not in order.names}
        message = Serve(tuple(successors[0].cards.values()), unavailable, served.generation + 1)
        replaced = self._workers.replace(successors, message)
        await self._front_ends.switch(message)
        return replaced

    async def _successors(
        self, specs: tuple[ModelSpec, ...], cards: Mapping[str, ModelCard], generation: int, tell: Callable[..., None]
    ) -> list[KeptWorker]:
        """Starts a successor of each serving worker, and returns them when all are ready.

        Raises NotJoined where one does not become ready, after it has ended all of them. `cards`: those that unchanged
        models must have. The other successors must load the same models as the first one.
        """
        successors: list[KeptWorker] = []
        try:
            for number, worker in enumerate(self._serving(), 1):
                settings = replace(worker.settings, models=specs, served=cards, generation=generation)
                successors.append(successor := KeptWorker(settings))
                successor.on_loading = partial(_tell_loading, tell, number)
                loaded = await self._ready(successor)
                _check_unchanged(cards, loaded)
                cards = loaded
                tell("ready", number)
        except BaseException:
            await self._workers.remove(successors)
            raise
        for successor in successors:  # Whoever takes its place after a death must load the same.
            successor.settings = replace(successor.settings, served=cards)
        return successors

    async def _ready(self, successor: KeptWorker) -> Mapping[str, ModelCard]:
        """Starts a successor; returns its cards when it is ready. Raises NotJoined."""
        try:
            async with asyncio.timeout(self._patience):
                return await self._workers.add(successor)
        except TimeoutError as error:
            text = f"a new worker was not ready after {self._patience:g} s (pool.give_up_seconds)"
            raise NotJoined(text) from error

    async def _specs(self, order: ChangeModels, served: Serve, tell: Callable[..., None]) -> tuple[ModelSpec, ...]:
        """The models of the next generation. Raises NotChanged where the names are not such as the change needs."""
        loaded = [card.name for card in served.cards]
        specs = {spec.name: spec for spec in self._serving()[0].settings.models}
        if order.action == "unload":
            _check_known(order, loaded, "this server serves no model")
            left = tuple(spec for spec in specs.values() if spec.name not in order.names)
            if not left:
                raise NotChanged("refused", "no model would be left; load another one before, or stop the server")
            return left
        tell("reading")
        catalogue, faults = await self._catalogue()
        _check_known(order, catalogue, "the catalogue has no model")
        for name in order.names:
            if (name in loaded) == (order.action == "load"):
                raise NotChanged("refused", _other_action(name, order.action))
            if name in faults:
                raise NotChanged("refused", f"model {name}: {faults[name]}")
        specs |= {name: catalogue[name] for name in order.names}
        return tuple(specs[name] for name in dict.fromkeys([*catalogue, *specs]) if name in specs)

    async def _catalogue(self) -> tuple[dict[str, ModelSpec], Mapping[str, str]]:
        try:
            async with asyncio.timeout(READ_SECONDS):
                specs, faults = await in_thread(self._read)
        except TimeoutError as error:
            raise NotChanged("refused", f"the catalogue could not be read within {READ_SECONDS:g} s") from error
        except (OSError, ValueError, StartError) as error:
            raise NotChanged("refused", f"the catalogue cannot be read: {error}", of_all=True) from error
        return {spec.name: spec for spec in specs}, faults


def _check_unchanged(before: Mapping[str, ModelCard], now: Mapping[str, ModelCard]) -> None:
    """Raises NotJoined for an unchanged model whose card would differ, for example in its labels.

    Its weights were compared when it was loaded.
    """
    for name, card in before.items():
        for fact in UNCHANGED:
            if getattr(card, fact) != getattr(now[name], fact):
                raise NotJoined(f"model {name}: its {fact} would change")


def _tell_loading(tell: Callable[..., None], number: int, loading: Loading) -> None:
    tell("warming_up" if loading.warming_up else "loading", number, loading.name)


def _check_known(order: ChangeModels, known: Iterable[str], text: str) -> None:
    """Raises NotChanged for the first name that is not known, with those that are."""
    visible = list(filter(order.sees, known))
    for name in order.names:
        if name not in visible:
            more = ", ..." if len(visible) > MAX_NAMES_SHOWN else ""
            there = f"; there are: {', '.join(visible[:MAX_NAMES_SHOWN])}{more}" if visible else ""
            hint = nearest(name, visible) if more else ""
            raise NotChanged("unknown", f"{text} {name!r}{hint or there}")


def _other_action(name: str, action: ChangeAction) -> str:
    return f"model {name} is loaded already; reload it" if action == "load" else f"model {name} is not loaded; load it"


def _is_about(text: str, names: Sequence[str]) -> bool:
    """Whether the reasons in a text, one line for each model that could not be loaded, are only about these models."""
    lines = [line for line in text.splitlines() if line.startswith("model ")]
    return bool(lines) and all(line.startswith(tuple(f"model {name}: " for name in names)) for line in lines)


def _reason(text: str, kept: Iterable[str]) -> str:
    """Why a successor did not become ready. The cause may be a model that was not to be changed."""
    if blamed := next((name for name in kept if text.startswith(f"model {name}: ")), ""):
        return f"{text}; where the files of {blamed} have changed, reload it by the same call"
    return text
