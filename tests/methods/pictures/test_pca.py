"""Principal components, against numpy's singular values."""

from pathlib import Path

import numpy as np
import pytest

from gradserve_server.methods.pictures import pca as module
from gradserve_server.methods.pictures.pca import fit_pca, read_pca

RNG = np.random.default_rng(1)


def by_svd(features: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean, components with their entry of the largest absolute value positive, and shares of the variance."""
    wide = features.astype(np.float64)
    mean = wide.mean(0)
    _, values, axes = np.linalg.svd(wide - mean, full_matrices=False)
    signs = np.sign(axes[np.arange(len(axes)), np.abs(axes).argmax(1)])
    return mean, (axes * signs[:, None])[:count], (values**2 / (values**2).sum())[:count]


@pytest.mark.parametrize(("most", "shape"), [(4096, (500, 30)), (4096, (12, 40)), (50, (50, 60))])
def test_components_are_those_of_the_singular_values(
    monkeypatch: pytest.MonkeyPatch, most: int, shape: tuple[int, int]
) -> None:
    """By the covariance, with fewer pictures than channels, and by products of pictures where channels are many."""
    monkeypatch.setattr(module, "MAX_SIDE", most)
    monkeypatch.setattr(module, "CHUNK_ROWS", 64)
    features = (RNG.normal(size=shape) * np.geomspace(9, 0.1, shape[1]) + 20).astype(np.float32)
    found = fit_pca(features)
    mean, components, explained = by_svd(features, min(10, *shape))
    assert np.allclose(found.mean, mean, rtol=1e-6)
    assert found.components.shape == components.shape
    assert np.abs(found.components - components).max() < 1e-4
    assert np.abs(found.explained - explained).max() < 1e-6
    places = (features - mean) @ components[:2].T
    assert np.abs(found.points - places).max() < 1e-4 * np.abs(places).max()
    assert np.abs(found.place(features[:7]) - places[:7]).max() < 1e-4 * np.abs(places).max()


def test_there_may_be_a_single_axis_or_no_spread() -> None:
    line = fit_pca(np.arange(6, dtype=np.float32)[:, None])
    assert line.explained.tolist() == [1.0]
    assert line.points[:, 1].tolist() == [0.0] * 6
    assert np.allclose(line.points[:, 0], np.arange(6) - 2.5)
    flat = fit_pca(np.ones((4, 3), np.float32))
    assert flat.explained.tolist() == [0.0] * 3
    assert not flat.points.any()
    assert np.isfinite(fit_pca(np.ones((1, 3), np.float32)).components).all()


def test_it_is_read_as_it_was_saved(tmp_path: Path) -> None:
    saved = fit_pca(RNG.normal(size=(20, 5)).astype(np.float32))
    saved.save(tmp_path / "pca.safetensors")
    read = read_pca(tmp_path / "pca.safetensors")
    assert all(np.array_equal(value, getattr(read, name)) for name, value in vars(saved).items())
