"""A front-end gives back the memory that requests took."""

import asyncio
import gc
import weakref
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from gradserve_server import memory
from gradserve_server.api import service


@pytest.mark.parametrize(
    ("busy", "rest"),
    [
        pytest.param((service.CALM, service.CROWD - 1, service.CROWD, service.CALM + 1), service.CALM, id="a crowd"),
        pytest.param((1, service.CROWD - 1), 0, id="few requests"),
    ],
)
async def test_memory_is_given_back_once_after(
    monkeypatch: pytest.MonkeyPatch, busy: tuple[int, ...], rest: int
) -> None:
    given: list[int] = []
    admission = SimpleNamespace(requests=0)
    monkeypatch.setattr(memory, "collect_and_give_back", lambda: given.append(admission.requests))
    for name, seconds in (("GAUGES_SECONDS", 0.001), ("CALM_SECONDS", 0.01), ("IDLE_SECONDS", 0.01)):
        monkeypatch.setattr(service, name, seconds)
    server: Any = SimpleNamespace(admission=admission)
    nothing: Any = None
    task = asyncio.create_task(service.FrontEnd(nothing, nothing, server, nothing)._give_back_memory())
    try:
        await asyncio.sleep(0.05)
        assert not given, "nothing was asked"
        for times in (1, 2):
            for admission.requests in busy:
                await asyncio.sleep(0.05)
                assert len(given) == times - 1
            admission.requests = rest
            while len(given) < times:
                await asyncio.sleep(0.001)
            await asyncio.sleep(0.05)
            assert len(given) == times
    finally:
        task.cancel()
    assert given == [rest] * 2


class Looped:
    """Refers to itself, so that only garbage collection frees it."""

    def __init__(self) -> None:
        self.itself = self


def test_pictures_leave_nothing_for_the_next_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "collect_and_give_back", lambda: None)
    for side in (10, 300):
        Image.new("RGB", (side, side)).copy()
    assert Image.core.get_stats()["blocks_cached"] > 0  # type: ignore[attr-defined]
    service._give_back()
    assert Image.core.get_stats()["blocks_cached"] == 0  # type: ignore[attr-defined]


def test_what_was_there_is_exempt_from_collection_and_what_came_later_is_freed() -> None:
    before = weakref.ref(Looped())
    gc.disable()
    try:
        kept = Looped()
        memory.freeze()
        assert before() is None
        assert gc.get_freeze_count() > 0
        assert not any(each is kept for each in gc.get_objects())
        later = weakref.ref(Looped())
        assert later() is not None
        memory.collect_and_give_back()
        assert later() is None
    finally:
        gc.unfreeze()
        gc.enable()
