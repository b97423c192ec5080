"""More requests than a server can answer: how many it still answers, whom it refuses, and what callers notice.

Figures are printed. What is asserted holds on any machine, busy or not. The long form (`make load`) takes minutes.
"""

import asyncio
import io
import random
import statistics
import time
from collections import Counter
from collections.abc import Iterator

import grpc
import numpy as np
import pytest
from lengths import length
from loads import loaded, pinned_apart
from PIL import Image
from serving import Server, methods

from gradserve.load.loops import ClosedLoop, OpenLoop
from gradserve.load.mix import RPCS, MixEntry
from gradserve.load.requests import BuiltRequest, built
from gradserve.transport.channel import Endpoint
from gradserve.transport.stubs import AsyncChannels
from gradserve.v1 import common_pb2 as pb
from gradserve.v1 import explain_pb2, predict_pb2

SECONDS = length(4, 60)
REQUESTS = length(40, 500)  # Requests with random deadlines.
CONFIG = "[pool]\nworkers = 1\n[models.cifar10]\n[models.digits]\n"
pytestmark = pytest.mark.alone
CONNECTIONS = 16  # Enough for each to have fewer requests under way than gRPC lets a connection have.
OVERLOAD = 4  # The offered rate, as a multiple of the capacity.
ANSWERED_SHARE = 0.4  # At least this share of the capacity; the machine may be half as fast by then.
EXPECTED = {"OK", "RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED"}
GRADIENT = [MixEntry("explain", method="gradient", model="cifar10")]
EVERYTHING = [
    MixEntry("predict", 2, "cifar10"),
    *(MixEntry("explain", 1, "cifar10", each) for each in ("gradient", "grad_cam", "integrated_gradients")),
    MixEntry("explain", 1, "cifar10", "smooth_grad", {"samples": 30}),
    MixEntry("attack", 1, "cifar10", "pgd", {"steps": 10}),
    MixEntry("certify", 1, "cifar10", parameters={"selection_samples": 20, "samples": 80}),
    MixEntry("maximize", 1, "cifar10", parameters={"goals": [3], "steps": 16}),
    MixEntry("stylize", 1, "cifar10", parameters={"steps": 8}),
    MixEntry("influence", 1, "digits"),
    MixEntry("embed", 1, "cifar10"),
    MixEntry("differentiate", 1, "cifar10"),
]


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """With one worker, which has a processor to itself where there are two."""
    with Server(CONFIG) as server:
        assert server.address
        with pinned_apart(server):
            yield server


