"""The interceptor of every RPC: request id, access log, metrics, authentication, error mapping."""

import asyncio
import json
import logging
import secrets
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

import grpc
from grpc_status import rpc_status

from ...metrics import Metrics
from ...pool.wire import Failure
from ..admission.admission import Admission
from ..admission.callers import Caller, Callers
from ..admission.fair_threads import FairThreads
from ..errors import Full, RequestError, failure, status, translated, unavailable
from ..telemetry.request_log import RefusalLog, RequestLog, request_log, trace_id
from .aborting import end
from .parsing import PARSED_AT_ONCE_BYTES, parse, parsed_before
from .probes import Probes
from .unread import UnreadReplies

if TYPE_CHECKING:
    from ..telemetry.tracing import Tracing

log = logging.getLogger("gradserve.requests")

TOKEN_NEEDED = "a valid token is needed, as metadata authorization with the value Bearer TOKEN, or by --token TOKEN"
TWO_AUTHORIZATIONS = "two authorizations"  # Takes the place of several authorizations; it contains no token.
COUNTED_SERVICE = "gradserve.v1.GradientService"  # Its requests hold places; those about models are answered at once.
# Calls of another service that hold places too, each with the RPCs of GradientService: its caller must have the right
# to one of them.
COUNTED_CALLS = {"/inference.GRPCInferenceService/ModelInfer": ("Predict", "Explain")}
SERVED = ("/gradserve.", "/inference.")  # The beginnings of methods that are not gRPC's own.
# A call ends this long before its gRPC deadline, the smaller of both, so that our status reaches the caller.
END_SECONDS, END_SHARE = 0.05, 0.05
HEALTH = "/grpc.health.v1.Health/"  # Health checks carry no token.


