"""Changes of the served models: the front-end asks its keeper, and tells its caller what becomes of them."""

import asyncio
import secrets
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing

import grpc

from gradserve.v1 import management_pb2 as pb
from gradserve.v1 import management_pb2_grpc

from ..pool.pool import Pool
from ..pool.wire import ChangeAction, Changed, ChangeFailure, ChangeFailureKind, ChangeModels, Changing, DropChange
from .admission.callers import Callers
from .errors import RequestError, clipped, invalid, shown
from .fields import enum_value
from .rpcs.models import model_reply
from .telemetry.request_log import request_log

MAX_LOGGED_NAMES_BYTES = 100  # The most bytes of the models' names that the log repeats.
MAX_NAMES = 256  # The most names of a call.
MAX_NAME_CHARACTERS = 64  # As in the catalogue.
STATE = pb.DESCRIPTOR.enum_types_by_name["ModelChangeState"]
CODES: dict[ChangeFailureKind, tuple[grpc.StatusCode, str]] = {
    "unknown": (grpc.StatusCode.NOT_FOUND, "UNKNOWN_MODEL"),
    "refused": (grpc.StatusCode.FAILED_PRECONDITION, "MODELS_NOT_CHANGED"),
    "stopping": (grpc.StatusCode.UNAVAILABLE, "NO_WORKER"),
    "withdrawn": (grpc.StatusCode.CANCELLED, "CANCELLED"),
    "lost": (grpc.StatusCode.UNAVAILABLE, "NO_WORKER"),
    "internal": (grpc.StatusCode.INTERNAL, "INTERNAL"),
}
LOST = ChangeFailure(
    "lost", "the keeper was not heard for a time, and the change may have been made, or may still be; ListModels tells"
)


class KeeperChanges:
    """The changes that this front-end's keeper makes for its callers. `send` sends the keeper a message."""

    def __init__(self, send: Callable[[object], None]) -> None:
        self._send = send
        self._replies: dict[str, asyncio.Queue[Changing | Changed]] = {}

    async def ask(self, order: ChangeModels) -> AsyncGenerator[Changing | Changed, None]:
        """Asks the keeper for a change, and yields its progress until its end.

        No other change has the order's id. Closing this before the end tells the keeper that nobody waits any more.
        """
        replies = self._replies[order.id] = asyncio.Queue()
        self._send(order)
        reply: Changing | Changed | None = None
        try:
            while not isinstance(reply, Changed):
                reply = await replies.get()
                yield reply
        finally:
            del self._replies[order.id]
            if not isinstance(reply, Changed):
                self._send(DropChange(order.id))

    def on_connected(self) -> None:
        """Ends all calls of `ask`: the keeper is connected again, and messages that it sent meanwhile may be lost."""
        for name, replies in self._replies.items():
            replies.put_nowait(Changed(name, LOST))
            self._send(DropChange(name))  # It may have been lost, or wait for others; one that has begun goes on.

    def on_message(self, message: Changing | Changed) -> None:
        """Takes the keeper's message about a change, whose caller may be gone."""
        if message.id in self._replies:
            self._replies[message.id].put_nowait(message)


class ModelManagementService(management_pb2_grpc.ModelManagementServiceServicer):
    """LoadModel, UnloadModel and ReloadModel."""

    def __init__(self, pool: Pool, callers: Callers, changes: KeeperChanges, *, without_tokens: bool) -> None:
        """`without_tokens`: whether all callers may change models, where no tokens are asked for."""
        self._pool, self._callers, self._changes, self._without_tokens = pool, callers, changes, without_tokens

    async def LoadModel(self, request: pb.LoadModelRequest, context: grpc.aio.ServicerContext) -> None:
        """Loads models of the catalogue."""
        await self._change("load", "LoadModel", request.names, context)

    async def UnloadModel(self, request: pb.UnloadModelRequest, context: grpc.aio.ServicerContext) -> None:
        """Takes models away."""
        await self._change("unload", "UnloadModel", request.names, context)

    async def ReloadModel(self, request: pb.ReloadModelRequest, context: grpc.aio.ServicerContext) -> None:
        """Replaces models by what the catalogue has now."""
        await self._change("reload", "ReloadModel", request.names, context)

    async def _change(
        self, action: ChangeAction, rpc: str, asked: Sequence[str], context: grpc.aio.ServicerContext
    ) -> None:
        entry = request_log.get()
        names = tuple(dict.fromkeys(asked))
        self._callers.check_change(entry.caller, rpc, names, without_tokens=self._without_tokens)
        entry.model = clipped(",".join(names), MAX_LOGGED_NAMES_BYTES)
        _check_names(names)
        visible = self._callers.rights(entry.caller).models
        order = ChangeModels(secrets.token_hex(8), action, names, visible)  # Callers may choose the request's id.
        async with aclosing(self._changes.ask(order)) as events:
            async for event in events:
                seconds = time.monotonic() - entry.arrived
                if isinstance(event, Changing):
                    await context.write(pb.ModelChangeEvent(progress=_progress(event, seconds)))
                elif event.failure is not None:
                    raise RequestError(*CODES[event.failure.kind], event.failure.text)
                else:
                    await context.write(pb.ModelChangeEvent(result=self._result(order, seconds)))

    def _result(self, order: ChangeModels, seconds: float) -> pb.ModelChangeResult:
        cards = self._pool.cards
        models = [model_reply(cards[name], layers=False) for name in order.names if name in cards]
        return pb.ModelChangeResult(models=models, served=filter(order.sees, cards), seconds=seconds)


def _check_names(names: Sequence[str]) -> None:
    """Raises INVALID_ARGUMENT where these cannot be names of models."""
    if not 1 <= len(names) <= MAX_NAMES:
        raise invalid([("names", f"must have the names of 1 to {MAX_NAMES} models, were {len(names)}")])
    for bad in [name for name in names if not 0 < len(name) <= MAX_NAME_CHARACTERS]:
        raise invalid([("names", f"must each have 1 to {MAX_NAME_CHARACTERS} characters, one was {shown(bad)}")])


def _progress(event: Changing, seconds: float) -> pb.ModelChangeProgress:
    return pb.ModelChangeProgress(
        state=enum_value(STATE, event.state),
        worker=event.worker,
        workers=event.workers,
        model=event.model,
        seconds=seconds,
    )
