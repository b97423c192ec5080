"""`gradserve robustness --group` against a real server."""

import json

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from .test_gate import gate


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Thirty digits; those of the group "dark" are nearly black."""
    folder = tmp_path_factory.mktemp("grouped")
    found, lines = load_digits(), ["file,class_name,light"]
    for i in range(30):
        group = ("bright", "dark")[i % 3 == 0]
        pixels = (found.images[i] * (255 / 16 if group == "bright" else 1)).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{i:02}.png")
        lines.append(f"{i:02}.png,{found.target[i]},{group}")
    (folder / "labels.csv").write_text("\n".join(lines))
    return folder


def test_a_weak_group_fails_where_all_pictures_together_pass(capsys, folder, tmp_path):
    arguments = ["--data", folder, "--eps", 0.02, "--param", "steps=3", "--group", "light", "--worst", 0, "--json"]
    thresholds = ["--min-robust-accuracy", 0.5, "--min-group-robust-accuracy", 0.5]
    code, out, err = gate(capsys, *arguments, *thresholds, "--out", tmp_path)
    found = json.loads(out)
    assert code == 1, err
    groups = found["groups"]["figures"]
    assert (groups["bright"]["clean"]["of"], groups["dark"]["clean"]["of"]) == (20, 10)
    assert [each["holds"] for each in found["thresholds"]] == [True, True, False]
    assert groups["bright"]["robust"][0]["right"] + groups["dark"]["robust"][0]["right"] == found["robust"][0]["right"]
    assert "FAILS: robust accuracy, pgd 0.02, light dark" in err
    assert "light bright: clean" in err


def test_a_picture_that_is_listed_twice_is_measured_once(capsys, folder, tmp_path):
    twice = tmp_path / "twice"
    twice.mkdir()
    for i in (1, 2):
        (twice / f"0{i}.png").write_bytes((folder / f"0{i}.png").read_bytes())
    (twice / "labels.csv").write_text("file,label\n01.png,1\n02.png,2\n01.png,1\n")
    code, out, err = gate(capsys, "--data", twice, "--eps", 0.02, "--out", tmp_path / "out", "--json")
    assert code == 0, err
    found = json.loads(out)
    assert [each["id"] for each in found["outcomes"]] == ["01.png", "02.png"]
    assert found["pictures"] == found["clean"]["of"] == 2


def test_groups_that_cannot_be_told(capsys, folder, tmp_path):
    for more, complaint in [
        (["--group", "weather"], "no column 'weather' for --group; it has file, class_name, light"),
        (["--min-group-robust-accuracy", 0.5], "--min-group-robust-accuracy needs a --group"),
        (["--group", "light", "--attack", "none", "--min-group-robust-accuracy", 0.5, "--min-clean-accuracy", 0],
         "--min-group-robust-accuracy needs an --attack"),
    ]:  # fmt: skip
        code, _, err = gate(capsys, "--data", folder, *more, "--out", tmp_path / "out")
        assert code == 2, (more, err)
        assert complaint in err, (more, err)
