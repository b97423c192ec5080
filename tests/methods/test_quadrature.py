"""Gauss-Legendre quadrature: exact, and quick enough for the loop that everybody waits for."""

import time

import numpy as np
import pytest

from gradserve_server.methods.explain.averages import gauss_legendre


@pytest.mark.parametrize("count", [2, 3, 10, 51, 300])
def test_it_is_numpys(count: int) -> None:
    nodes, weights = np.polynomial.legendre.leggauss(count)
    ours = gauss_legendre(count)
    assert ours[0] == pytest.approx((nodes + 1) / 2, abs=1e-14)
    assert ours[1] == pytest.approx(weights / 2, abs=1e-13)


def test_2000_points_integrate_exactly_and_at_once() -> None:
    gauss_legendre.cache_clear()
    begun = time.process_time()
    nodes, weights = gauss_legendre(2000)
    assert time.process_time() - begun < 2
    for power in (0, 1, 10, 500):
        assert (weights * nodes**power).sum() == pytest.approx(1 / (power + 1), rel=1e-10)
