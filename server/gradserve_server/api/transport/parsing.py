"""Requests from bytes to messages. Bytes that are no message end as INVALID_ARGUMENT, for reflection and health too."""

from collections.abc import AsyncIterator
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from ..errors import RequestError
from .aborting import end
from .wire_fields import MalformedMessage, check_fields

PARSED_AT_ONCE_BYTES = 256 << 10  # Larger requests are parsed in a thread, and their fields are counted before.


def parse(from_string: Any, request: bytes) -> Any:
    """The message. Raises INVALID_ARGUMENT. `from_string` is that method of its class."""
    try:
        if len(request) > PARSED_AT_ONCE_BYTES:
            check_fields(request, from_string.__self__.DESCRIPTOR)
        return from_string(request)
    except (DecodeError, MalformedMessage) as error:
        text = f"the request is not a message of its type: {error}"
        raise RequestError(grpc.StatusCode.INVALID_ARGUMENT, "MALFORMED_REQUEST", text) from error


def parsed_before(handler: Any) -> Any:
    """A handler of reflection that gets its requests from `parse`.

    gRPC's own parsing ends bytes that are no message as UNKNOWN and logs a traceback.
    """

    async def messages(requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext) -> AsyncIterator[Any]:
        async for request in requests:
            try:
                yield parse(handler.request_deserializer, request)
            except RequestError as error:
                await end(context.abort(error.code, error.text))

    async def answer(requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext) -> AsyncIterator[Any]:
        async for reply in handler.stream_stream(messages(requests, context), context):
            yield reply

    return grpc.stream_stream_rpc_method_handler(answer, response_serializer=handler.response_serializer)
