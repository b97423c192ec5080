"""What admission expects and refuses under loads at and above the capacity, on a simulated clock."""

from statistics import median

import pytest

from .simulated import SimulatedServer

# Seconds of a row, of a pass besides its rows, and of decoding a picture in one of two threads.
WORKER_LIMITED = {"row_seconds": 0.02, "pass_seconds": 0.02, "decode_seconds": 0.005}
DECODING_LIMITED = WORKER_LIMITED | {"decode_seconds": 0.055}
SLOW_MODEL = WORKER_LIMITED | {"row_seconds": 0.04}  # A full pass takes a third of a second.
KINDS = [WORKER_LIMITED, DECODING_LIMITED, SLOW_MODEL]
IDS = ["the worker is the limit", "decoding is the limit", "a slow model"]
DEADLINE, SECONDS = 2.0, 30.0
LONG = 0.5  # In seconds; how long shorter answers take is a matter of single passes.


@pytest.mark.parametrize("kind", KINDS, ids=IDS)
def test_at_the_capacity_few_are_refused(monkeypatch: pytest.MonkeyPatch, kind: dict[str, float]) -> None:
    server = SimulatedServer(monkeypatch, **kind)
    capacity = server.closed_loop(8, 6.0)
    found = server.open_loop(capacity, 2 * SECONDS, DEADLINE)
    print(f"capacity {capacity:.1f}/s, {dict(found.codes)}")
    assert found.codes.total() > 1.8 * SECONDS * capacity
    assert found.share("OK") >= 0.95


@pytest.mark.parametrize("kind", KINDS, ids=IDS)
def test_above_it_as_many_are_answered_and_none_is_let_in_for_nothing(
    monkeypatch: pytest.MonkeyPatch, kind: dict[str, float]
) -> None:
    server = SimulatedServer(monkeypatch, **kind)
    capacity = server.closed_loop(8, 6.0)
    found = server.open_loop(4 * capacity, SECONDS, DEADLINE)
    print(f"capacity {capacity:.1f}/s, {dict(found.codes)}")
    assert found.codes["OK"] >= 0.95 * capacity * SECONDS
    assert found.codes["late"] <= 0.02 * found.codes["OK"]


@pytest.mark.parametrize("kind", KINDS, ids=IDS)
def test_answers_take_as_long_as_was_expected(monkeypatch: pytest.MonkeyPatch, kind: dict[str, float]) -> None:
    server = SimulatedServer(monkeypatch, **kind)
    found = server.open_loop(1.5 * server.closed_loop(8, 6.0), SECONDS, DEADLINE)
    ratios = [seconds / expected for expected, seconds in found.answers if seconds > LONG]
    print(f"{len(ratios)} answers, seconds by those expected {median(ratios):.2f}")
    assert len(ratios) > 100
    assert 0.85 < median(ratios) < 1.15
