"""What a front-end asks of its keeper for the callers that change models."""

import asyncio

import pytest

from gradserve_server.api.management import KeeperChanges
from gradserve_server.pool.wire import Changed, ChangeModels, DropChange


async def test_who_waits_is_told_that_the_keeper_was_away() -> None:
    """What it said then does not come any more, and what has not begun is taken back."""
    sent: list[object] = []
    changes = KeeperChanges(sent.append)
    order = ChangeModels("1", "load", ("linear",))
    asked = asyncio.ensure_future(anext(changes.ask(order)))
    await asyncio.sleep(0)
    changes.on_connected()
    async with asyncio.timeout(1):
        told = await asked
    assert isinstance(told, Changed)
    assert told.failure is not None
    assert told.failure.kind == "lost"
    assert "may have been made, or may still be" in told.failure.text
    assert sent == [order, DropChange("1")]


async def test_the_keeper_is_told_of_a_caller_that_is_gone() -> None:
    sent: list[object] = []
    changes = KeeperChanges(sent.append)
    order = ChangeModels("1", "load", ("linear",))
    asked = asyncio.ensure_future(anext(changes.ask(order)))
    await asyncio.sleep(0)
    asked.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asked
    assert sent == [order, DropChange("1")]
