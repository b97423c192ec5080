"""Health checks, which need no token: few of their requests are read at once, and each for some seconds.

gRPC reads a request whole, however large, so that strangers could fill the memory with them. Where too many are being
read, the one that has been longest on its way is given up: a real check comes at once, and is not kept out.
"""

import asyncio
from typing import Any

import grpc

from ..admission.callers import address
from ..errors import RequestError
from .aborting import end
from .parsing import parse

MAX_REQUESTS, MAX_OF_ADDRESS = 16, 4  # Requests that are being read, and those of one address.
MAX_SECONDS = 5.0  # For a request to come whole.
MAX_BYTES = 16 << 10  # A request has nothing but the name of a service.


class Probes:
    """Puts the handlers of health checks behind these bounds."""

    def __init__(self) -> None:
        self._reading: dict[asyncio.Timeout, str] = {}  # The address of each request that is being read, oldest first.

    def bounded(self, handler: Any) -> Any:
        """The handler, begun before the request's body is there, as that of a stream is."""

        async def answer(_: Any, context: grpc.aio.ServicerContext) -> None:
            try:
                request = parse(handler.request_deserializer, await self._read(context))
            except RequestError as error:
                await end(context.abort(error.code, error.text))
            if handler.response_streaming:
                await handler.unary_stream(request, context)
            else:
                await context.write(await handler.unary_unary(request, context))

        return grpc.stream_stream_rpc_method_handler(answer, response_serializer=handler.response_serializer)

    async def _read(self, context: grpc.aio.ServicerContext) -> bytes:
        """The request's bytes. Raises RequestError."""
        who = address(context.peer())
        self._make_room(who)
        limit = asyncio.timeout(MAX_SECONDS)
        try:
            async with limit:
                self._reading[limit] = who
                request = await context.read()
        except TimeoutError:
            text = f"the request did not come whole in {MAX_SECONDS:g} s, or before too many others"
            raise _refused(grpc.StatusCode.DEADLINE_EXCEEDED, text) from None
        finally:
            self._reading.pop(limit, None)
        if request is grpc.aio.EOF:
            raise _refused(grpc.StatusCode.INVALID_ARGUMENT, "there is no request")
        if len(request) > MAX_BYTES:
            text = f"a health check has at most {MAX_BYTES} bytes, not {len(request)}"
            raise _refused(grpc.StatusCode.INVALID_ARGUMENT, text)
        return bytes(request)

    def _make_room(self, who: str) -> None:
        """Gives up the oldest request of that address where it has too many, or the oldest of all."""
        own = [limit for limit, other in self._reading.items() if other == who]
        many = own if len(own) >= MAX_OF_ADDRESS else list(self._reading) if len(self._reading) >= MAX_REQUESTS else []
        for oldest in many[:1]:
            del self._reading[oldest]
            oldest.reschedule(0.0)


def _refused(code: grpc.StatusCode, text: str) -> RequestError:
    return RequestError(code, "HEALTH_CHECK", text)
