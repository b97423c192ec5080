"""Ends calls with errors, so that nothing of them stays in memory."""

import asyncio
from collections.abc import Awaitable
from typing import Any, NoReturn

import grpc


async def end(aborting: Awaitable[Any]) -> NoReturn:
    """Ends a call by `context.abort(...)` or `context.abort_with_status(...)`, which is given without `await`.

    gRPC keeps the exception that these raise for as long as the call. Its traceback keeps the frames of the call's
    functions, and they keep the call: such a circle would hold the request's bytes, and a place among the connection's
    streams, until Python looks for circles. So the traceback is dropped as soon as gRPC has caught the exception.
    """
    try:
        await aborting
    except grpc.aio.AbortError as error:
        asyncio.get_running_loop().call_soon(error.with_traceback, None)
        raise
    raise AssertionError("aborting a call always raises")
