"""`gradserve robustness --baseline` against a real server."""

import json
from pathlib import Path

import numpy as np
import pytest
from paths import DATA
from serving import Server

from gradserve import Client
from gradserve.datasets import open_dataset

from .test_gate import digits, gate  # noqa: F401  a fixture

PHOTOS = DATA / "cifar10-test-1000.npz"
ATTACK = ["--eps", "4/255", "--param", "steps=3", "--worst", 2, "--json"]


@pytest.fixture(scope="module")
def address():
    with Server("[models.cifar10]\n[models.cifar10-robust]\n", "--workers", "1") as server:
        yield server.address


@pytest.mark.skipif(not PHOTOS.exists(), reason="needs ../shared/data")
def test_the_same_model_passes_and_another_one_fails_with_the_right_pictures(capsys, address, tmp_path):
    arguments = ["--data", PHOTOS, "--server", address, *ATTACK, "--limit", 16]
    robust, plain = ["--model", "cifar10-robust"], ["--model", "cifar10"]
    code, _, err = gate(capsys, *arguments, *robust, "--out", tmp_path / "robust")
    assert code == 0, err
    earlier = ["--baseline", tmp_path / "robust" / "results.json"]
    code, out, err = gate(capsys, *arguments, *robust, "--out", tmp_path / "again", *earlier, "--no-worse", 0)
    assert code == 0, err
    assert all(not each["lost"] and not each["gained"] for each in json.loads(out)["comparison"]["changes"])

    code, out, err = gate(capsys, *arguments, *plain, "--out", tmp_path / "plain", *earlier, "--no-worse", 0.01)
    assert code == 1, err
    clean, attacked = json.loads(out)["comparison"]["changes"]
    chosen = open_dataset(PHOTOS).take(16)
    with Client(address) as client:
        right = {
            model: {each.id for each in chosen if client.predict(each.image, model=model)[0].class_index == each.label}
            for model in ("cifar10", "cifar10-robust")
        }
    assert set(clean["lost"]) == right["cifar10-robust"] - right["cifar10"]
    assert set(clean["gained"]) == right["cifar10"] - right["cifar10-robust"]
    before, now = (standing(tmp_path / name) for name in ("robust", "plain"))
    assert (set(attacked["lost"]), set(attacked["gained"])) == (before - now, now - before)
    assert len(before - now) > 3
    assert "FAILS: change of robust accuracy, pgd 4/255 since the baseline" in err
    assert "beside the baseline, cifar10-robust, other weights" in err
    assert "Since the baseline" in (tmp_path / "plain" / "report.html").read_text()
    assert '<failure message="change of robust accuracy' in (tmp_path / "plain" / "junit.xml").read_text()


def standing(folder: Path) -> set[str]:
    """The pictures that stood the attack, by the run's journal."""
    lines = map(json.loads, (folder / "journal.jsonl").read_text().splitlines()[1:])
    return {each["id"] for each in lines if each["trial"] != "clean" and each["state"] == "right"}


def test_what_cannot_be_compared_is_refused_before_anything_is_asked(capsys, digits, tmp_path):  # noqa: F811
    arguments = ["--data", digits, *ATTACK]
    assert gate(capsys, *arguments, "--limit", 3, "--out", tmp_path / "first")[0] == 0
    earlier = tmp_path / "first" / "results.json"
    np.savez(tmp_path / "others.npz", **{**np.load(digits), "images": np.load(digits)["images"] // 2})
    old = tmp_path / "old.json"
    old.write_text(
        json.dumps({name: value for name, value in json.loads(earlier.read_text()).items() if name != "schema"})
    )
    for more, complaint in [
        (["--limit", 4, "--baseline", earlier], "pictures only here"),
        (["--limit", 3, "--baseline", earlier, "--eps", 0.2], "only here there is pgd 51/255"),
        (["--limit", 3, "--baseline", earlier, "--norm", "l2"], "norm is l2 here and linf in the baseline"),
        (["--limit", 3, "--baseline", earlier, "--data", tmp_path / "others.npz"], "pictures of other content"),
        (["--limit", 3, "--baseline", old], "too old"),
        (["--limit", 3, "--no-worse", 0.1], "--no-worse needs a --baseline"),
    ]:
        code, _, err = gate(capsys, *arguments, *more, "--out", tmp_path / "next")
        assert code == 2, (more, err)
        assert complaint in err, (more, err)
        assert not (tmp_path / "next").exists()
