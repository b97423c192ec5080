"""More callers than a server can serve, for some time: clear answers, no dead worker, and no growing memory."""

import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count

import grpc
import psutil
import pytest
from lengths import length
from serving import MODELS, Server, Stubs, refused

from gradserve.v1 import models_pb2

from .test_company import ask, mixed

SECONDS = length(5, 600)
CALLERS, IN_FLIGHT = 64, 16
MAX_GROWTH = 1.1, 64 << 20  # Of a process in the second half of the run: a factor, and bytes beside it.


def memory(server: Server) -> dict[int, int]:
    """The bytes of the front-end and of each worker."""
    family = psutil.Process(server.process.pid), *server.front_ends, *server.workers
    return {each.pid: each.memory_info().rss for each in family}


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server(f"{MODELS}[limits]\nmax_in_flight = {IN_FLIGHT}\n", "--workers", "2") as server:
        yield server


@pytest.fixture(scope="module")
def stubs(server: Server) -> Iterator[Stubs]:
    with server.channel() as channel:
        yield Stubs.of(channel)


def test_callers_without_end_are_answered_or_refused(server: Server, stubs: Stubs) -> None:
    names = ("digits", "small")
    requests = mixed(200, {name: stubs.models.GetModel(models_pb2.GetModelRequest(name=name)) for name in names})
    begun, numbers, codes = time.monotonic(), count(), Counter[str]()

    def call_until_the_end(_: int) -> None:
        while time.monotonic() < begun + SECONDS:
            try:
                ask(stubs, requests[next(numbers) % len(requests)])
            except grpc.RpcError as error:
                codes[error.code().name] += 1
                time.sleep(refused(error).retry_after or 0)
            else:
                codes["OK"] += 1

    before = memory(server).keys()
    with ThreadPoolExecutor(CALLERS) as pool:
        calls = [pool.submit(call_until_the_end, i) for i in range(CALLERS)]
        time.sleep(SECONDS / 2)
        half = memory(server)
        for call in calls:
            call.result()
    print(dict(codes))
    assert set(codes) == {"OK", "RESOURCE_EXHAUSTED"}
    assert server.metric("gradserve_jobs_in_flight") == 0
    after = memory(server)
    assert before == half.keys() == after.keys(), "no worker died"
    factor, extra = MAX_GROWTH
    assert all(after[pid] <= factor * half[pid] + extra for pid in half), (half, after)
