"""The access log while many requests are refused: one line for each kind of refusal and some seconds."""

import json
import logging
from types import SimpleNamespace
from typing import Any

import grpc
import pytest

from gradserve_server.api.admission.admission import Admission
from gradserve_server.api.admission.callers import Callers
from gradserve_server.api.errors import Full, late
from gradserve_server.api.telemetry.request_log import REFUSALS_LOGGED_SECONDS, RefusalLog
from gradserve_server.api.transport.interceptor import RequestInterceptor
from gradserve_server.api.transport.unread import UnreadReplies
from gradserve_server.config import LimitSettings
from gradserve_server.metrics import Metrics
from gradserve_server.models.served import ServedModels


def test_of_each_kind_of_refusal_one_is_logged_in_some_seconds_with_the_number_of_others() -> None:
    now = 100.0
    log = RefusalLog(lambda: now)
    shown = {kind: [log.shows({}, kind) for _ in range(5)] for kind in ("late", "queue", "caller", "")}
    assert shown == {"late": [True] + [False] * 4, "queue": [True] + [False] * 4, "caller": [True] + [False] * 4} | {
        "": [True] * 5
    }
    now += REFUSALS_LOGGED_SECONDS
    first, second, answer = {"code": "RESOURCE_EXHAUSTED"}, dict[str, Any](), dict[str, Any]()
    assert log.shows(first, "queue")
    assert not log.shows(second, "queue")
    assert first == {"code": "RESOURCE_EXHAUSTED", "refused": "queue"} | {
        "refusals_left_out": {"late": 4, "queue": 4, "caller": 4}
    }
    now += REFUSALS_LOGGED_SECONDS
    assert log.shows(answer, "")
    assert answer == {"refusals_left_out": {"queue": 1}}, "an answer's line tells it as well"


REFUSALS = {kind: Full(kind, "no room", 1.0) for kind in ("in_flight", "caller", "queue", "deadline")} | {
    "late": late()
}


@pytest.mark.parametrize("kind", REFUSALS)
async def test_a_crowd_of_refusals_of_any_kind_has_one_line_of_the_log(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    monkeypatch.setattr("gradserve_server.api.transport.interceptor.RefusalLog", lambda: RefusalLog(lambda: 100.0))
    pool: Any = SimpleNamespace(cards=ServedModels(), members=[], outstanding=0.0, queue_seconds=None)
    metrics = Metrics()
    interceptor = RequestInterceptor(
        metrics, Callers(None, {}), Admission(pool, LimitSettings(), metrics), UnreadReplies(60, 1)
    )
    statuses = []

    async def refuse(request: bytes, context: object) -> None:
        raise REFUSALS[kind]

    async def handler(details: object) -> Any:
        return grpc.unary_unary_rpc_method_handler(refuse, bytes, bytes)

    async def abort_with_status(status: Any) -> None:
        statuses.append(status.code)
        raise grpc.aio.AbortError

    details: Any = SimpleNamespace(method="/gradserve.v1.GradientService/Predict", invocation_metadata=())
    context = SimpleNamespace(
        abort_with_status=abort_with_status,
        peer=lambda: "ipv4:127.0.0.1:1",
        set_trailing_metadata=lambda metadata: None,
        time_remaining=lambda: None,
    )
    with caplog.at_level(logging.INFO, "gradserve.requests"):
        run = (await interceptor.intercept_service(handler, details)).unary_unary
        for _ in range(50):
            with pytest.raises(grpc.aio.AbortError):
                await run(b"", context)
    assert statuses == [REFUSALS[kind].code] * 50, "every caller is told"
    lines = [json.loads(record.getMessage()) for record in caplog.records if record.name == "gradserve.requests"]
    assert [line["refused"] for line in lines] == [kind]
    assert [line["peer"] for line in lines] == ["ipv4:127.0.0.1:1"]
