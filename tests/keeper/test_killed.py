"""Workers that die under load, one after the other: every request is answered, and answered right."""

import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from grpc_health.v1 import health_pb2, health_pb2_grpc
from lengths import length
from serving import PATIENCE, Server, Stubs, methods, picture, values

from gradserve.v1 import explain_pb2

REQUESTS, AT_A_TIME = 100, 16
KILLS = length(2, 12)


def request(i: int) -> explain_pb2.ExplainRequest:
    if i % 3 == 0:  # A single pass.
        asked = methods(gradient={})
    elif i % 3 == 1:
        asked = methods(smooth_grad={"samples": 8})
    else:
        asked = methods(integrated_gradients={"steps": 8}, gradient={})
    return explain_pb2.ExplainRequest(model="small", image=picture(i, 64, 64), methods=asked)


def until_all_are_ready(server: Server, restarts: float) -> None:
    """So many have been replaced by then."""
    end = time.monotonic() + 120
    while server.metric("gradserve_workers_ready") < 2 or server.metric("gradserve_worker_restarts_total") < restarts:
        assert time.monotonic() < end
        time.sleep(0.1)


def test_killed_workers_cost_no_answer(server: Server, stubs: Stubs) -> None:
    """Each is killed when all are ready, the one and the other in turn."""
    requests = [request(i) for i in range(REQUESTS)]
    until_all_are_ready(server, 0)
    with ThreadPoolExecutor(AT_A_TIME) as pool:

        def ask(r: explain_pb2.ExplainRequest) -> explain_pb2.ExplainResponse:
            return stubs.gradients.Explain(r, timeout=PATIENCE)

        expected = list(pool.map(ask, requests))
        restarts = server.metric("gradserve_worker_restarts_total")
        for kill in range(KILLS):
            victim = server.workers[0]  # The successor of the last one that was killed comes last.
            calls = [pool.submit(ask, r) for r in requests]
            while sum(call.done() for call in calls) < REQUESTS // 4:
                time.sleep(0.01)
            victim.kill()
            answers = [call.result() for call in calls]
            for a, b in zip(expected, answers, strict=True):
                for x, y in zip(a.explanations, b.explanations, strict=True):
                    assert np.linalg.norm(values(x.raw) - values(y.raw)) <= 1e-4 * np.linalg.norm(values(x.raw))
            until_all_are_ready(server, restarts + kill + 1)
            assert victim.pid not in {worker.pid for worker in server.workers}
    with server.channel() as channel:
        health = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=PATIENCE)
    assert health.status == health_pb2.HealthCheckResponse.SERVING
    assert server.metric("gradserve_worker_restarts_total") == restarts + KILLS
    assert " died" in server.log()
