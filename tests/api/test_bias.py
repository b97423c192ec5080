"""`gradserve bias` against a real server: evidence in given masks and in its own, and bad input."""

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from serving import shared
from sklearn.datasets import load_digits

from gradserve import Client
from gradserve.bias.run import seen
from gradserve.cli import main
from gradserve.results.common import Region

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    monkeypatch.setenv("GRADSERVE_SERVER", shared().address)
    monkeypatch.setenv("COLUMNS", "300")
    monkeypatch.chdir(tmp_path)

    def call(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main(["bias", *map(str, arguments)])
        said = capsys.readouterr()
        return int(ended.value.code or 0), said.out, said.err

    return call


@pytest.fixture
def digits(tmp_path: Path) -> Path:
    """Eight digits of 8 px, whose masks are the left halves of the pictures."""
    folder, masks, found = tmp_path / "digits", tmp_path / "masks", load_digits()
    folder.mkdir()
    masks.mkdir()
    with (folder / "labels.csv").open("w") as lines:
        table = csv.writer(lines)
        table.writerow(["file", "class_index"])
        for i in range(8):
            Image.fromarray((found.images[i] * 255 / 16).astype(np.uint8)).save(folder / f"{i}.png")
            Image.fromarray(np.repeat([[255] * 4 + [0] * 4], 8, 0).astype(np.uint8)).save(masks / f"{i}.png")
            table.writerow([f"{i}.png", found.target[i]])
    return folder


def test_evidence_in_given_masks(run: Run, digits: Path, tmp_path: Path) -> None:
    asked = "--data", digits, "--masks", tmp_path / "masks", "--model", "digits", "--method", "gradient"
    code, said, _ = run(*asked, "--json")
    result = json.loads(said)
    assert code == 0
    assert result["area"] == 0.5
    assert result["pictures"] == len(result["evidence"]) == 8
    with Client(shared().address) as client:
        values = client.explain(digits / "3.png", "gradient", target=3, model="digits").map.astype(float)
    assert result["evidence"][3]["inside"] == pytest.approx(values[:, :4].sum() / values.sum(), rel=1e-4)
    assert [each["inside"] for each in result["classes"]] == sorted(each["inside"] for each in result["classes"])
    page = (tmp_path / "bias-out/index.html").read_text()
    assert page.index(min(result["evidence"], key=lambda each: each["inside"])["id"]) > 0
    assert json.loads((tmp_path / "bias-out/results.json").read_text()) == result
    assert run(*asked, "--min-inside", 0.01)[0] == 0
    code, _, err = run(*asked, "--min-inside", 0.99)
    assert code == 1
    assert "99.0% are asked for" in err


def test_evidence_in_masks_that_the_server_cuts_out(run: Run, digits: Path, tmp_path: Path) -> None:
    code, said, err = run("--data", digits, "--model", "digits", "--limit", 4)
    assert code == 0, err
    assert "of the evidence lies in the object" in said
    result = json.loads((tmp_path / "bias-out/results.json").read_text())
    assert result["pictures"] == 4
    assert "Give masks (--masks) before you judge" in (tmp_path / "bias-out/index.html").read_text()


def test_a_missing_mask(run: Run, digits: Path, tmp_path: Path) -> None:
    (tmp_path / "masks/5.png").unlink()
    code, _, err = run("--data", digits, "--masks", tmp_path / "masks", "--model", "digits")
    assert code == 2
    assert "1 of 8 pictures have no mask" in err


def test_a_mask_of_another_size(run: Run, digits: Path, tmp_path: Path) -> None:
    Image.new("L", (9, 8)).save(tmp_path / "masks/5.png")
    code, _, err = run("--data", digits, "--masks", tmp_path / "masks", "--model", "digits")
    assert code == 0
    assert "is 9x8, and the picture 8x8" in err


def test_pictures_without_labels(run: Run, digits: Path) -> None:
    (digits / "labels.csv").unlink()
    code, _, err = run("--data", digits, "--model", "digits")
    assert code == 2
    assert "has no labels" in err


def test_the_part_of_a_mask_that_the_model_saw() -> None:
    mask = np.zeros((40, 60), bool)
    mask[10:30, 20:40] = True
    region = Region(x=10, y=0, width=40, height=40, image_width=60, image_height=40)
    found = seen(mask, region, (20, 20))
    assert np.array_equal(np.flatnonzero(found.any(1)), np.arange(5, 15))
    assert np.array_equal(np.flatnonzero(found.any(0)), np.arange(5, 15))
    beyond = seen(np.ones((40, 60), bool), Region(-20, 0, 100, 40, 60, 40), (4, 10))
    assert np.array_equal(beyond.any(0), [False, False, *[True] * 6, False, False])
