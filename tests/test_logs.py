"""Logs as text and as JSON, of all processes of a server."""

import json
import logging
import re
from datetime import datetime

import pytest
from serving import Server, Stubs, picture

from gradserve.v1 import predict_pb2
from gradserve_server.logs import JsonFormatter, LogSettings, configure, current


def test_a_line_of_json() -> None:
    try:
        raise ValueError("no\nroom")
    except ValueError as error:
        record = logging.LogRecord("a.b", logging.ERROR, "file", 1, "lost %d", (3,), (type(error), error, None))
    line = JsonFormatter().format(record)
    assert "\n" not in line
    facts = json.loads(line)
    assert datetime.fromisoformat(facts.pop("time")).utcoffset() is not None
    assert facts.pop("process") > 0
    assert facts.pop("exception").endswith("ValueError: no\nroom")
    assert facts == {"level": "ERROR", "logger": "a.b", "message": "lost 3"}


def test_fields_take_the_place_of_the_message() -> None:
    record = logging.LogRecord("a", logging.INFO, "file", 1, "text", (), None)
    record.fields = {"rpc": "Predict", "ms": 1.5}
    facts = json.loads(JsonFormatter().format(record))
    assert (facts["rpc"], facts["ms"]) == ("Predict", 1.5)
    assert "message" not in facts


def test_a_process_tells_others_how_it_logs(monkeypatch: pytest.MonkeyPatch) -> None:
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [])
    monkeypatch.setattr(root, "level", logging.WARNING)
    configure(LogSettings(logging.INFO, "json"))
    assert current() == LogSettings(logging.INFO, "json")
    configure(LogSettings(logging.DEBUG, "text"))
    assert current() == LogSettings(logging.INFO, "json"), "the first one stays"


def test_every_line_of_a_server_is_json() -> None:
    config = '[pool]\nworkers = 2\n[models.digits]\n[models.broken]\nbuilder = "networks:missing"\nweights = "random"\n'
    with Server(config, "--log-format", "json", "--log-level", "info") as server, server.channel() as channel:
        image = picture(0, 8, 8)
        assert Stubs.of(channel).gradients.Predict(predict_pb2.PredictRequest(image=image), timeout=60).top
        assert server.stop() == 0
        lines = [json.loads(line) for line in server.log().splitlines()]
    (request,) = [line for line in lines if line.get("rpc") == "Predict"]
    assert (request["model"], request["code"], request["logger"]) == ("digits", "OK", "gradserve.requests")
    loading = [line for line in lines if line.get("event") == "loading"]
    assert [(line["model"], line["number"], line["of"]) for line in loading] == [("digits", 1, 2), ("broken", 2, 2)]
    (loaded,) = [line for line in lines if line.get("event") == "loaded"]
    assert loaded["model"] == "digits"
    assert loaded["seconds"] > 0
    assert loaded["rows"]["exact"] >= 1
    assert len(loaded["weights"]) == 64
    assert loading[0]["message"] == "loading digits (1 of 2)"
    assert len({line["process"] for line in lines}) >= 2, "front-end and others"
    assert all(re.match(r"\d{4}-\d\d-\d\dT[\d:.]+\+00:00$", line["time"]) for line in lines)


def test_an_unknown_format_is_refused() -> None:
    with Server("", "--log-format", "xml") as server:
        assert server.process.wait(60) == 2
        assert "xml" in server.log()
