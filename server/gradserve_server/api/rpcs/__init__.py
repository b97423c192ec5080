"""A module for each RPC: `bind` makes a task of its request, and `reply` a reply of the task's outcome."""

from typing import Any, Protocol

from ...pool.wire import Outcome
from ..request import Bound, CallContext


class RpcModule(Protocol):
    """What the servicer needs of such a module. Both functions run in threads."""

    def bind(self, request: Any, at: CallContext) -> Bound:
        """Checks the request. Raises RequestError with everything that is wrong with it."""

    def reply(self, request: Any, bound: Bound, outcome: Outcome) -> Any:
        """The response message."""
