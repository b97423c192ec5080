"""StreamExplain: each map as it is done, maps from samples as they stand, the whole answer last; cancelling it."""

import time
from typing import Any

import grpc
import numpy as np
import pytest
from serving import PATIENCE, Server, Stubs, methods, picture, refused, values

from gradserve.v1 import common_pb2 as pb
from gradserve.v1 import explain_pb2

SMALL: dict[str, Any] = {"model": "small", "image": picture(1, 64, 64), "preprocess": pb.PREPROCESS_AS_IS}


def request(asked: dict[str, Any], **fields: Any) -> explain_pb2.ExplainRequest:
    return explain_pb2.ExplainRequest(**{**SMALL, **fields}, methods=methods(**asked))


def distance(a: Any, b: Any) -> float:
    """Relative L2 distance of two maps."""
    one, other = values(a.raw), values(b.raw)
    return float(np.linalg.norm(one - other) / np.linalg.norm(other))


def test_each_map_comes_when_it_is_done_and_the_answer_last(stubs: Stubs) -> None:
    asked = request(
        {"rise": {"samples": 400}, "gradient": {}, "kernel_shap": {"samples": 40, "segments": 12}},
        targets=[pb.Target(class_index=3), pb.Target(rank=2)],
    )
    begun = time.monotonic()
    *events, last = stubs.gradients.StreamExplain(asked, timeout=PATIENCE)
    assert last.WhichOneof("event") == "result"
    reports = [event.progress for event in events]
    whole = stubs.gradients.Explain(asked, timeout=PATIENCE)
    assert [each.method_name for each in last.result.explanations] == [e.method_name for e in whole.explanations]
    assert max(map(distance, last.result.explanations, whole.explanations)) < 1e-4
    finished = [report for report in reports if report.finished]
    assert sorted(report.index for report in finished) == list(range(6))
    assert {report.index for report in finished[:2]} == {2, 3}, "gradients are done first"
    for report in finished:
        told = last.result.explanations[report.index]
        assert report.explanation == told
        assert report.region == last.result.region
    partial = [report for report in reports if not report.finished]
    assert {report.index for report in partial} >= {0, 1}
    for index in {report.index for report in partial}:
        done = [report.explanation.done for report in partial if report.index == index]
        assert done == sorted(set(done))
        assert len(done) <= time.monotonic() - begun + 1


def test_a_map_as_it_stands_is_that_of_so_many_samples(stubs: Stubs) -> None:
    asked = request({"rise": {"samples": 2000}}, targets=[pb.Target(class_index=3)])
    stream = stubs.gradients.StreamExplain(asked)
    report = next(stream).progress
    stream.cancel()
    assert not report.finished
    assert 2 <= report.explanation.done < report.explanation.asked == 2000
    assert report.explanation.completed_fraction == report.explanation.done / 2000
    assert not report.explanation.warnings
    fewer = request({"rise": {"samples": report.explanation.done}}, targets=[pb.Target(class_index=3)])
    (alone,) = stubs.gradients.Explain(fewer, timeout=PATIENCE).explanations
    assert distance(report.explanation, alone) < 1e-4


def test_a_lone_map_of_a_rank(stubs: Stubs) -> None:
    first, last = stubs.gradients.StreamExplain(request({"gradient": {}}), timeout=PATIENCE)
    assert first.progress.finished
    assert first.progress.explanation == last.result.explanations[0]


def test_maps_come_in_the_format_that_was_asked_for(stubs: Stubs) -> None:
    asked = request({"gradient": {}}, format=explain_pb2.MAP_FORMAT_PNG, overlay=True)
    first, last = stubs.gradients.StreamExplain(asked, timeout=PATIENCE)
    assert first.progress.explanation.png == last.result.explanations[0].png
    assert not first.progress.explanation.overlay
    assert last.result.explanations[0].overlay


def test_what_is_wrong_is_told_as_by_explain(stubs: Stubs) -> None:
    wrong = request({"rise": {"samples": 0}}, until_stable=2)
    found = []
    for call in (lambda: list(stubs.gradients.StreamExplain(wrong)), lambda: stubs.gradients.Explain(wrong)):
        with pytest.raises(grpc.RpcError) as caught:
            call()
        found.append(refused(caught.value))
    assert found[0] == found[1]
    assert found[0].violations.keys() == {"methods[0].rise.samples", "until_stable"}


def test_cancelling_ends_the_work(server: Server, stubs: Stubs) -> None:
    stream = stubs.gradients.StreamExplain(request({"rise": {"samples": 4000}}))
    assert not next(stream).progress.finished
    assert server.metric("gradserve_jobs_in_flight", method="explain") == 1
    stream.cancel()
    end = time.monotonic() + 60
    while server.metric("gradserve_jobs_in_flight", method="explain") or server.metric("gradserve_cost_outstanding"):
        assert time.monotonic() < end
        time.sleep(0.1)
    passes = -1.0
    while passes != (passes := server.metric("gradserve_step_rows_count", model="small")):
        assert time.monotonic() < end, "passes go on"
        time.sleep(1)  # The pass under way ends, and the workers' next statistics come.
