"""Requests from bytes to messages. Bytes that are no message end as INVALID_ARGUMENT, for the services of gRPC too."""

from collections.abc import AsyncIterator
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from .errors import RequestError
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
    """A handler of health or reflection that gets its requests from `parse`.

    gRPC's own parsing ends such bytes as UNKNOWN and logs a traceback, and both can be called without a token.
    """

    async def message(request: bytes, context: grpc.aio.ServicerContext) -> Any:
        try:
            return parse(handler.request_deserializer, request)
        except RequestError as error:
            await context.abort(error.code, error.text)

    async def messages(requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext) -> AsyncIterator[Any]:
        async for request in requests:
            yield await message(request, context)

    async def answer(request: bytes, context: grpc.aio.ServicerContext) -> Any:
        return await (handler.unary_unary or handler.unary_stream)(await message(request, context), context)

    async def answer_all(requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext) -> AsyncIterator[Any]:
        async for reply in handler.stream_stream(messages(requests, context), context):
            yield reply

    if handler.request_streaming:
        return grpc.stream_stream_rpc_method_handler(answer_all, response_serializer=handler.response_serializer)
    kind = grpc.unary_stream_rpc_method_handler if handler.response_streaming else grpc.unary_unary_rpc_method_handler
    return kind(answer, response_serializer=handler.response_serializer)
