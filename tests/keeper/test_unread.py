"""Messages that cannot be read: the caller of that task is told, and all else goes on."""

import asyncio
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from gradserve_server.api.errors import failure
from gradserve_server.keeper.folder import endpoint
from gradserve_server.models.served import ServedModels
from gradserve_server.pool.lines import Connected, Lines
from gradserve_server.pool.pool import Pool
from gradserve_server.pool.wire import Outcome, Ready, Task

from .mesh import serving


@dataclass(frozen=True)
class Foreign:
    """A class of this test, which no message is made of."""


async def outcome_of(pool: Pool, name: str, arguments: object = None) -> Outcome:
    image = np.full((8, 12, 3), 0.5, np.float32)
    async with aclosing(pool.stream(Task(name, "predict", "model", image, arguments))) as stream:
        outcome = await anext(stream)
    assert isinstance(outcome, Outcome)
    return outcome


async def test_a_task_that_a_worker_cannot_read(tmp_path: Path) -> None:
    async with asyncio.timeout(120), serving(tmp_path, builder="networks:linear") as mesh:
        pid = mesh.pid
        unread, other = await asyncio.gather(
            outcome_of(mesh.pool, "unread", Foreign()), outcome_of(mesh.pool, "another")
        )
        assert unread.failure is not None
        told = failure(unread.failure)
        assert (told.code.name, told.reason) == ("INTERNAL", "UNREAD")
        assert "a worker cannot read the request (ForeignClass: a message names " in told.text
        assert "all hosts of a server need the same packages" in told.text
        assert other.failure is None
        assert (await outcome_of(mesh.pool, "after")).failure is None
        assert (mesh.pid, len(mesh.pool.members)) == (pid, 1)


async def test_an_answer_that_a_front_end_cannot_read(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    pool, lines = Pool([endpoint(tmp_path, 0)]), Lines([endpoint(tmp_path, 0)], b"worker")
    card = SimpleNamespace(name="model", digest="", index_digest="", pictures_digest="", sample=(), gflop=1.0)
    pool.serve(ServedModels([card]))  # type: ignore[list-item]

    async def work() -> None:
        """Answers three tasks; nobody can read the answer to the second."""
        count = 0
        while count < 3:
            for received in lines.arrived():
                match received.message:
                    case Connected():
                        lines.send(0, [Ready((), "cpu", {("model", "exact"): 1.0})])
                    case Task():
                        count += 1
                        result = Foreign() if count == 2 else count
                        lines.send(0, [Outcome(received.message.id, result)])
            await asyncio.sleep(0.005)

    try:
        pool._is_other = lambda *_: False  # type: ignore[method-assign]  # Its cards cannot be sent.
        async with asyncio.timeout(20):
            working = asyncio.create_task(work())
            answers = [await outcome_of(pool, name) for name in ("first", "second", "third")]
            await working
    finally:
        pool.close()
        lines.close()
    assert [each.result for each in answers] == [1, None, 3]
    unread = answers[1].failure
    assert unread is not None
    assert unread.text.startswith("the answer of the worker on cpu (process ")
    assert "ForeignClass" in failure(unread).text
    assert caplog.text.count("is refused") == 1
