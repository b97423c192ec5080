"""t-SNE, and new pictures in it, against openTSNE's own way of placing them."""

from pathlib import Path

import numpy as np
import pytest

from gradserve_server.methods.indexes.folder import IndexFault
from gradserve_server.methods.pictures import tsne
from gradserve_server.methods.pictures.indexing import projections
from gradserve_server.methods.pictures.nearest import nearest, voted

pytest.importorskip("openTSNE")

RNG = np.random.default_rng(2)
LABELS = np.repeat(np.arange(3), 100)
CENTRES = 6 * RNG.normal(size=(3, 8))
FEATURES = (CENTRES[LABELS] + RNG.normal(size=(300, 8))).astype(np.float32)
NEW_LABELS = np.repeat(np.arange(3), 10)
NEW = (CENTRES[NEW_LABELS] + RNG.normal(size=(30, 8))).astype(np.float32)


@pytest.fixture(scope="module")
def made() -> tsne.Tsne:
    return tsne.fit_tsne(FEATURES)


def test_new_pictures_lie_where_opentsne_puts_them(made: tsne.Tsne) -> None:
    """Its own `transform`, on an embedding that begins at these points, with exact neighbours."""
    from openTSNE import TSNEEmbedding
    from openTSNE.affinity import PerplexityBasedNN

    own = PerplexityBasedNN(FEATURES.astype(np.float64), perplexity=30, method="exact", random_state=0)
    whole = TSNEEmbedding(made.points.astype(np.float64), own, random_state=0, **tsne.GRID)
    expected = np.asarray(whole.transform(NEW.astype(np.float64), perplexity=5))
    found = tsne.place(made, *nearest(FEATURES, NEW, tsne.PLACING_NEIGHBOURS))
    assert np.abs(found - expected).max() < 1e-3 * np.abs(made.points).max()


def test_they_lie_in_their_class(made: tsne.Tsne) -> None:
    places = tsne.place(made, *nearest(FEATURES, NEW, tsne.PLACING_NEIGHBOURS))
    classes, _ = voted(LABELS[nearest(made.points, places.astype(np.float32), 5)[0]])
    assert (classes == NEW_LABELS).all()


def test_a_picture_does_not_depend_on_the_others(made: tsne.Tsne) -> None:
    rows, distances = nearest(FEATURES, NEW, tsne.PLACING_NEIGHBOURS)
    together = tsne.place(made, rows, distances)
    alone = np.concatenate([tsne.place(made, rows[i : i + 1], distances[i : i + 1]) for i in range(5)])
    assert np.abs(together[:5] - alone).max() < 1e-6
    assert tsne.place(made, rows[:0], distances[:0]).shape == (0, 2)


def test_it_is_made_the_same_again_and_read_as_it_was_saved(made: tsne.Tsne, tmp_path: Path) -> None:
    assert np.array_equal(tsne.fit_tsne(FEATURES).points, made.points)
    assert np.abs(made.points.max(0) + made.points.min(0)).max() < 1e-3, "centred"
    made.save(tmp_path / "tsne.safetensors")
    assert np.array_equal(tsne.read_tsne(tmp_path / "tsne.safetensors").points, made.points)


def test_what_it_cannot_be_made_of(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="needs 16 pictures at least, and there are 15"):
        tsne.fit_tsne(FEATURES[:15])
    assert len(tsne.fit_tsne(FEATURES[::19]).points) == 16
    with pytest.raises(IndexFault, match="--tsne nine: it is not among the layers to index, one, two"):
        projections.check_tsne(["nine"], ["one", "two"], 100)
    with pytest.raises(IndexFault, match="--tsne: a t-SNE needs 16 pictures at least, and there are 3"):
        projections.check_tsne(["one"], ["one"], 3)
    monkeypatch.setattr(projections, "missing", lambda: tsne.EXTRA)
    with pytest.raises(IndexFault, match=r"openTSNE is not installed; .*gradserve-server\[tsne\]"):
        projections.check_tsne(["one"], ["one"], 100)
    projections.check_tsne([], ["one"], 100)
