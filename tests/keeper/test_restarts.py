"""When a process is started again, by tables."""

import pytest

from gradserve_server.keeper.restarts import deaths_in_a_row, pause


@pytest.mark.parametrize(
    ("deaths", "seconds"), [(1, 0), (2, 0.5), (3, 1), (4, 2), (7, 16), (8, 30), (9, 30), (10_000, 30)]
)
def test_pauses_grow(deaths: int, seconds: float) -> None:
    assert pause(deaths, chance=0.0) == seconds
    assert pause(deaths, chance=1.0) == seconds / 2, "chance takes half of it at most"


@pytest.mark.parametrize(
    ("before", "ready_seconds", "deaths"), [(0, 0, 1), (0, 100, 1), (1, 0, 2), (5, 9, 6), (5, 11, 1)]
)
def test_deaths_in_a_row(before: int, ready_seconds: float, deaths: int) -> None:
    assert deaths_in_a_row(before, ready_seconds) == deaths