def photo(seed: int, size: tuple[int, int] = (500, 375)) -> bytes:
    """A picture; one of the size of a usual upload unless its size in pixels is given."""
    pixels = np.random.default_rng(seed).integers(0, 255, (12, 16, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC).save(file, "JPEG", quality=90)
    return file.getvalue()


PHOTOS = [photo(seed) for seed in range(8)]


@pytest.fixture(scope="module")
def capacity(server: Server) -> float:
    """Gradients in a second of eight callers that wait for their answers."""
    loop = ClosedLoop(8, length(2, 4), warm_up=length(2, 3))
    return asyncio.run(loaded(server.address, GRADIENT, PHOTOS, loop)).all.goodput


def rows(server: Server) -> Counter[str]:
    names = ("gradserve_rows_total", "gradserve_rows_unanswered_total", "gradserve_step_rows_sum")
    return Counter({name: server.metric(name) for name in names})


@pytest.mark.parametrize("deadline", [2.0, 30.0])
async def test_at_four_times_the_capacity_it_answers_what_it_can(
    server: Server, capacity: float, deadline: float
) -> None:
    before = rows(server)
    loop = OpenLoop(OVERLOAD * capacity, SECONDS, warm_up=length(1, 2))
    load = await loaded(server.address, GRADIENT, PHOTOS, loop, deadline=deadline, connections=CONNECTIONS)
    found = load.all
    await asyncio.sleep(1.5)  # Statistics come with some delay.
    spent = rows(server) - before
    wasted = spent["gradserve_rows_unanswered_total"] / spent["gradserve_step_rows_sum"]
    print(f"capacity {capacity:.1f}/s, offered {found.offered:.0f}/s, deadline {deadline} s: {found.codes}")
    print(f"goodput {found.goodput / capacity:.0%}, unanswered rows {wasted:.1%}")
    print(f"answers {found.ok}, refusals {found.refused}")
    assert found.goodput >= ANSWERED_SHARE * capacity
    assert found.codes.keys() <= EXPECTED
    assert wasted < 0.2
    calm = await loaded(server.address, GRADIENT, PHOTOS, ClosedLoop(1, 1.0), deadline=5.0)
    assert calm.all.codes.keys() == {"OK"}


@pytest.mark.parametrize("sides", [range(32, 33), range(24, 40)], ids=["one size", "sixteen sizes"])
async def test_one_callers_flood_does_not_keep_another_waiting(server: Server, sides: range) -> None:
    """200 SmoothGrads of 50 samples under one token, single Predicts under another."""
    channels = AsyncChannels(Endpoint(server.address, None, None, retries=0))
    stub = channels.stubs.gradients
    pictures = [photo(side, (side, side)) for side in sides]
    predict = predict_pb2.PredictRequest(model="cifar10", image=pb.Image(encoded=PHOTOS[0]))

    async def ask() -> float:
        begun = time.monotonic()
        await stub.Predict(predict, metadata=(("authorization", "Bearer few"),), timeout=30)
        return time.monotonic() - begun

    async def flood(place: int) -> None:
        request = explain_pb2.ExplainRequest(
            model="cifar10",
            image=pb.Image(encoded=pictures[place % len(pictures)]),
            methods=methods(smooth_grad={"samples": 50}),
            preprocess=pb.PREPROCESS_AS_IS,
        )
        for _ in range(1000):
            try:
                await stub.Explain(request, metadata=(("authorization", "Bearer many"),))
                return
            except grpc.aio.AioRpcError as error:
                if error.code() != grpc.StatusCode.RESOURCE_EXHAUSTED:
                    raise
                await asyncio.sleep(0.5)

    lone = [await ask() for _ in range(20)][5:]
    floods = [asyncio.create_task(flood(place)) for place in range(200)]
    await asyncio.sleep(2)
    beside = [await ask() for _ in range(20)]
    usual, now = statistics.median(lone), statistics.median(beside)
    print(f"Predict alone {1000 * usual:.0f} ms, beside the flood {1000 * now:.0f} ms, worst {max(beside):.2f} s")
    assert not all(each.done() for each in floods)
    for each in floods:
        each.cancel()
    await asyncio.gather(*floods, return_exceptions=True)
    await channels.close()
    assert now < 10 * usual


async def test_random_deadlines_end_in_answers_refusals_or_deadlines_and_cost_few_rows(server: Server) -> None:
    """One request after another, of all kinds."""
    assert {entry.rpc for entry in EVERYTHING} == set(RPCS)
    draw, requests = random.Random(7), [request for (request,) in built(EVERYTHING, [photo(0, (100, 75))])]
    async with grpc.aio.insecure_channel(server.address) as channel:

        async def ask(request: BuiltRequest, deadline: float | None) -> tuple[str, float]:
            """The code and the seconds that it took."""
            begun = time.monotonic()
            try:
                await channel.unary_unary(request.path)(request.body, timeout=deadline)
            except grpc.aio.AioRpcError as error:
                return error.code().name, time.monotonic() - begun
            return "OK", time.monotonic() - begun

        lone = [statistics.median([(await ask(request, None))[1] for _ in range(length(3, 5))]) for request in requests]
        before, codes, possible = rows(server), Counter[str](), Counter[bool]()
        for _ in range(REQUESTS):
            request, deadline = draw.choice(requests), draw.uniform(0.001, 2.0)
            code, _ = await ask(request, deadline)
            codes[code] += 1
            if deadline >= 3 * lone[request.entry]:
                possible[code == "OK"] += 1
    await asyncio.sleep(1.5)
    spent = rows(server) - before
    wasted = spent["gradserve_rows_unanswered_total"] / spent["gradserve_step_rows_sum"]
    print(f"{dict(codes)}; answered of those with three times their lone time: {possible[True]} of {possible.total()}")
    print(f"unanswered rows {wasted:.1%}")
    assert codes.keys() <= EXPECTED
    assert possible[True] >= 0.9 * possible.total()
