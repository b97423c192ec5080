"""`gradserve bias` against a real server: evidence in given masks and in its own, and bad input."""

import csv
import json
from collections.abc import Callable
from operator import itemgetter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from serving import shared
from sklearn.datasets import load_digits

from gradserve import Client
from gradserve.bias.masks import read_mask, seen
from gradserve.bias.run import Evidence, evidence_of
from gradserve.cli import main
from gradserve.messages.inputs import UnusablePicture
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
    white = Image.new("L", (9, 8), 255)
    white.putpixel((0, 0), 0)
    white.save(tmp_path / "masks/5.png")
    code, _, err = run("--data", digits, "--masks", tmp_path / "masks", "--model", "digits")
    assert code == 1
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


def test_a_damaged_mask_fails_its_picture_alone(run: Run, digits: Path, tmp_path: Path) -> None:
    (tmp_path / "masks/5.png").write_bytes(b"no picture")
    asked = "--data", digits, "--masks", tmp_path / "masks", "--model", "digits", "--method", "gradient"
    code, said, _ = run(*asked, "--worst", 2, "--json")
    result = json.loads(said)
    assert code == 1
    assert len(result["evidence"]) == 7
    assert list(result["failed"]) == ["5.png"]
    assert "cannot be read as a picture" in result["failed"]["5.png"]
    page, worst = (tmp_path / "bias-out/index.html").read_text(), sorted(result["evidence"], key=itemgetter("inside"))
    assert [each["id"] in page for each in worst] == [True, True, *[False] * 5]


def test_what_is_wrong_with_all_is_told_once(run: Run, digits: Path, tmp_path: Path) -> None:
    code, said, err = run("--data", digits, "--model", "digits", "--method", "grad_cam", "--param", "layer=nonsense")
    assert (code, said) == (1, "")
    assert err.count("nonsense") == 1
    assert not (tmp_path / "bias-out").exists()


def test_what_was_measured_before_an_error_is_reported(
    run: Run, digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = iter(range(3))

    def three(*arguments: object) -> Evidence:
        if next(measured, None) is None:
            raise KeyboardInterrupt
        return evidence_of(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr("gradserve.bias.run.evidence_of", three)
    asked = "--data", digits, "--masks", tmp_path / "masks", "--model", "digits", "--method", "gradient"
    assert run(*asked)[0] != 0
    result = json.loads((tmp_path / "bias-out/results.json").read_text())
    assert (result["pictures"], result["total"]) == (3, 8)


LEFT = np.repeat(np.array([[True] * 4 + [False] * 4]), 8, 0)
GREY = Image.fromarray(np.where(LEFT, np.uint8(255), np.uint8(0)))
COVERED = Image.new("RGBA", (8, 8), "white")
COVERED.putalpha(GREY)


def indexed(colour: list[int]) -> Image.Image:
    """A picture with the palette of black and this colour."""
    picture = Image.fromarray(LEFT.astype(np.uint8), "P")
    picture.putpalette([0, 0, 0, *colour])
    return picture


@pytest.mark.parametrize(
    "picture",
    [
        GREY,
        GREY.convert("1"),
        GREY.convert("RGB"),
        GREY.convert("RGBA"),
        indexed([255, 255, 255]),
        Image.fromarray(LEFT.astype(np.uint16) * np.uint16(65535)),
    ],
    ids=lambda picture: picture.mode,
)
def test_forms_of_masks(picture: Image.Image, tmp_path: Path) -> None:
    picture.save(tmp_path / "mask.png")
    assert np.array_equal(read_mask(tmp_path / "mask.png"), LEFT)


@pytest.mark.parametrize(
    ("picture", "told"),
    [
        (Image.fromarray(LEFT.astype(np.uint8)), "its largest value is 1, and white 255"),
        (Image.fromarray(LEFT.astype(np.uint16) * np.uint16(400)), "its largest value is 400, and white 65535"),
        (indexed([128, 0, 0]), "such as (128, 0, 0)"),
        (COVERED, "it is transparent in places"),
        (Image.new("L", (8, 8), 255), "is white everywhere"),
        (Image.new("RGB", (8, 8)), "its largest value is 0"),
    ],
)
def test_what_is_no_mask(picture: Image.Image, told: str, tmp_path: Path) -> None:
    picture.save(tmp_path / "mask.png")
    with pytest.raises(UnusablePicture) as refused:
        read_mask(tmp_path / "mask.png")
    assert told in str(refused.value)
    assert "mask.png" in str(refused.value)
