"""Two servers are restarted in turn, each with a long call under way, while callers go on: what they notice of it."""

import asyncio
import json
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import grpc
import pytest
from lengths import length
from ports import free_ports
from serving import PATIENCE, Server, methods, picture

from gradserve import AsyncClient, ServiceError
from gradserve.v1 import explain_pb2, predict_pb2, service_pb2_grpc

REQUESTS = length(600, 10_000)
CALLERS = 4
COPIES = length(2, 8)  # Of a method in the long call, which takes about 1 and 4 s; no request may ask for more rows.
SAMPLES = 2000  # Samples of each copy.
MAX_FAILED = 5  # Calls of plain stubs, which are not retried. gRPC ends some as CANCELLED (its issue 41785).
PIXELS = picture(0, 8, 8)
PREDICT = predict_pb2.PredictRequest(image=PIXELS)
LONG = explain_pb2.ExplainRequest(image=PIXELS, methods=methods(smooth_grad={"samples": SAMPLES}) * COPIES)
CONFIG = "[pool]\nworkers = 1\n[models.digits]\n"

LATEST_START = 60  # Seconds within which a call must have reached its server.

Ask = Callable[[], Coroutine[Any, Any, None]]


class Pair:
    """Two servers on ports of their own, and the logs of those that were there before them."""

    def __init__(self) -> None:
        self.ports = free_ports(2)
        self.servers = [self._started(port) for port in self.ports]
        self.logs: list[str] = []
        self.target = "ipv4:" + ",".join(server.address for server in self.servers)

    @staticmethod
    def _started(port: int) -> Server:
        return Server(CONFIG, "--port", str(port))

    def restart(self, place: int) -> int:
        """The exit code of the one that was there."""
        code = self.servers[place].stop()
        self.logs.append(self.servers[place].log())
        self.servers[place].kill()
        self.servers[place] = self._started(self.ports[place])
        assert self.servers[place].address
        return code

    def refused(self) -> int:
        """How many calls were refused as UNAVAILABLE."""
        lines = [line for log in (*self.logs, *(each.log() for each in self.servers)) for line in log.splitlines()]
        return sum(json.loads(line[line.index("{") :])["code"] == "UNAVAILABLE" for line in lines if '{"id"' in line)

    def kill(self) -> None:
        for server in self.servers:
            server.kill()


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    pair = Pair()
    yield pair
    pair.kill()


def until_explaining(server: Server) -> None:
    """Returns when the server has begun with a first Explain."""
    end = time.monotonic() + LATEST_START
    while not server.metric("grpc_server_started_total", grpc_method="Explain"):
        assert time.monotonic() < end
        time.sleep(0.02)


@asynccontextmanager
async def our_client(target: str) -> Any:
    async with AsyncClient(target) as client:

        async def ask() -> None:
            await client._call(client._stubs.gradients.Predict, PREDICT, float(PATIENCE))

        yield ask


def plain(policy: str) -> Any:
    @asynccontextmanager
    async def stubs(target: str) -> Any:
        config = json.dumps({"loadBalancingConfig": [{policy: {}}]})
        options = [("grpc.service_config", config), ("grpc.max_reconnect_backoff_ms", 1000)]
        async with grpc.aio.insecure_channel(target, options) as channel:
            stub = service_pb2_grpc.GradientServiceStub(channel)

            async def ask() -> None:
                await stub.Predict(PREDICT, timeout=PATIENCE)

            yield ask

    return stubs


CLIENTS = {"our client": our_client, "pick_first": plain("pick_first"), "round_robin": plain("round_robin")}


@pytest.mark.parametrize("names", [["our client"], ["pick_first", "round_robin"]], ids=" and ".join)
async def test_callers_notice_nothing_of_a_rolling_restart(pair: Pair, names: list[str]) -> None:
    all_outcomes, done = {name: Counter[str]() for name in names}, False
    before = pair.refused()

    async def caller(ask: Ask, outcomes: Counter[str]) -> None:
        while not done or outcomes.total() < REQUESTS:
            try:
                await ask()
                outcomes["OK"] += 1
            except ServiceError as error:
                outcomes[error.code.name] += 1
            except grpc.aio.AioRpcError as error:
                outcomes[error.code().name] += 1
            await asyncio.sleep(CALLERS / 100)  # The machine has other things to do.

    async with AsyncExitStack() as stack:
        callers = []
        for name, outcomes in all_outcomes.items():
            ask = await stack.enter_async_context(CLIENTS[name](pair.target))
            callers += [asyncio.create_task(caller(ask, outcomes)) for _ in range(CALLERS)]
        codes = []
        for place, server in enumerate(pair.servers):
            async with grpc.aio.insecure_channel(server.address) as channel:
                long = service_pb2_grpc.GradientServiceStub(channel).Explain(LONG, timeout=PATIENCE)
                await asyncio.to_thread(until_explaining, server)
                codes.append(await asyncio.to_thread(pair.restart, place))
                assert [each.done for each in (await long).explanations] == [SAMPLES] * COPIES
            await asyncio.sleep(2)  # By then round_robin has found the new server.
        done = True
        await asyncio.gather(*callers)
    print(f"{all_outcomes}, refused {pair.refused() - before}, exit codes {codes}")
    assert codes == [0, 0]
    for name, outcomes in all_outcomes.items():
        if name == "our client":
            assert outcomes.keys() == {"OK"}
            assert pair.refused() - before <= outcomes.total() / 100
        else:
            assert outcomes.keys() <= {"OK", "UNAVAILABLE", "CANCELLED"}
            assert outcomes.total() - outcomes["OK"] <= MAX_FAILED
