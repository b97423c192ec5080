"""A front-end gives back the memory that requests took."""

import asyncio
import gc
import weakref
from types import SimpleNamespace
from typing import Any

import pytest

from gradserve_server import memory
from gradserve_server.api import service


async def test_memory_is_given_back_once_after_each_crowd(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[int] = []
    monkeypatch.setattr(memory, "collect_and_give_back", lambda: given.append(requests()))
    monkeypatch.setattr(service, "GAUGES_SECONDS", 0.001)
    monkeypatch.setattr(service, "CALM_SECONDS", 0.01)
    admission = SimpleNamespace(requests=0)
    server: Any = SimpleNamespace(admission=admission)
    nothing: Any = None

    def requests() -> int:
        return int(admission.requests)

    task = asyncio.create_task(service.FrontEnd(nothing, nothing, server, nothing)._give_back_memory())
    try:
        for crowds in (1, 2):
            for admission.requests in (service.CALM, service.CROWD - 1, service.CROWD, service.CALM + 1):
                await asyncio.sleep(0.05)
                assert len(given) == crowds - 1
            admission.requests = service.CALM
            while len(given) < crowds:
                await asyncio.sleep(0.001)
            await asyncio.sleep(0.05)
            assert len(given) == crowds
    finally:
        task.cancel()
    assert given == [service.CALM] * 2


async def test_memory_is_given_back_once_after_few_requests_when_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[int] = []
    monkeypatch.setattr(memory, "collect_and_give_back", lambda: given.append(1))
    monkeypatch.setattr(service, "GAUGES_SECONDS", 0.001)
    monkeypatch.setattr(service, "IDLE_SECONDS", 0.01)
    admission = SimpleNamespace(requests=0)
    server: Any = SimpleNamespace(admission=admission)
    nothing: Any = None
    task = asyncio.create_task(service.FrontEnd(nothing, nothing, server, nothing)._give_back_memory())
    try:
        await asyncio.sleep(0.05)
        assert not given, "nothing was asked"
        for times in (1, 2):
            for admission.requests in (1, service.CROWD - 1):
                await asyncio.sleep(0.05)
                assert len(given) == times - 1
            admission.requests = 0
            while len(given) < times:
                await asyncio.sleep(0.001)
            await asyncio.sleep(0.05)
            assert len(given) == times
    finally:
        task.cancel()


class Looped:
    """Refers to itself, so that only garbage collection frees it."""

    def __init__(self) -> None:
        self.itself = self


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