class RequestInterceptor(grpc.aio.ServerInterceptor):  # type: ignore[misc]
    """Gives every call its request id, access log, metrics, authentication and error mapping."""

    def __init__(
        self,
        metrics: Metrics,
        callers: Callers,
        admission: Admission,
        unread: UnreadReplies,
        tracing: "Tracing | None" = None,
    ) -> None:
        self._metrics, self._callers, self._admission, self._unread = metrics, callers, admission, unread
        self._tracing = tracing
        self._refusals, self._probes = RefusalLog(), Probes()
        self._parsers = FairThreads(1, "parser")
        self._limits: set[asyncio.Timeout] = set()  # Those of the running requests that hold places.
        self._running = 0
        self._idle = asyncio.Event()
        self._draining = self._cut_off = False

    async def drain(self, seconds: float) -> bool:
        """Refuses new requests from now on, and ends those as UNAVAILABLE that still run after so many seconds.

        Returns, once none runs any more, whether all of them ended by themselves.
        """
        self._draining = True
        self._idle.clear()
        if self._running:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._idle.wait(), seconds)
        if self._running:
            self.cut_off()
            await self._idle.wait()
        return not self._cut_off

    def cut_off(self) -> None:
        """Ends the running requests at once, as UNAVAILABLE."""
        self._cut_off = self._cut_off or bool(self._limits)
        for limit in self._limits:
            if not limit.expired():
                limit.reschedule(0.0)

    async def intercept_service(
        self, continuation: Callable[[Any], Awaitable[Any]], details: grpc.HandlerCallDetails
    ) -> Any:
        """The original handler inside `_run`. The handler of a stream is a coroutine that writes its events."""
        handler = await continuation(details)
        behaviour = handler and (handler.unary_unary or handler.unary_stream)
        if behaviour is None or not details.method.startswith(SERVED):
            return self._guard(handler, details)
        metadata = _metadata(details)
        caller, rpcs = self._callers.of(metadata, ""), _counted(details.method)
        if caller is None or (rpcs and not any(self._callers.may_call(caller, rpc) for rpc in rpcs)):

            async def refuse(_: Any, context: grpc.aio.ServicerContext) -> Any:
                return await self._run(_nothing, context, details.method, metadata)

            return grpc.stream_stream_rpc_method_handler(refuse)  # Unlike others it begins before the body is there.

        async def stream(request: bytes, context: grpc.aio.ServicerContext) -> None:
            timed = self._unread.timed(self._callers.key(caller, context.peer()), context)
            answer = partial(self._answer, behaviour, handler.request_deserializer, request, timed)
            await self._run(answer, context, details.method, metadata)

        async def handle(request: bytes, context: grpc.aio.ServicerContext) -> bytes:
            answer = partial(self._answer, behaviour, handler.request_deserializer, request, context)
            reply: bytes = handler.response_serializer(await self._run(answer, context, details.method, metadata))
            self._unread.watch(self._callers.key(caller, context.peer()), len(reply), context)
            return reply

        if handler.response_streaming:
            return grpc.unary_stream_rpc_method_handler(stream, response_serializer=handler.response_serializer)
        return grpc.unary_unary_rpc_method_handler(handle)

    async def _answer(self, behaviour: Any, from_string: Any, request: bytes, context: grpc.aio.ServicerContext) -> Any:
        """The behaviour's answer to the request, of which a large one is parsed in a thread."""
        if len(request) <= PARSED_AT_ONCE_BYTES:
            return await behaviour(parse(from_string, request), context)
        message = await self._parsers.run(request_log.get().caller, parse, from_string, request)
        return await behaviour(message, context)

    def _guard(self, handler: Any, details: grpc.HandlerCallDetails) -> Any:
        """The handler of another service: reflection needs a token with that right, health checks need none."""
        if handler is None:
            return None
        if details.method.startswith(HEALTH):
            return self._probes.bounded(handler)
        caller = self._callers.of(_metadata(details), "")
        if caller is not None and self._callers.rights(caller).reflection:
            return parsed_before(handler)

        async def refuse(_: Any, context: grpc.aio.ServicerContext) -> None:
            if caller is not None:
                await end(context.abort(grpc.StatusCode.PERMISSION_DENIED, f"{caller.name} may not use reflection"))
            await end(context.abort(grpc.StatusCode.UNAUTHENTICATED, TOKEN_NEEDED))

        return grpc.stream_stream_rpc_method_handler(refuse)

    async def _run(
        self,
        answer: Callable[[], Awaitable[Any]],
        context: grpc.aio.ServicerContext,
        method: str,
        metadata: dict[str, Any],
    ) -> Any:
        _, service, name = method.split("/")
        entry = RequestLog(_request_id(metadata), peer=context.peer(), trace=trace_id(metadata))
        entry.deadline = context.time_remaining()
        request_log.set(entry)
        trace = self._tracing.begin(method, metadata, entry) if self._tracing else None
        context.set_trailing_metadata((("x-request-id", entry.id),))
        self._metrics.started.labels(service, name).inc()
        self._running += 1
        code = grpc.StatusCode.OK
        refusal: RequestError | None = None
        try:
            entry.caller = self._caller(metadata, entry.peer)  # It stands in the log from here on.
            self._unread.check(self._callers.key(entry.caller, entry.peer))
            rpcs = _counted(method)
            if not rpcs:
                return await answer()
            if not any(self._callers.may_call(entry.caller, rpc) for rpc in rpcs):
                self._callers.check_rpc(entry.caller, rpcs[0])
            return await self._answer_in_time(answer, entry.caller, name, context.time_remaining())
        except asyncio.CancelledError:
            code = grpc.StatusCode.CANCELLED
            self._metrics.cancelled.inc()
            raise
        except Exception as error:
            refusal = _refusal(error, entry.id)
            code = refusal.code
            if isinstance(refusal, Full):
                self._metrics.rejected.labels(refusal.refused).inc()
        finally:
            if trace is not None:
                trace.end(code)
            self._record(service, name, code, entry, refused=refusal.refused if refusal else "")
            self._running -= 1
            if not self._running:
                self._idle.set()
        assert refusal is not None, "every other way out has returned or raised"
        refusal.with_traceback(None)  # It would keep this frame, which keeps it.
        return await end(context.abort_with_status(_with_id(refusal, entry.id)))

    def _caller(self, metadata: dict[str, Any], peer: str) -> Caller:
        """Who calls. Raises RequestError where the token is missing or unknown, and while the server stops."""
        caller = self._callers.of(metadata, peer)
        if caller is None:
            raise RequestError(grpc.StatusCode.UNAUTHENTICATED, "NO_TOKEN", TOKEN_NEEDED)
        if self._draining:
            raise unavailable("the server is stopping")
        return caller

    async def _answer_in_time(
        self, answer: Callable[[], Awaitable[Any]], caller: Caller, name: str, remaining: float | None
    ) -> Any:
        """The answer, if the caller is let in and before its time is up. Raises RequestError."""
        limit = asyncio.timeout(_time_limit(remaining))
        with self._admission.slot(caller, name.removeprefix("Stream").lower(), remaining):
            try:
                async with limit:
                    self._limits.add(limit)
                    return await answer()
            except TimeoutError as error:
                if not limit.expired():
                    raise
                if self._cut_off:
                    raise unavailable("the server stopped before the request was done") from error
                raise failure(Failure("deadline", "")) from error
            finally:
                self._limits.discard(limit)

    def _record(self, service: str, name: str, code: grpc.StatusCode, entry: RequestLog, *, refused: str) -> None:
        self._metrics.handled.labels(service, name, code.name).inc()
        if code is not grpc.StatusCode.OK:
            self._metrics.unanswered.inc(entry.rows)
        self._metrics.handling.labels(service, name, entry.served_model).observe(time.monotonic() - entry.arrived)
        line = entry.fields(name, code)
        if log.isEnabledFor(logging.INFO) and self._refusals.shows(line, refused):
            log.info("%s", json.dumps(line), extra={"fields": line})


