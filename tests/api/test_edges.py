"""What a connection may do: requests at once, their size, and how long it may be idle."""

import time
from collections.abc import Iterator

import grpc
import pytest
from serving import Server, Stubs, methods, picture, refused

from gradserve.v1 import common_pb2 as pb
from gradserve.v1 import explain_pb2, predict_pb2

STREAMS = 4
CONFIG = f"""
[server]
max_streams = {STREAMS}
max_connection_idle = 1
[limits]
max_request_bytes = 100_000
[pool]
workers = 1
[models.digits]
"""
PREDICT = predict_pb2.PredictRequest(image=picture(0, 8, 8))
LONG = explain_pb2.ExplainRequest(image=picture(0, 8, 8), methods=methods(smooth_grad={"samples": 2000}) * 4)


@pytest.fixture(scope="module")
def edge() -> Iterator[Server]:
    with Server(CONFIG) as server:
        yield server


def until(server: Server, under_way: int) -> None:
    """Waits until so many requests are under way."""
    end = time.monotonic() + 60
    while server.metric("gradserve_jobs_in_flight", method="explain") != under_way:
        assert time.monotonic() < end
        time.sleep(0.05)


def test_requests_beyond_those_of_a_connection_wait(edge: Server) -> None:
    alone = [("grpc.use_local_subchannel_pool", 1)]  # Otherwise channels of one process share a connection.
    with edge.channel() as channel, grpc.insecure_channel(edge.address, alone) as other:
        calls = [Stubs.of(channel).gradients.Explain.future(LONG) for _ in range(3 * STREAMS)]
        until(edge, STREAMS)
        time.sleep(0.3)
        until(edge, STREAMS)
        assert Stubs.of(other).gradients.Predict(PREDICT, timeout=60).top, "another connection has its own"
        for call in calls:
            call.cancel()
        until(edge, 0)


def test_a_request_of_too_many_bytes(edge: Server) -> None:
    with edge.channel() as channel:
        stubs = Stubs.of(channel)
        with pytest.raises(grpc.RpcError) as caught:
            stubs.gradients.Predict(predict_pb2.PredictRequest(image=pb.Image(encoded=bytes(100_001))), timeout=60)
        assert refused(caught.value).code == "RESOURCE_EXHAUSTED"
        assert stubs.gradients.Predict(PREDICT, timeout=60).top


def test_an_idle_connection_is_closed_and_opened_again(edge: Server) -> None:
    states: list[grpc.ChannelConnectivity] = []
    with edge.channel() as channel:
        channel.subscribe(states.append)
        assert Stubs.of(channel).gradients.Predict(PREDICT, timeout=60).top
        end = time.monotonic() + 60
        ready, idle = grpc.ChannelConnectivity.READY, grpc.ChannelConnectivity.IDLE
        while ready not in states or idle not in states[states.index(ready) :]:
            assert time.monotonic() < end
            time.sleep(0.05)
        assert Stubs.of(channel).gradients.Predict(PREDICT, timeout=60).top
