"""`gradserve shape-bias` against a real server: pictures, counts, resumed runs, bad input."""

import csv
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from serving import shared
from sklearn.datasets import load_digits

from gradserve import Client
from gradserve.cli import main
from gradserve.shape.run import decision
from gradserve.shape.sources import read, square

Run = Callable[..., tuple[int, str, str]]
QUICK = "--size", 24, "--steps", 2, "--styler", "small", "--judge", "digits"


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    monkeypatch.setenv("GRADSERVE_SERVER", shared().address)
    monkeypatch.setenv("COLUMNS", "300")
    monkeypatch.chdir(tmp_path)

    def call(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main(["shape-bias", *map(str, arguments)])
        said = capsys.readouterr()
        return int(ended.value.code or 0), said.out, said.err

    return call


@pytest.fixture
def sources(tmp_path: Path) -> tuple[object, ...]:
    """Digits 0 to 2 as shapes in class folders, and 2 to 4 as textures that are named one by one."""
    found = load_digits()
    given = list[object](["--content", tmp_path / "shapes"])
    for digit in range(5):
        picture = Image.fromarray((found.images[digit] * 255 / 16).astype(np.uint8)).resize((30, 40))
        name = found.target_names[digit]
        path = tmp_path / ("shapes" if digit < 3 else "textures") / str(name) / "a.png"
        path.parent.mkdir(parents=True)
        picture.save(path)
        if digit >= 2:
            given += ["--texture", f"{name}={path}"]
    return tuple(given)


def test_the_counts_are_those_of_the_pictures_that_are_kept(
    run: Run, sources: tuple[object, ...], tmp_path: Path
) -> None:
    code, said, err = run(*sources, *QUICK, "--content-weight", 0.5, "--content-weight", 0.05, "--json")
    assert code == 0, err
    result = json.loads(said)
    with (tmp_path / "shape-out/pictures.csv").open() as lines:
        rows = list(csv.DictReader(lines))
    # Three shapes and three textures, of which one pair is of one class; at two weights.
    assert len(rows) == result["pictures"] == 2 * 8
    files = {path.relative_to(tmp_path / "shape-out").as_posix() for path in (tmp_path / "shape-out").rglob("*.png")}
    assert files == {row["file"] for row in rows}
    counts = {weight: {kind: Counter[str]() for kind in ("set", "all")} for weight in ("0.05", "0.5")}
    classes = {row[kind] for row in rows for kind in ("shape", "texture")}
    with Client(shared().address) as client:
        for row in rows:
            picture = Image.open(tmp_path / "shape-out" / row["file"])
            assert picture.size == (24, 24)
            scores = client.predict(picture, model="digits", top_k=10, preprocess="whole_image").top
            within = max((each for each in scores if each.class_name in classes), key=lambda each: each.logit)
            for kind, name in (("set", within.class_name), ("all", scores[0].class_name)):
                went = [each for each in ("shape", "texture") if row[each] == name] or ["neither"]
                counts[row["content_weight"]][kind][went[0]] += 1
    (judge,) = result["judges"]
    assert [point["content_weight"] for point in judge["curve"]] == [0.05, 0.5]
    for point in judge["curve"]:
        own = counts[f"{point['content_weight']:g}"]
        assert Counter(point["among_the_sets_classes"]) == own["set"] | Counter(shape=0, texture=0, neither=0)
        assert Counter(point["among_all_classes"]) == own["all"] | Counter(shape=0, texture=0, neither=0)
        by_either = own["set"]["shape"] + own["set"]["texture"]
        assert point["shape_share"] == (own["set"]["shape"] / by_either if by_either else None)
    assert json.loads((tmp_path / "shape-out/results.json").read_text()) == result
    page = (tmp_path / "shape-out/index.html").read_text()
    assert "which does not judge" in page
    for point in judge["curve"]:
        assert f"{point['low']:.1%} to {point['high']:.1%}" in page


def test_another_network_judges_the_same_files(run: Run, sources: tuple[object, ...], tmp_path: Path) -> None:
    asked = *sources, *QUICK, "--content-weight", 0.05
    assert run(*asked)[0] == 0
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "shape-out").rglob("*.png")}
    spoilt, *_ = before
    spoilt.write_bytes(spoilt.read_bytes()[:-40])
    code, said, _ = run(*asked, "--json")
    assert code == 0
    assert json.loads(said)["found"] == len(before) - 1
    assert {path for path, at in before.items() if path.stat().st_mtime_ns != at} == {spoilt}
    code, _, err = run(*asked[:-1], 0.1)
    assert code == 2
    assert "holds pictures of other settings: weights was [0.05] and is [0.1]" in err