def _counted(method: str) -> tuple[str, ...]:
    """The RPCs of GradientService of which a caller needs the right to one; none for calls that hold no place."""
    _, service, name = method.split("/")
    return (name,) if service == COUNTED_SERVICE else COUNTED_CALLS.get(method, ())


def _refusal(error: Exception, request_id: str) -> RequestError:
    """The error of the request that an exception stands for; one that nobody expected goes into the log."""
    refusal = translated(error)
    if refusal is None:
        logging.getLogger(__name__).error("request %s failed", request_id, exc_info=error)
        refusal = failure(Failure("internal", ""))
    return refusal


async def _nothing() -> None:
    """Stands for the answer of a call that `_run` refuses, so that it is never made."""


def _metadata(details: grpc.HandlerCallDetails) -> dict[str, Any]:
    """What the caller sent beside the request. Of two authorizations neither is taken."""
    pairs = tuple(details.invocation_metadata or ())
    metadata = dict(pairs)
    if [name for name, _ in pairs].count("authorization") > 1:
        metadata["authorization"] = TWO_AUTHORIZATIONS
    return metadata


def _time_limit(remaining: float | None) -> float | None:
    """Seconds until a call is ended that has so much time until its deadline."""
    return None if remaining is None else remaining - min(END_SECONDS, END_SHARE * remaining)


def _request_id(metadata: dict[str, Any]) -> str:
    """A new unique id, since it names the task in the pool; it begins with the caller's id if one was sent."""
    sent_id = str(metadata.get("x-request-id", ""))
    own = secrets.token_hex(8)
    return f"{sent_id}-{own}" if sent_id.isascii() and sent_id.isprintable() and 0 < len(sent_id) <= 64 else own


def _with_id(refusal: RequestError, request_id: str) -> Any:
    abort_status = rpc_status.to_status(status(refusal, request_id))
    return abort_status._replace(trailing_metadata=(*abort_status.trailing_metadata, ("x-request-id", request_id)))
