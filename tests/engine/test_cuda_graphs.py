"""Recorded passes against plain ones; on a CPU "recording" is running the same function again into the same memory."""

from collections.abc import Callable

import pytest
import torch
from heads import KINDS
from zoo import CPU, off, prepared

from gradserve_server.engine.cuda_graphs import MIN_GRAPH_USES, Outputs, Recordings
from gradserve_server.engine.differentiate import differentiate
from gradserve_server.engine.objective import Objective, channel, log_prob, logit, margin, ranked
from gradserve_server.engine.query import Part, Query, Tap
from gradserve_server.models.catalogue import ModelSpec
from gradserve_server.models.preparation import prepare

LAYER = "layer3"


class OnCpu:
    """Counts recordings; `spoil` makes them wrong."""

    def __init__(self, spoil: float = 0.0, error: Exception | None = None) -> None:
        self.count, self._spoil, self._error = 0, spoil, error

    def __call__(self, function: Callable[[], Outputs]) -> tuple[Outputs, Callable[[], None]]:
        if self._error:
            raise self._error
        self.count += 1
        kept = function()

        def replay() -> None:
            for old, new in zip(kept, function(), strict=True):
                old.copy_(new + self._spoil)

        return kept, replay


def query(objective: Objective | None, rows: int = 1, size: int = 64, **facts: object) -> Query:
    images = torch.rand(rows, 3, size, size, generator=torch.Generator().manual_seed(rows))
    return Query(images, objective, **{"wrt": "image", **facts})


def parts(*queries: Query) -> list[Part]:
    return [Part(each, range(len(each.images))) for each in queries]


def test_what_it_answers_is_what_the_plain_pass_answers() -> None:
    model, recorder = prepared("resnet18"), OnCpu()
    recordings = Recordings(recorder)
    first = parts(query(logit(3), 2), query(ranked(2)), query(-2.0 * log_prob(5)), query(ranked(1)))
    second = parts(query(log_prob(1)), query(logit(7) * 0.5, 2))
    for _ in range(MIN_GRAPH_USES - 1):
        assert recordings.answers(model, first) is None
    for asked in (first, second, first):  # 5 rows and 3 rows: two sizes
        plain, found = differentiate(model, asked), recordings.answers(model, asked)
        if asked is second:
            assert found is None
            continue
        for a, b in zip(found, plain, strict=True):
            assert a.finite
            for ours, theirs in ((a.logits, b.logits), (a.value, b.value), (a.image_grad, b.image_grad)):
                assert ours.shape == theirs.shape
                assert off(ours, theirs) < 1e-4
            assert torch.equal(a.terms, a.value[:, None])
    assert recorder.count == 1


@pytest.mark.parametrize("name", ["one_sigmoid", "label_logits"])
def test_log_probabilities_are_the_heads_own(name: str) -> None:
    facts = {"name": name, "precisions": ("exact",), **KINDS[name].entry}
    model, recordings = prepare(ModelSpec.model_validate(facts), CPU), Recordings(OnCpu())
    asked = parts(query(log_prob(1), 2), query(ranked(1)), query(logit(0)))
    for _ in range(MIN_GRAPH_USES):
        found = recordings.answers(model, asked)
    assert found is not None
    for a, b in zip(found, differentiate(model, asked), strict=True):
        assert off(a.value, b.value) < 1e-5
        assert off(a.image_grad, b.image_grad) < 1e-4
    assert off(found[0].value, found[0].logits[:, 1].sigmoid().log()) < 1e-5


def test_fewer_rows_than_recorded_share_a_recording() -> None:
    model, recorder = prepared("resnet18"), OnCpu()
    recordings = Recordings(recorder)
    for rows in (4, 4, 4, 3):
        asked = parts(query(logit(1), rows))
        found = recordings.answers(model, asked)
    assert recorder.count == 1
    assert off(found[0].image_grad, differentiate(model, asked)[0].image_grad) < 1e-4


@pytest.mark.parametrize(
    "other",
    [
        query(None, wrt="nothing"),
        query(logit(1), rule="guided"),
        query(logit(1), taps=(Tap(LAYER),)),
        query(channel(LAYER, 0)),
        query(margin(0)),
        query(logit(1) + logit(2)),
        query(logit(1), wrt="taps", taps=(Tap(LAYER),)),
    ],
)
def test_the_rest_is_left_to_the_plain_pass(other: Query) -> None:
    recordings = Recordings(OnCpu())
    for _ in range(MIN_GRAPH_USES + 1):
        assert recordings.answers(prepared("resnet18"), parts(query(logit(1)), other)) is None


def test_a_row_that_is_not_finite_is_said_so_alone() -> None:
    recordings, bad = Recordings(OnCpu()), query(logit(1))
    bad.images[:] = float("inf")
    for _ in range(MIN_GRAPH_USES):
        found = recordings.answers(prepared("resnet18"), parts(query(logit(1)), query(logit(2))))
    assert found is not None
    found = recordings.answers(prepared("resnet18"), parts(query(logit(1)), bad))
    assert [each.finite for each in found] == [True, False]


@pytest.mark.parametrize("recorder", [OnCpu(spoil=1.0), OnCpu(error=RuntimeError("operation not permitted"))])
def test_a_recording_that_is_no_good_is_not_used(recorder: OnCpu, caplog: pytest.LogCaptureFixture) -> None:
    recordings = Recordings(recorder)
    for _ in range(MIN_GRAPH_USES + 2):
        assert recordings.answers(prepared("resnet18"), parts(query(logit(1)))) is None
    assert len(caplog.records) == 1
    assert "runs without" in caplog.text


def test_running_out_of_memory_is_for_the_engine_to_handle() -> None:
    recordings, asked = Recordings(OnCpu(error=torch.OutOfMemoryError("full"))), parts(query(logit(1)))
    for _ in range(MIN_GRAPH_USES - 1):
        recordings.answers(prepared("resnet18"), asked)
    with pytest.raises(torch.OutOfMemoryError):
        recordings.answers(prepared("resnet18"), asked)
