"""What the access log says of a request, and which refusals it leaves out."""

import re
import time
from collections import Counter
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import grpc

from ..admission.callers import NOBODY, Caller

REFUSALS_LOGGED_SECONDS = 2.0  # The period in which one refusal of each kind is logged.
TRACE_PARENT = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}.*")


@dataclass
class RequestLog:
    """A request's entry in the access log; `arrived` is in seconds of the monotonic clock."""

    id: str
    arrived: float = field(default_factory=time.monotonic)
    model: str = ""  # The name that was sent; the model's own once it is found.
    served_model: str = ""  # Its name if it is served, for the metrics.
    methods: str = ""
    rows: int = 0
    caller: Caller = NOBODY
    peer: str = ""  # The other side's address and port, as gRPC writes them.
    deadline: float | None = None  # Seconds that the caller would wait.
    size: str = ""  # WIDTHxHEIGHT of what the model saw.
    queue_seconds: float = 0.0  # Until the first pass.
    pass_seconds: float = 0.0  # The request's share of its passes.
    trace: str = ""  # The caller's trace id (W3C Trace Context), 32 hexadecimal digits.

    def fields(self, rpc: str, code: grpc.StatusCode) -> dict[str, Any]:
        """The entry as it is logged, with times in milliseconds; what is empty is left out after `code`."""
        seconds = {"deadline_ms": self.deadline, "queue_ms": self.queue_seconds, "pass_ms": self.pass_seconds}
        times = {name: round(value * 1000, 1) for name, value in seconds.items() if value}
        peer = self.peer if code is not grpc.StatusCode.OK else ""
        more = {"size": self.size, **times, "trace": self.trace, "peer": peer}
        line: dict[str, Any] = {
            "id": self.id,
            "caller": self.caller.name,
            "rpc": rpc,
            "model": self.model,
            "methods": self.methods,
        }
        line |= {"rows": self.rows, "ms": round((time.monotonic() - self.arrived) * 1000, 1), "code": code.name}
        return line | {name: value for name, value in more.items() if value}


request_log: ContextVar[RequestLog] = ContextVar("request_log")


class RefusalLog:
    """Decides which refusals are logged, so that the log stays readable, and cheap, while many requests are refused."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._until = 0.0  # The end of the present period.
        self._logged: set[str] = set()  # The kinds of which one was logged in it.
        self._left_out = Counter[str]()  # How many were left out, by kind, since these numbers were logged last.

    def shows(self, line: dict[str, Any], refused: str) -> bool:
        """Whether to log a line; `refused`: its kind of refusal, if it is one.

        The first line of each period, which may be an answer's, gets a field with the refusals that were left out
        before, by kind; the line of a refusal gets its kind.
        """
        now = self._clock()
        if now >= self._until:
            self._until = now + REFUSALS_LOGGED_SECONDS
            self._logged.clear()
            if self._left_out:
                line["refusals_left_out"], self._left_out = dict(self._left_out), Counter()
        if not refused:
            return True
        line["refused"] = refused
        if refused in self._logged:
            self._left_out[refused] += 1
            return False
        self._logged.add(refused)
        return True


def trace_id(metadata: dict[str, Any]) -> str:
    """The trace id in the header traceparent, or empty."""
    match = TRACE_PARENT.fullmatch(str(metadata.get("traceparent", "")))
    return match[1] if match else ""
