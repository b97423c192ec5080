"""A front-end gives back the memory that a crowd of requests took."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from gradserve_server import memory
from gradserve_server.api import service


async def test_memory_is_given_back_once_after_each_crowd(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[int] = []
    monkeypatch.setattr(memory, "give_back", lambda: given.append(requests()))
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
