"""Whether two processes serve the same network."""

import pytest

from gradserve_server.models.sample import same_logits

NAN, INF = float("nan"), float("inf")
LOGITS = (0.5, -2.0, 1.5, 0.0)


@pytest.mark.parametrize(
    ("other", "same"),
    [
        (LOGITS, True),
        ((0.5, -2.0, 1.5, 1e-4), True),
        ((0.5, -2.0, 1.5, 5e-3), False),
        ((0.5, -2.0, 1.5, NAN), False),
        ((0.5, -2.0, 1.5), False),
        (tuple(1.01 * x for x in LOGITS), False),
    ],
)
def test_same_up_to_rounding(other: tuple[float, ...], same: bool) -> None:
    assert same_logits(LOGITS, other) == same
    assert same_logits(other, LOGITS) == same


def test_what_all_have_in_common_excuses_no_difference() -> None:
    first, second = ([1e4 + factor * x for x in LOGITS] for factor in (1, 1.1))
    assert not same_logits(first, second)
    assert same_logits(first, [x + 1e-3 for x in first]), "the last place of fp32"


def test_numbers_that_are_not_finite() -> None:
    assert same_logits((NAN, -INF, 1.0), (NAN, -INF, 1.0))
    assert same_logits((NAN, NAN), (NAN, NAN))
    assert same_logits((3.0,), (3.0001,))
    assert not same_logits((3.0,), (3.1,))
