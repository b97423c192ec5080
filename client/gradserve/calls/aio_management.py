"""The calls for asyncio that change which models a server serves."""

from collections.abc import Callable
from typing import Any

from gradserve.messages.models import CHANGE_TIMEOUT, change_progress, changed_models
from gradserve.results.models import ChangedModels, ChangeProgress
from gradserve.transport.aio_connection import AsyncConnection
from gradserve.v1 import management_pb2

Report = Callable[[ChangeProgress], object]


def ignore_progress(progress: ChangeProgress) -> None:
    """Default of `on_progress`: does nothing."""


class AsyncManagementCalls(AsyncConnection):
    """A connection with the calls that change models, which a server must allow.

    They return when the server serves what was asked for, and raise the reason where it goes on as before.
    `on_progress` is called with what it does meanwhile. A call that is cancelled or out of time withdraws its
    change only while that waits for an earlier one; a change that has begun goes on.
    """

    async def load_model(
        self, *names: str, on_progress: Report = ignore_progress, timeout: float = CHANGE_TIMEOUT
    ) -> ChangedModels:
        """Load models of the server's catalogue, as its configuration file has them now."""
        request = management_pb2.LoadModelRequest(names=names)
        return await self._change(self._stubs.management.LoadModel, request, on_progress, timeout)

    async def unload_model(
        self, *names: str, on_progress: Report = ignore_progress, timeout: float = CHANGE_TIMEOUT
    ) -> ChangedModels:
        """Take models away; requests that name them then get NotFound."""
        request = management_pb2.UnloadModelRequest(names=names)
        return await self._change(self._stubs.management.UnloadModel, request, on_progress, timeout)

    async def reload_model(
        self, *names: str, on_progress: Report = ignore_progress, timeout: float = CHANGE_TIMEOUT
    ) -> ChangedModels:
        """Replace models by what the server's configuration file, and the files that it names, have now."""
        request = management_pb2.ReloadModelRequest(names=names)
        return await self._change(self._stubs.management.ReloadModel, request, on_progress, timeout)

    async def _change(self, method: Any, request: Any, on_progress: Report, timeout: float) -> ChangedModels:
        changed = ChangedModels((), (), 0.0)
        async for event in self._stream(method, request, timeout):
            if event.HasField("progress"):
                on_progress(change_progress(event.progress))
            else:
                changed = changed_models(event.result)
        return changed
