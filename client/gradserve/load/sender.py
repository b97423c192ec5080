"""Sends requests over several connections and keeps what came of each."""

import random
import time
from collections.abc import Callable, Sequence
from itertools import accumulate, cycle
from types import TracebackType
from typing import Any, NamedTuple, Self

import grpc
import grpc.aio

from gradserve import errors
from gradserve.load import requests
from gradserve.load.mix import MixEntry
from gradserve.transport.channel import Endpoint

OK, NOT_SENT = "OK", "NOT_SENT"
_FIRST_DEADLINE = 60.0  # Seconds that the first request of an entry may take, which is not counted.


class Sample(NamedTuple):
    """What came of one request.

    entry: the place of its entry in the mix. due: when it was to be sent, in seconds after the start of the load. late:
    how many seconds later it was sent. seconds: how long its answer took from when it was due. rows: how many rows were
    computed for it. code: the status of gRPC, or NOT_SENT where as many requests as allowed were under way. reason: the
    one in the ErrorInfo, if there was one.
    """

    entry: int
    due: float
    late: float
    seconds: float
    rows: int
    code: str
    reason: str


class Sender:
    """Sends the requests of a mix about some pictures, each over the next connection; used with `async with`."""

    def __init__(
        self,
        endpoint: Endpoint,
        mix: Sequence[MixEntry],
        pictures: Sequence[bytes],
        *,
        deadline: float,
        seed: int = 0,
    ) -> None:
        """The deadline, in seconds, is for entries that have none; the seed decides what is sent when."""
        self.mix = mix
        self.seed = seed
        self.samples: list[Sample] = []
        self.under_way = 0
        self.most_under_way = 0
        self._endpoint = endpoint
        self._requests = requests.built(mix, pictures)
        self.deadlines = [deadline if entry.deadline is None else entry.deadline for entry in mix]
        self._weights = list(accumulate(entry.weight for entry in mix))
        self._begin = 0.0

    async def __aenter__(self) -> Self:
        self._channels = self._endpoint.channels(grpc.aio)
        calls = [[_call(opened, entry.rpc) for entry in self.mix] for opened in self._channels]
        self._turns = cycle(calls)
        try:
            await self._try_each()
        except BaseException:
            await self.__aexit__(None, None, None)
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for opened in self._channels:
            await opened.close()

    def start(self) -> None:
        """Forget what was sent before, and count seconds and draw requests from the beginning."""
        self.samples, self.most_under_way = [], 0
        self._chance = random.Random(self.seed)
        self._begin = time.perf_counter()

    def now(self) -> float:
        """Seconds since the start."""
        return time.perf_counter() - self._begin

    def draw(self) -> requests.BuiltRequest:
        """A request of the mix, by the weights, about any of the pictures."""
        (of_entry,) = self._chance.choices(self._requests, cum_weights=self._weights)
        return self._chance.choice(of_entry)

    def skip(self, request: requests.BuiltRequest, due: float) -> None:
        """Note that a request was due and not sent."""
        self.samples.append(Sample(request.entry, due, 0.0, 0.0, 0, NOT_SENT, ""))

    async def send(self, request: requests.BuiltRequest, due: float) -> float:
        """Send a request that was due at that second and note the outcome; returns the seconds to wait after a refusal.

        It is sent with what is left of its deadline, so that an answer is in time from when the request was due.
        """
        late = self.now() - due
        left = max(self.deadlines[request.entry] - late, 0.0)
        call = next(self._turns)[request.entry]
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        rows, code, reason, pause = 0, OK, "", 0.0
        try:
            rows = await call(request.body, timeout=left, metadata=self._endpoint.metadata)
        except grpc.aio.AioRpcError as failure:
            error = self._endpoint.error(failure)
            code, reason, pause = error.code.name, error.reason, error.retry_after or 0.0
        finally:
            self.under_way -= 1
        self.samples.append(Sample(request.entry, due, late, self.now() - due, rows, code, reason))
        return pause

    async def _try_each(self) -> None:
        """Send one request of each entry and connect. Raises their errors, unless time or the server's room ran out."""
        for call, (request, *_) in zip(next(self._turns), self._requests, strict=True):
            try:
                await call(request.body, timeout=_FIRST_DEADLINE, metadata=self._endpoint.metadata)
            except grpc.aio.AioRpcError as failure:
                error = self._endpoint.error(failure)
                if not isinstance(error, errors.ResourceExhausted | errors.DeadlineExceeded):
                    raise error from None
        for opened in self._channels:
            await opened.channel_ready()


def _call(opened: Any, rpc: str) -> Callable[..., Any]:
    """The RPC over a channel: bytes in, the rows of its reply out."""
    call: Callable[..., Any] = opened.unary_unary(requests.path(rpc), response_deserializer=requests.rows_of(rpc))
    return call
