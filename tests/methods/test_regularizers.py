"""Penalties, filters and views against closed forms and direct transcriptions of their formulas."""

import math

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor

from gradserve_server.engine.job import MethodContext
from gradserve_server.methods.maximize.parameterizations import Fourier
from gradserve_server.methods.maximize.transforms import View, Views, turned
from gradserve_server.methods.regularizers import blurred, clipped, edge_energy, l2, roughness, total_variation


def noise(*shape: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def test_total_variation_and_roughness_pixel_by_pixel() -> None:
    x = noise(2, 3, 5, 7)
    for row, absolute, square in zip(x, total_variation(x), roughness(x), strict=True):
        down = [row[c, i + 1, j] - row[c, i, j] for c in range(3) for i in range(4) for j in range(7)]
        across = [row[c, i, j + 1] - row[c, i, j] for c in range(3) for i in range(5) for j in range(6)]
        assert absolute.item() == pytest.approx(sum(abs(d.item()) for d in down + across))
        mean = sum(d.item() ** 2 for d in down) / len(down) + sum(d.item() ** 2 for d in across) / len(across)
        assert square.item() == pytest.approx(mean)


def test_of_a_ramp() -> None:
    ramp = torch.arange(6, dtype=torch.float64).expand(1, 3, 4, 6) / 10
    assert total_variation(ramp).item() == pytest.approx(3 * 4 * 5 * 0.1)
    assert roughness(ramp).item() == pytest.approx(0.01)
    assert edge_energy(torch.full((1, 3, 16, 16), 0.3, dtype=torch.float64)).item() == pytest.approx(0)


def test_pictures_in_any_memory_layout() -> None:
    x, grad = noise(2, 3, 12, 11), noise(2, 3, 12, 11) - 0.5
    last = x.contiguous(memory_format=torch.channels_last)
    assert torch.equal(edge_energy(last), edge_energy(x))
    assert torch.equal(blurred(last, 1.0), blurred(x, 1.0))
    assert torch.equal(clipped(last, grad, 0.1, 0.1), clipped(x, grad, 0.1, 0.1))


def test_l2() -> None:
    assert l2(torch.full((2, 3, 4, 5), 0.7)).tolist() == pytest.approx([3 * 4 * 5 * 0.04] * 2)


def test_edge_energy_with_scipy() -> None:
    x = noise(2, 3, 23, 30)
    kernel = np.exp(-(np.arange(-2, 3)[:, None] ** 2 + np.arange(-2, 3) ** 2) / 2)
    kernel /= kernel.sum()
    for row, energy in zip(x.numpy(), edge_energy(x), strict=True):
        expected = 0.0
        for plane in row:
            while min(plane.shape) > 5:
                smooth = ndimage.correlate(plane, kernel, mode="mirror")
                expected += ((plane - smooth) ** 2).sum()
                height, width = plane.shape[0] // 2, plane.shape[1] // 2
                plane = plane[: 2 * height, : 2 * width].reshape(height, 2, width, 2).mean((1, 3))
        assert energy.item() == pytest.approx(expected)


def test_blur_with_scipy() -> None:
    x = noise(2, 3, 20, 17)
    expected = ndimage.gaussian_filter(x.numpy(), (0, 0, 1.5, 1.5), mode="mirror", radius=(0, 0, 4, 4))
    assert np.abs(blurred(x, 1.5).numpy() - expected).max() < 1e-12


def test_clipping_greys_out_the_least() -> None:
    x, grad = noise(2, 3, 6, 5), noise(2, 3, 6, 5) - 0.5
    for row, slope, result in zip(x, grad, clipped(x, grad, 0.3, 0.2), strict=True):
        off = row - 0.5
        norms = {(i, j): off[:, i, j].norm().item() for i in range(6) for j in range(5)}
        shares = {(i, j): abs((off[:, i, j] * slope[:, i, j]).sum().item()) for i in range(6) for j in range(5)}
        small, idle = sorted(norms, key=norms.__getitem__)[:9], sorted(shares, key=shares.__getitem__)[:6]
        for i in range(6):
            for j in range(5):
                kept = (i, j) not in small and (i, j) not in idle
                assert torch.allclose(result[:, i, j], row[:, i, j] if kept else torch.tensor(0.5).double())
    assert torch.equal(clipped(x, grad, 0.0, 0.0), x)


@pytest.mark.parametrize(("factor", "degrees"), [(1.3, 0.0), (0.8, 0.0), (1.0, 25.0), (1.2, -70.0), (1.0, 90.0)])
def test_turning_with_scipy(factor: float, degrees: float) -> None:
    x = noise(1, 3, 24, 33)
    ours = turned(x, factor, degrees)[0].numpy()
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    matrix = np.array([[cosine, sine], [-sine, cosine]]) / factor  # Rows are y, then x.
    centre = np.array([(24 - 1) / 2, (33 - 1) / 2])
    for plane, result in zip(x[0].numpy(), ours, strict=True):
        padded = np.pad(plane - 0.5, 1)  # The edge fades to grey, as grid_sample lets it.
        at = centre - matrix @ centre
        expected = ndimage.affine_transform(padded, matrix, at + 1 - matrix @ [0, 0], plane.shape, order=1) + 0.5
        assert np.abs(result - expected).max() < 1e-9


def test_a_view_pads_shifts_and_adds_noise() -> None:
    x = noise(2, 3, 4, 5)
    seen = View(pad=2, down=1, across=-3)(x)
    assert seen.shape == (2, 3, 8, 9)
    expected = np.roll(np.pad(x.numpy(), ((0, 0), (0, 0), (2, 2), (2, 2)), constant_values=0.5), (1, -3), (2, 3))
    assert np.array_equal(seen.numpy(), expected)
    dust = noise(1, 3, 4, 5)
    assert torch.equal(View(noise=dust)(x), x + dust)


def test_views_are_drawn_by_seed_and_step_within_their_ranges() -> None:
    x = noise(1, 3, 40, 60)
    views = Views(pad=0.1, jitter=0.25, scale=0.2, rotate=15.0, noise=0.05)
    drawn = [views.draw(step, x, MethodContext(seed=4)) for step in range(200)]
    again = views.draw(7, x, MethodContext(seed=4))
    assert (again.down, again.factor, again.angle) == (drawn[7].down, drawn[7].factor, drawn[7].angle)
    assert torch.equal(again.noise, drawn[7].noise)
    assert {view.pad for view in drawn} == {4}
    for values, reach in (([v.down for v in drawn], 10), ([v.angle for v in drawn], 15)):
        assert max(map(abs, values)) <= reach
        assert max(values) > 0.9 * reach
        assert min(values) < -0.9 * reach
    factors = [view.factor for view in drawn]
    assert 0.8 <= min(factors) < 0.83 < 1.17 < max(factors) <= 1.2
    assert torch.cat([view.noise for view in drawn]).std().item() == pytest.approx(0.05, rel=0.02)


@pytest.mark.parametrize("size", [(16, 16), (15, 22), (9, 7)])
def test_fourier_and_back(size: tuple[int, int]) -> None:
    x = 0.1 + 0.8 * noise(2, 3, *size)
    space = Fourier(x)
    assert torch.allclose(space.decode(space.encode(x)), x, atol=1e-12)
    assert torch.allclose(space.decode(torch.zeros_like(space.encode(x))), torch.full_like(x, 0.5))
