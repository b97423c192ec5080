"""A module for each RPC: `bind` makes a task of its request, and `reply` a reply of the task's outcome.

Parts of these that two RPCs share, or that are too long for one module, lie beside them.
"""

from importlib import import_module
from typing import Any, Protocol, cast

from ...pool.wire import Outcome
from ..request import Bound, CallContext


class RpcModule(Protocol):
    """What the servicer needs of such a module. Both functions run in threads."""

    def bind(self, request: Any, at: CallContext) -> Bound:
        """Checks the request. Raises RequestError with everything that is wrong with it."""

    def reply(self, request: Any, bound: Bound, outcome: Outcome) -> Any:
        """The response message."""


def module_of(rpc: str) -> RpcModule:
    """The module that has the RPC's name in lower case. A stream has that of the RPC whose progress it tells."""
    return cast(RpcModule, import_module(f"{__name__}.{rpc.removeprefix('Stream').lower()}"))
