"""Index folders: gone on with after a kill, and never served when damaged or of something else."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from gradserve_server.methods.indexes import writer
from gradserve_server.methods.indexes.folder import IndexFault, preprocessing
from gradserve_server.methods.influence.index import COLUMNS, Index, extremes, hold_those_of, opened
from gradserve_server.methods.influence.indexing.build import Builder
from gradserve_server.methods.influence.indexing.plan import IndexPlan
from gradserve_server.methods.influence.neighbours import average_ranks, disagreement, suspicion
from gradserve_server.methods.influence.serving import check

from . import small

PLAN = IndexPlan(weight_decay=small.DECAY, size=32, rank=6)


class Killed(Exception):
    """As a SIGKILL would."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("index") / "whole"
    Builder(small.model(), small.examples(), small.ORIGIN, PLAN).run(out)
    return out


@pytest.mark.parametrize(("phase", "at"), [("bases", 60), ("curvature", 75), ("examples", 90), ("neighbours", 0)])
def test_a_killed_build_goes_on(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, phase: str, at: int
) -> None:
    monkeypatch.setattr(writer, "SAVE_SECONDS", 0.0)
    reports: list[tuple[str, int]] = []

    def killing(what: str, done: int, total: int) -> None:
        reports.append((what, done))
        if what == phase and done >= at:
            raise Killed

    out = tmp_path / "it"
    with pytest.raises(Killed):
        Builder(small.model(), small.examples(), small.ORIGIN, PLAN, killing).run(out)
    assert not out.exists()
    seen: list[tuple[str, int]] = []
    Builder(small.model(), small.examples(), small.ORIGIN, PLAN, lambda what, done, _: seen.append((what, done))).run(
        out
    )
    if phase in ("curvature", "examples"):
        assert next(done for what, done in seen if what == phase) >= at - 15
    ours, theirs = Index(out), Index(whole)
    ours.verify()
    for name in ("vectors", "features", "columns"):
        a, b = (getattr(each, name) for each in (ours, theirs))
        for field in COLUMNS.names if name == "columns" else (None,):
            x, y = (v if field is None else v[field] for v in (a, b))
            assert np.allclose(np.abs(x.astype(float)), np.abs(y.astype(float)), rtol=2e-2, atol=2e-2 * np.abs(y).max())
    assert ours.manifest.stationarity == pytest.approx(theirs.manifest.stationarity, rel=1e-3)
    assert [ours.name(i) for i in (0, 7, 119)] == ["0", "7", "119"]
    assert ours.thumbnail(119) == theirs.thumbnail(119) != b""
    assert sorted(p.name for p in tmp_path.iterdir()) == ["it"]


def test_another_plan_begins_anew(tmp_path: Path) -> None:
    seen = []

    def killing(what: str, done: int, total: int) -> None:
        if what == "examples" and done >= 60:
            raise Killed

    with pytest.raises(Killed):
        Builder(small.model(), small.examples(), small.ORIGIN, PLAN, killing).run(tmp_path / "it")
    other = replace(PLAN, size=16)
    Builder(small.model(), small.examples(), small.ORIGIN, other, lambda *facts: seen.append(facts)).run(
        tmp_path / "it"
    )
    assert seen[0] == ("bases", 0, 120)
    assert Index(tmp_path / "it").vectors.shape == (120, 16)


@pytest.mark.parametrize("name", ["vectors.bin", "columns.bin", "projection.safetensors", "thumbs.bin", "names.idx"])
def test_damage_is_found(whole: Path, tmp_path: Path, name: str) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(whole, folder)
    data = bytearray((folder / name).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / name).write_bytes(data)
    with pytest.raises(IndexFault, match=f"{name} is damaged"):
        Index(folder).verify()
    (folder / name).write_bytes(data[:-3])
    with pytest.raises(IndexFault, match=f"{name} has {len(data) - 3} bytes and must have {len(data)}"):
        Index(folder)
    (folder / name).unlink()
    with pytest.raises(IndexFault, match=f"{name} is missing"):
        Index(folder)


