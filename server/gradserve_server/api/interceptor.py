"""The interceptor of every RPC: request id, access log, metrics, authentication, error mapping."""

import asyncio
import json
import logging
import secrets
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from grpc_status import rpc_status

from ..metrics import Metrics
from ..pool.wire import Failure
from .errors import RequestError, failure, status, translated, unavailable

log = logging.getLogger("gradserve.requests")

TOKEN_NEEDED = "a valid token is needed, as metadata authorization with the value Bearer TOKEN, or by --token TOKEN"
METHODS_WITHOUT_TOKEN = ("/grpc.health.v1.Health/",)  # Health probes carry no token.


@dataclass
class RequestLog:
    """A request's entry in the access log; `arrived` is in seconds of the monotonic clock."""

    id: str
    arrived: float = field(default_factory=time.monotonic)
    model: str = ""
    methods: str = ""
    rows: int = 0


request_log: ContextVar[RequestLog] = ContextVar("request_log")


class RequestInterceptor(grpc.aio.ServerInterceptor):  # type: ignore[misc]
    """Gives every call its request id, access log, metrics, authentication and error mapping."""

    def __init__(self, metrics: Metrics, token: str | None) -> None:
        self._metrics, self._token = metrics, token
        self._running = 0
        self._idle = asyncio.Event()
        self._draining = False

    async def drain(self, seconds: float) -> None:
        """Refuses new requests from now on; returns when the running ones have ended, or after so many seconds."""
        self._draining = True
        self._idle.clear()
        if self._running:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._idle.wait(), seconds)

    async def intercept_service(
        self, continuation: Callable[[Any], Awaitable[Any]], details: grpc.HandlerCallDetails
    ) -> Any:
        """The original handler inside `_run`. The handler of a stream is a coroutine that writes its events."""
        handler = await continuation(details)
        behaviour = handler and (handler.unary_unary or handler.unary_stream)
        if behaviour is None or not details.method.startswith("/gradserve."):
            return self._guard(handler, details)
        metadata = dict(details.invocation_metadata or ())

        async def handle(request: bytes, context: grpc.aio.ServicerContext) -> Any:
            answer = partial(_answer, behaviour, handler.request_deserializer, request, context)
            return await self._run(answer, context, details.method, metadata)

        if handler.response_streaming:
            return grpc.unary_stream_rpc_method_handler(handle, response_serializer=handler.response_serializer)
        return grpc.unary_unary_rpc_method_handler(handle, response_serializer=handler.response_serializer)

    def _guard(self, handler: Any, details: grpc.HandlerCallDetails) -> Any:
        """Reflection and the like need the token too; health does not."""
        if (
            handler is None
            or details.method.startswith(METHODS_WITHOUT_TOKEN)
            or self._allowed(dict(details.invocation_metadata or ()))
        ):
            return handler

        async def refuse(_: Any, context: grpc.aio.ServicerContext) -> None:
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, TOKEN_NEEDED)

        return grpc.unary_unary_rpc_method_handler(refuse)

    def _allowed(self, metadata: dict[str, Any]) -> bool:
        if self._token is None:
            return True
        return secrets.compare_digest(str(metadata.get("authorization", "")).encode(), f"Bearer {self._token}".encode())

    async def _run(
        self,
        answer: Callable[[], Awaitable[Any]],
        context: grpc.aio.ServicerContext,
        method: str,
        metadata: dict[str, Any],
    ) -> Any:
        _, service, name = method.split("/")
        entry = RequestLog(_request_id(metadata))
        request_log.set(entry)
        context.set_trailing_metadata((("x-request-id", entry.id),))
        self._metrics.started.labels(service, name).inc()
        self._running += 1
        code = grpc.StatusCode.OK
        refusal: RequestError | None = None
        try:
            if not self._allowed(metadata):
                raise RequestError(grpc.StatusCode.UNAUTHENTICATED, "NO_TOKEN", TOKEN_NEEDED)
            if self._draining:
                raise unavailable("the server is stopping")
            return await answer()
        except asyncio.CancelledError:
            code = grpc.StatusCode.CANCELLED
            self._metrics.cancelled.inc()
            raise
        except Exception as error:
            refusal = translated(error)
            if refusal is None:
                logging.getLogger(__name__).exception("request %s failed", entry.id)
                refusal = failure(Failure("internal", ""))
            code = refusal.code
        finally:
            self._record(service, name, code, entry)
            self._running -= 1
            if not self._running:
                self._idle.set()
        assert refusal is not None, "every other way out has returned or raised"
        return await context.abort_with_status(_with_id(refusal, entry.id))

    def _record(self, service: str, name: str, code: grpc.StatusCode, entry: RequestLog) -> None:
        seconds = time.monotonic() - entry.arrived
        self._metrics.handled.labels(service, name, code.name).inc()
        self._metrics.handling.labels(service, name).observe(seconds)
        line = {"id": entry.id, "rpc": name, "model": entry.model, "methods": entry.methods, "rows": entry.rows}
        log.info("%s", json.dumps({**line, "ms": round(seconds * 1000, 1), "code": code.name}))


async def _answer(behaviour: Any, parse: Any, request: bytes, context: grpc.aio.ServicerContext) -> Any:
    return await behaviour(_parse(parse, request), context)


def _parse(parse: Callable[[bytes], Any], request: bytes) -> Any:
    try:
        return parse(request)
    except DecodeError as error:
        text = f"the request is not a message of its type: {error}"
        raise RequestError(grpc.StatusCode.INVALID_ARGUMENT, "MALFORMED_REQUEST", text) from error


def _request_id(metadata: dict[str, Any]) -> str:
    """A new unique id, since it names the task in the pool; it begins with the caller's id if one was sent."""
    sent_id = str(metadata.get("x-request-id", ""))
    own = secrets.token_hex(8)
    return f"{sent_id}-{own}" if sent_id.isascii() and sent_id.isprintable() and 0 < len(sent_id) <= 64 else own


def _with_id(refusal: RequestError, request_id: str) -> Any:
    abort_status = rpc_status.to_status(status(refusal, request_id))
    return abort_status._replace(trailing_metadata=(*abort_status.trailing_metadata, ("x-request-id", request_id)))
