"""Health checks, which need no token: few of their requests are taken at once, and each for some seconds.

gRPC reads a request whole, however large, so that strangers could fill the memory with them.
"""

import asyncio
from collections import Counter
from typing import Any

import grpc

from .admission.callers import address
from .errors import RequestError
from .parsing import parse

MAX_REQUESTS, MAX_OF_ADDRESS = 16, 4  # Requests that are being taken, and those of one address.
MAX_SECONDS = 5.0  # For a request to come whole.
MAX_BYTES = 16 << 10  # A request has nothing but the name of a service.


class Probes:
    """Puts the handlers of health checks behind these bounds."""

    def __init__(self) -> None:
        self._taking = Counter[str]()  # Requests by address.

    def bounded(self, handler: Any) -> Any:
        """The handler, begun before the request's body is there, as that of a stream is."""

        async def answer(_: Any, context: grpc.aio.ServicerContext) -> None:
            try:
                request = parse(handler.request_deserializer, await self._taken(context))
            except RequestError as error:
                await context.abort(error.code, error.text)
            if handler.response_streaming:
                await handler.unary_stream(request, context)
            else:
                await context.write(await handler.unary_unary(request, context))

        return grpc.stream_stream_rpc_method_handler(answer, response_serializer=handler.response_serializer)

    async def _taken(self, context: grpc.aio.ServicerContext) -> bytes:
        """The request's bytes. Raises RequestError."""
        who = address(context.peer())
        if self._taking.total() >= MAX_REQUESTS or self._taking[who] >= MAX_OF_ADDRESS:
            raise _refused(grpc.StatusCode.RESOURCE_EXHAUSTED, "too many health checks are being read; try again")
        self._taking[who] += 1
        try:
            async with asyncio.timeout(MAX_SECONDS):
                request = await context.read()
        except TimeoutError:
            text = f"the request did not come whole in {MAX_SECONDS:g} s"
            raise _refused(grpc.StatusCode.DEADLINE_EXCEEDED, text) from None
        finally:
            self._taking[who] -= 1
            if not self._taking[who]:
                del self._taking[who]
        if request is grpc.aio.EOF:
            raise _refused(grpc.StatusCode.INVALID_ARGUMENT, "there is no request")
        if len(request) > MAX_BYTES:
            text = f"a health check has at most {MAX_BYTES} bytes, not {len(request)}"
            raise _refused(grpc.StatusCode.INVALID_ARGUMENT, text)
        return bytes(request)


def _refused(code: grpc.StatusCode, text: str) -> RequestError:
    return RequestError(code, "HEALTH_CHECK", text)