def test_a_styler_does_not_judge(run: Run, sources: tuple[object, ...]) -> None:
    code, _, err = run(*sources, *QUICK, "--judge", "small")
    assert code == 2
    assert "small makes the pictures, so that it cannot judge them" in err
    for alone, missing in (("--styler", "--judge"), ("--judge", "--styler")):
        code, _, err = run(*sources, alone, "small")
        assert code == 2
        assert f"Missing option '{missing}'" in err


@pytest.mark.parametrize(
    ("weights", "told"), [((0.1234567, 0.1234568), "first six digits"), (("inf",), "finite number")]
)
def test_weights_that_name_no_folders(
    run: Run, sources: tuple[object, ...], weights: tuple[object, ...], told: str
) -> None:
    code, _, err = run(*sources, *QUICK, *(word for each in weights for word in ("--content-weight", each)))
    assert code == 2
    assert told in err


def test_a_texture_without_a_class(run: Run, sources: tuple[object, ...], tmp_path: Path) -> None:
    path = tmp_path / "textures/3/a.png"
    code, _, err = run(*sources[:2], "--texture", path, *QUICK)
    assert code == 2
    assert f"--texture {path}: the picture has no class; write CLASS=FILE" in err
    code, _, err = run(*sources[:2], "--texture", path.parent, *QUICK)
    assert code == 2
    assert "its pictures have no class" in err
    code, _, err = run(*sources[:2], "--texture", "3=nowhere.png", *QUICK)
    assert code == 2
    assert "there is no such folder or file" in err


def test_a_class_that_the_judge_does_not_know(run: Run, sources: tuple[object, ...], tmp_path: Path) -> None:
    code, _, err = run(*sources[:2], "--texture", f"zebra={tmp_path / 'textures/3/a.png'}", *QUICK)
    assert code == 2
    assert "digits cannot judge: the files that were named: the model has no class 'zebra'" in err


def test_nothing_that_conflicts(run: Run, sources: tuple[object, ...], tmp_path: Path) -> None:
    one = tmp_path / "shapes/2/a.png"
    code, _, err = run("--content", f"2={one}", "--texture", f"2={one}", *QUICK)
    assert code == 2
    assert "give pictures of several classes" in err


def test_a_folder_of_something_else(run: Run, sources: tuple[object, ...], tmp_path: Path) -> None:
    code, _, err = run(*sources, *QUICK, "--out", tmp_path / "shapes")
    assert code == 2
    assert "no settings.json of such a run" in err
    assert not (tmp_path / "shapes/settings.json").exists()


def test_a_decision_among_the_sets_classes() -> None:
    def score(index: int) -> Any:
        return type("Score", (), {"class_index": index, "class_name": f"class {index}"})

    ranked: Any = [score(7), score(3), score(5)]
    found = decision(ranked, {"five": 5, "three": 3, "one": 1})
    assert (found.best, found.best_of_set) == ("class 7", "three")
    assert decision(ranked, {"one": 1}).best_of_set == ""


def test_squares(tmp_path: Path) -> None:
    pixels = np.zeros((40, 60, 3), np.uint8)
    pixels[10:30, 20:40] = 255
    assert square(pixels, 0.5, 8).min() > 250
    whole = square(pixels, 1.0, 40)
    assert whole.shape == (40, 40, 3)
    assert np.array_equal(np.flatnonzero(whole[20, :, 0] > 127), np.arange(10, 30))
    Image.fromarray(pixels).save(tmp_path / "a.png")
    both = read([f"b={tmp_path / 'a.png'}", f"a={tmp_path / 'a.png'}"], "--content", 1.0)
    assert both.labels(["x", "a", "b"]) == [2, 1]
    assert [each.name for each in both.squares(4, ["b", "b"])] == ["b_a", "b_a_"]
