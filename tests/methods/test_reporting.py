"""Reports of maps while they are made: which of them pass, and that they change no answer."""

from typing import Any

import pytest
from zoo import inputs, off

from gradserve_server.engine.engine import Engine
from gradserve_server.engine.events import Ended, Progressed
from gradserve_server.engine.job import Job, Progress, Steps, together
from gradserve_server.methods.explain import ExplainArguments, Explained, Target, explain
from gradserve_server.methods.explain.reporting import PartOfAnswer

from .runs import SMALL, answers, call

CALLS = {"rise": {"samples": 12}, "gradient": {}, "lime": SMALL["lime"], "gradient_shap": {"samples": 9}}


def run(report_every: float) -> tuple[list[PartOfAnswer], list[Explained], Any]:
    """The reports of the four methods on a linear network in parts of four samples, and their answers."""
    model, x = inputs("linear")
    calls = [call(model, name, Target(label=1), **parameters) for name, parameters in CALLS.items()]
    clock = iter(range(10**6))
    engine = Engine({"model": model}, clock=lambda: next(clock) / 1000)
    engine.submit(
        Job(
            "job",
            "model",
            lambda job: explain(job, x, ExplainArguments(tuple(calls))),
            report_every=report_every,
            chunk=16,
        )
    )
    events = [event for _ in iter(lambda: engine.idle, True) for event in engine.step()]
    (ended,) = [event for event in events if isinstance(event, Ended)]
    assert ended.error is None
    assert events[-1] is ended
    reports = [event.answer for event in events if isinstance(event, Progressed)]
    return reports, ended.result, answers(model, x, calls)


def test_maps_are_reported_after_each_part_and_when_they_are_done() -> None:
    reports, results, plain = run(1e-9)
    steps = {place: [each.explained.done for each in reports if each.place == place] for place in range(4)}
    assert steps == {0: [4, 8, 12], 1: [1], 2: [4, 8, 12, 16, 20, 24, 25], 3: [4, 8, 9]}
    assert [place for place in range(4) for each in reports if each.place == place and each.finished] == [0, 1, 2, 3]
    for each in reports:
        if each.finished:
            assert each.explained is results[each.place]
    assert all(off(ours.values, alone.values) < 1e-5 for ours, alone in zip(results, plain, strict=True))


def test_reports_that_come_too_soon_are_dropped_but_for_the_last() -> None:
    reports, _, _ = run(1e9)
    for place in range(4):
        mine = [each.finished for each in reports if each.place == place]
        assert mine == ([True] if place == 1 else [False, True]), "the rate is bounded for each map by itself"


def test_without_a_stream_nothing_is_reported() -> None:
    assert run(float("inf"))[0] == []


def test_methods_side_by_side_pass_their_progress_on() -> None:
    def method(name: str) -> Steps:
        yield Progress(0, 1, {}, part=ord(name))
        assert (yield [name]) == [name.upper()]
        yield Progress(1, 1, {}, part=ord(name))
        return name

    steps = together([method("a"), method("b")])
    assert [next(steps).part, steps.send(None).part] == [97, 98]
    assert next(steps) == ["a", "b"]
    assert [steps.send(["A", "B"]).part, next(steps).part] == [97, 98]
    with pytest.raises(StopIteration) as stop:
        next(steps)
    assert stop.value.value == ["a", "b"]