def test_an_index_that_is_held_stays_what_it_is(whole: Path, tmp_path: Path) -> None:
    """Also where another one takes its folder, as `gradserve index --out` does it."""
    folder = tmp_path / "it"
    shutil.copytree(whole, folder)
    held = opened(str(folder), Index(folder).digest)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["dataset"] = "of others"
    shutil.rmtree(folder)
    shutil.copytree(whole, folder)
    (folder / "manifest.json").write_text(json.dumps(manifest))
    for name in ("columns.bin", "names.bin", "vectors.bin"):
        (folder / name).write_bytes(bytes((folder / name).stat().st_size))
    before = Index(whole)
    assert opened(str(folder), held.digest).manifest == before.manifest
    assert held.name(5) == before.name(5)
    assert np.array_equal(held.columns, before.columns)
    assert np.array_equal(held.vectors, before.vectors)
    now = opened(str(folder), Index(folder).digest)
    assert now.manifest.dataset == "of others"
    assert not now.vectors.any()
    card = replace(small.model().card, index=str(folder), index_digest=now.digest)
    hold_those_of([card])
    assert opened(str(folder), now.digest) is now
    with pytest.raises(IndexFault, match="has changed since its model was loaded; reload the model"):
        opened(str(folder), held.digest)


@pytest.mark.parametrize(
    ("change", "says"),
    [({"version": 99}, "has version 99"), ({"count": "many"}, "cannot be read"), (None, "there is no manifest.json")],
)
def test_manifests_that_do_not_serve(whole: Path, tmp_path: Path, change: dict[str, object] | None, says: str) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(whole, folder)
    manifest = folder / "manifest.json"
    if change is None:
        manifest.unlink()
    else:
        manifest.write_text(json.dumps({**json.loads(manifest.read_text()), **change}))
    with pytest.raises(IndexFault, match=says):
        Index(folder)


def test_an_index_of_other_weights_or_input_is_refused(whole: Path) -> None:
    manifest = Index(whole).manifest.model_copy(update={"preprocessing": preprocessing(small.model().card)})
    check(manifest, small.model().card, whole)
    with pytest.raises(IndexFault, match=r"is of weights .* build it again: gradserve index --model small"):
        check(manifest, replace(small.model().card, digest="0" * 64), whole)
    with pytest.raises(IndexFault, match="other input"):
        check(manifest, replace(small.model().card, mean=(0.0, 0.0, 0.0)), whole)


def test_half_precision_keeps_the_order(whole: Path) -> None:
    rows = np.array(Index(whole).vectors, np.float32)
    rng = np.random.default_rng(0)
    exact = rows + rng.uniform(-0.5, 0.5, rows.shape) * np.spacing(rows.astype(np.float16)).astype(np.float32)
    for query in exact[:20]:
        ours, truth = rows @ query, exact @ query
        assert np.corrcoef(average_ranks(ours), average_ranks(truth))[0, 1] > 0.999
        assert len(set(extremes(ours, 10)[0]) & set(extremes(truth, 10)[0])) >= 9


def test_neighbours_by_hand() -> None:
    rng = np.random.default_rng(0)
    features, labels = rng.normal(size=(60, 5)), rng.integers(0, 3, 60)
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    alike = unit @ unit.T
    np.fill_diagonal(alike, -2)
    truth = [np.mean(labels[np.argsort(-row)[:10]] != label) for row, label in zip(alike, labels, strict=True)]
    assert np.allclose(disagreement(features, labels), truth)
    assert average_ranks(np.array([3.0, 1.0, 3.0])).tolist() == [1.5, 0.0, 1.5]
    assert suspicion(np.array([1.0, 2.0, 3.0]), np.array([0.0, 0.0, 1.0])).tolist() == [0.125, 0.375, 1.0]
