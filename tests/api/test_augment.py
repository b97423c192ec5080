"""`gradserve augment` against a real server: stylised copies with their labels, a killed run, bad input."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from serving import shared

from gradserve import Client
from gradserve.cli import main
from gradserve.datasets import open_dataset

Run = Callable[..., tuple[int, str, str]]
QUICK = "--model", "small", "--size", 24, "--steps", 2
# The command, also where the tests run in the background, so that processes begin with Ctrl-C ignored.
INTERRUPTIBLE = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
from gradserve.cli import main
main()
"""


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setenv("GRADSERVE_SERVER", shared().address)
    monkeypatch.setenv("COLUMNS", "300")

    def call(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main(["augment", *map(str, arguments)])
        said = capsys.readouterr()
        return int(ended.value.code or 0), said.out, said.err

    return call


@pytest.fixture
def animals(tmp_path: Path) -> Path:
    """Four pictures each of two classes, with two styles beside them."""
    random = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (tmp_path / "animals" / name).mkdir(parents=True)
        for i in range(4):
            pixels = random.integers(0, 256, (20, 30, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / "animals" / name / f"{i}.png")
    (tmp_path / "styles").mkdir()
    for name in ("waves", "dots"):
        Image.fromarray(random.integers(0, 256, (24, 24, 3), np.uint8)).save(tmp_path / f"styles/{name}.png")
    return tmp_path / "animals"


def copies(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*.png"))


def test_a_folder_is_copied_in_other_styles(run: Run, animals: Path, tmp_path: Path) -> None:
    asked = animals, "--style", tmp_path / "styles", "--copies", 2, *QUICK, "--out", tmp_path / "styled", "--json"
    code, said, err = run(*asked)
    assert code == 0, err
    assert json.loads(said)["done"] == 16
    found = open_dataset(tmp_path / "styled")
    assert found.classes == ("cat", "dog")
    assert [each.id for each in found] == [
        f"{name}/{i}-{style}.png" for name in ("cat", "dog") for i in range(4) for style in ("dots", "waves")
    ]
    with Client(shared().address) as client:
        style = tmp_path / "styles/waves.png"
        alone = client.stylize(animals / "dog/2.png", style, model="small", size=24, steps=2)
    made = np.asarray(Image.open(tmp_path / "styled/dog/2-waves.png").convert("RGB")).astype(int)
    assert made.shape == (16, 24, 3)
    assert np.abs(made - np.asarray(alone.image)).max() <= 2  # Of 255: rounding differs in company.
    assert json.loads(run(*asked)[1])["found"] == 16


def test_only_what_is_not_there_or_has_changed_is_made(run: Run, animals: Path, tmp_path: Path) -> None:
    out = tmp_path / "styled"
    asked = animals, "--style", tmp_path / "styles", *QUICK, "--out", out, "--json"
    assert json.loads(run(*asked)[1])["done"] == 8
    copies(out)[0].unlink()
    copies(out)[1].write_bytes(copies(out)[1].read_bytes()[:300])
    Image.new("RGB", (24, 20), "red").save(animals / "dog/3.png")
    report = json.loads(run(*asked)[1])
    assert (report["done"], report["found"]) == (3, 5)
    assert json.loads(run(*asked, "--restart")[1])["done"] == 8
    code, _, err = run(*asked, "--steps", 3)
    assert code == 2
    assert "steps was 2 and is 3" in err


def test_a_restart_leaves_no_copies_of_other_styles(run: Run, animals: Path, tmp_path: Path) -> None:
    out, (dots, waves) = tmp_path / "styled", sorted((tmp_path / "styles").iterdir())
    code, _, err = run(animals, "--style", dots, *QUICK, "--out", out)
    assert code == 0, err
    Image.new("RGB", (8, 8)).save(out / "cat/own.png")
    code, _, err = run(animals, "--style", waves, *QUICK, "--out", out, "--restart")
    assert code == 0, err
    names = {f"{i}-waves.png" for i in range(4)}
    assert {path.name for path in (out / "dog").iterdir()} == names
    assert {path.name for path in (out / "cat").iterdir()} == names | {"own.png"}


def test_a_killed_run_goes_on(run: Run, animals: Path, tmp_path: Path) -> None:
    out = tmp_path / "styled"
    asked = animals, "--style", tmp_path / "styles", "--model", "small", "--size", 64, "--steps", 30, "--out", out
    command = [sys.executable, "-m", "gradserve", "augment", *map(str, asked), "--concurrency", "1"]
    process = subprocess.Popen(command, env=os.environ, stderr=subprocess.DEVNULL)
    end = time.monotonic() + 120
    while len(copies(out)) < 2:
        assert time.monotonic() < end, "no copies came"
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = {path: path.stat().st_mtime_ns for path in copies(out)}
    for path in before:
        Image.open(path).load()
    code, said, _ = run(*asked, "--json")
    report = json.loads(said)
    assert (code, report["found"], report["done"]) == (0, len(before), 8 - len(before))
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert not list(out.rglob("*.part"))


def test_an_interrupted_run_ends_at_once(animals: Path, tmp_path: Path) -> None:
    settings = tmp_path / "styled/settings.json"
    asked = animals, "--style", tmp_path / "styles", "--model", "small", "--size", 256, "--steps", 4096
    command = [sys.executable, "-c", INTERRUPTIBLE, "augment", *map(str, asked), "--out", str(settings.parent)]
    environment = os.environ | {"GRADSERVE_SERVER": shared().address}
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    try:
        end = time.monotonic() + 120
        while not settings.is_file():
            assert time.monotonic() < end, "the run does not begin"
            time.sleep(0.01)
        time.sleep(1)  # Until calls are under way, each of which takes minutes.
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
        assert (process.returncode, said) == (130, "interrupted; the same command goes on from here\n")
    finally:
        process.kill()


def test_labels_of_a_list(run: Run, animals: Path, tmp_path: Path) -> None:
    (tmp_path / "listed").mkdir()
    with (tmp_path / "listed/labels.csv").open("w") as lines:
        table = csv.writer(lines)
        table.writerow(["file", "class_index", "class_name"])
        for i, name in enumerate(("cat", "dog")):
            shutil.copy(animals / name / "0.png", tmp_path / f"listed/{name}.png")
            table.writerow([f"{name}.png", 5 + i, name])
    code, _, err = run(
        tmp_path / "listed", "--style", tmp_path / "styles/dots.png", *QUICK, "--out", tmp_path / "styled"
    )
    assert code == 0, err
    found = open_dataset(tmp_path / "styled")
    assert [(each.id, each.label, each.class_name) for each in found] == [
        ("cat-dots.png", 5, "cat"),
        ("dog-dots.png", 6, "dog"),
    ]
    assert [dict(each.columns)["original"] for each in found] == ["cat.png", "dog.png"]


def test_a_damaged_picture_fails_alone(run: Run, animals: Path, tmp_path: Path) -> None:
    (animals / "cat/2.png").write_bytes(b"no picture")
    code, said, err = run(animals, "--style", tmp_path / "styles", *QUICK, "--out", tmp_path / "styled", "--json")
    report = json.loads(said)
    assert (code, report["done"], len(report["failed"])) == (1, 7, 1)
    assert "not a picture" in err


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        (["--copies", 3], "there are 2 styles"),
        (["--out", "{}/animals/styled"], "give one beside it"),
        (["--out", "{}"], "give one beside it"),
        (["--out", "{}/styles"], "no settings.json of such a run"),
        (["--param", "content_weight"], "write NAME=VALUE"),
        (["--param", "content_weight=-1"], "content_weight"),
        (["--model", "nosuch"], "nosuch"),
    ],
)
def test_bad_input(run: Run, animals: Path, tmp_path: Path, changed: list[object], told: str) -> None:
    options = ["--out", tmp_path / "styled", *(str(each).format(tmp_path) for each in changed)]
    code, _, err = run(animals, "--style", tmp_path / "styles", *QUICK, *options)
    assert code in (1, 2)
    assert told in err


def test_a_style_that_is_too_flat_is_named(run: Run, animals: Path, tmp_path: Path) -> None:
    Image.new("RGB", (240, 2)).save(tmp_path / "flat.png")
    code, _, err = run(animals, "--style", tmp_path / "flat.png", *QUICK, "--out", tmp_path / "styled")
    assert code == 1
    assert "styles[0].image" in err
    assert "this was cat/0-flat.png" in err


def test_a_folder_of_another_run(run: Run, animals: Path, tmp_path: Path) -> None:
    (tmp_path / "maps").mkdir()
    (tmp_path / "maps/settings.json").write_text('{"model": "small", "methods": ["gradient"]}')
    code, _, err = run(animals, "--style", tmp_path / "styles", *QUICK, "--out", tmp_path / "maps")
    assert code == 2
    assert "settings.json has no size, steps, weights_digest, styles, copies, seed. Give another --out" in err


def test_pictures_without_labels(run: Run, animals: Path, tmp_path: Path) -> None:
    code, _, err = run(animals / "cat", "--style", tmp_path / "styles", *QUICK, "--out", tmp_path / "styled")
    assert code == 2
    assert "has no labels" in err
