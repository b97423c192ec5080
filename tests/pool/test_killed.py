"""A worker that dies under load: every request is answered, and answered right."""

import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from lengths import length
from serving import Server, Stubs, methods, picture, values

from gradserve.v1 import explain_pb2

REQUESTS, AT_A_TIME = 100, 16


def request(i: int) -> explain_pb2.ExplainRequest:
    asked = methods(smooth_grad={"samples": 8}) if i % 2 else methods(integrated_gradients={"steps": 8}, gradient={})
    return explain_pb2.ExplainRequest(model="small", image=picture(i, 64, 64), methods=asked)


@pytest.mark.parametrize("turn", range(length(1, 30)))
def test_a_killed_worker_costs_no_answer(server: Server, stubs: Stubs, turn: int) -> None:
    requests = [request(i) for i in range(REQUESTS)]
    with ThreadPoolExecutor(AT_A_TIME) as pool:

        def ask(r: explain_pb2.ExplainRequest) -> explain_pb2.ExplainResponse:
            return stubs.gradients.Explain(r, timeout=120)

        expected = list(pool.map(ask, requests))
        restarts = server.metric("gradserve_worker_restarts_total")
        victim = server.workers[0]
        calls = [pool.submit(ask, r) for r in requests]
        while sum(call.done() for call in calls) < REQUESTS // 4:
            time.sleep(0.01)
        victim.kill()
        answers = [call.result() for call in calls]

    for a, b in zip(expected, answers, strict=True):
        for x, y in zip(a.explanations, b.explanations, strict=True):
            assert np.linalg.norm(values(x.raw) - values(y.raw)) <= 1e-4 * np.linalg.norm(values(x.raw))
    assert server.metric("gradserve_worker_restarts_total") == restarts + 1
    with server.channel() as channel:
        health = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=10)
    assert health.status == health_pb2.HealthCheckResponse.SERVING

    end = time.monotonic() + 120
    while len(server.workers) < 2:
        assert time.monotonic() < end
        time.sleep(0.1)
    assert victim.pid not in {worker.pid for worker in server.workers}
    assert "died with" in server.log()
