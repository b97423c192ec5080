"""`gradserve explain FOLDER` and `gradserve replay` against a real server: a kill, changed pictures, bad input."""

import errno
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from serving import shared

from gradserve import Client
from gradserve.cli import main
from gradserve.folders.files import MapFolder
from gradserve.folders.run import FolderPlan, FolderRun

Run = Callable[..., tuple[int, str, str]]
METHODS = "--method", "smooth_grad", "--method", "grad_cam", "--param", "smooth_grad.samples=3"
TARGETS = "--target", "rank:1", "--target", "rank:2 - rank:1"


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setenv("GRADSERVE_SERVER", shared().address)
    monkeypatch.setenv("COLUMNS", "300")

    def call(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main(list(map(str, arguments)))
        said = capsys.readouterr()
        return int(ended.value.code or 0), said.out, said.err

    return call


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Twelve pictures, some of them in a folder of the folder."""
    folder, random = tmp_path / "photos", np.random.default_rng(0)
    (folder / "more").mkdir(parents=True)
    for i in range(12):
        pixels = random.integers(0, 256, (20, 24, 3), np.uint8)
        Image.fromarray(pixels).save(folder / ("more" if i % 3 else "") / f"{i:02}.png")
    (folder / ".hidden.png").write_bytes(b"not shown")
    return folder


def explained(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.npz"))


def test_a_folder_is_explained_and_replayed(run: Run, photos: Path) -> None:
    out = photos / "maps"  # Its overlays are no pictures of the folder.
    asked = "explain", photos, "--model", "digits", *METHODS, *TARGETS, "--out", out
    code, said, _ = run(*asked, "--json")
    assert code == 0
    assert json.loads(said)["done"] == 12
    names = sorted(path.relative_to(photos).as_posix() for path in photos.rglob("[01]?.png"))
    assert explained(out) == [f"{name}.npz" for name in names]
    page = (out / "index.html").read_text()
    assert all(name in page for name in names)
    shown = [part.partition('"')[0] for part in page.split('src="')[1:]]
    assert len(shown) == 12 * 4
    assert all((out / path).exists() for path in shown)
    code, said, err = run("replay", *(out / name for name in explained(out)), "--tolerance", 1e-5, "--json")
    assert code == 0, err
    maps = json.loads(said)["maps"]
    assert [each["method"] for each in maps[:4]] == ["smooth_grad", "smooth_grad", "grad_cam", "grad_cam"]
    assert len(maps) == 48
    with Client(shared().address) as client, np.load(out / "00.png.npz") as file:
        alone = client.explain(photos / "00.png", "smooth_grad", samples=3, model="digits")
        assert np.abs(file["maps"][0] - alone.map).max() <= 1e-5 * alone.map.max()


def test_only_what_has_no_maps_is_computed(run: Run, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "maps"
    asked = "explain", photos, "--model", "digits", "--method", "gradient", "--out", out, "--json"
    assert json.loads(run(*asked)[1])["done"] == 12
    (out / "00.png.npz").unlink()
    (out / "03.png.npz").write_bytes(b"cut off")
    Image.new("RGB", (24, 20), "red").save(photos / "more/01.png")
    report = json.loads(run(*asked)[1])
    assert (report["done"], report["found"]) == (3, 9)
    assert (json.loads(run(*asked)[1])["done"], json.loads(run(*asked, "--restart")[1])["done"]) == (0, 12)


def test_a_killed_run_goes_on(run: Run, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "maps"
    asked = "explain", photos, "--model", "digits", "--method", "smooth_grad", "--param", "samples=50", "--out", out
    command = [sys.executable, "-m", "gradserve", *map(str, asked), "--concurrency", "1"]
    process = subprocess.Popen(command, env=os.environ, stderr=subprocess.DEVNULL)
    end = time.monotonic() + 120
    while len(explained(out)) < 2:
        assert time.monotonic() < end, "no maps came"
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = {name: (out / name).stat().st_mtime_ns for name in explained(out)}
    code, said, _ = run(*asked, "--json")
    report = json.loads(said)
    assert (code, report["found"], report["done"]) == (0, len(before), 12 - len(before))
    assert all((out / name).stat().st_mtime_ns == then for name, then in before.items())
    assert len(explained(out)) == 12


def test_a_damaged_picture_does_not_stop_the_others(run: Run, photos: Path, tmp_path: Path) -> None:
    (photos / "more/99.png").write_bytes(b"no picture")
    code, said, err = run("explain", photos, "--model", "digits", "--method", "gradient", "--out", tmp_path / "maps")
    assert code == 1
    assert "12 of 13 pictures have maps" in said
    assert "more/99.png" in err
    assert "not a picture" in err
    assert "more/99.png" in (tmp_path / "maps/index.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--method", "grad_cam", "--param", "layer=nonsense"], "nonsense"),
        (["--model", "nonsense"], "nonsense"),
        (["--save-map", "x.npy"], "--save-map"),
        (["--out", "{file}"], "must be a folder"),
    ],
)
def test_what_is_wrong_with_all_is_told_once(
    arguments: list[str], told: str, run: Run, photos: Path, tmp_path: Path
) -> None:
    file = next(photos.rglob("[01]?.png"))
    given = [each.format(file=file) for each in arguments]
    model = [] if "--model" in given else ["--model", "digits"]
    out = [] if "--out" in given else ["--out", tmp_path / "maps"]
    code, _, err = run("explain", photos, *model, *out, *given)
    assert code in (1, 2)
    assert told in err
    assert not explained(tmp_path / "maps")


def test_a_folder_beside_files(run: Run, photos: Path) -> None:
    code, _, err = run("explain", photos, photos / "00.png", "--model", "digits")
    assert code == 2
    assert "give one folder, or files" in err


def test_maps_of_other_settings_are_not_mixed(run: Run, photos: Path, tmp_path: Path) -> None:
    asked = "explain", photos, "--model", "digits", "--method", "gradient", "--out", tmp_path / "maps"
    assert run(*asked)[0] == 0
    code, _, err = run(*asked, "--seed", 5)
    assert code == 2
    assert "options was" in err
    assert "--restart" in err
    assert run(*asked, "--priority", "interactive")[0] == 0


def test_an_empty_folder(run: Run, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    code, _, err = run("explain", tmp_path / "empty", "--out", tmp_path / "maps")
    assert code == 2
    assert "holds no pictures" in err


def test_a_saved_map_is_replayed(run: Run, photos: Path, tmp_path: Path) -> None:
    photo, path = photos / "00.png", tmp_path / "map.npz"
    with Client(shared().address) as client:
        client.explain(photo, "smooth_grad", samples=4, seed=3, target=7, model="digits").save(path)
        client.explain(photo, ["gradient", "grad_cam"], model="digits").save(tmp_path / "maps.npz")
    assert run("replay", path, "--photo", photo, "--tolerance", 1e-5)[0] == 0
    code, said, _ = run("replay", tmp_path / "maps.npz", "--photo", photo)
    assert code == 0
    assert said.count("agrees") == 2
    code, _, err = run("replay", path)
    assert code == 2
    assert "--photo" in err
    code, _, err = run("replay", path, "--photo", photos / "03.png")
    assert code == 2
    assert "is not the photo" in err


def test_a_map_that_differs(run: Run, photos: Path, tmp_path: Path) -> None:
    photo, path = photos / "00.png", tmp_path / "map.npz"
    with Client(shared().address) as client:
        client.explain(photo, "gradient", model="digits").save(path)
    with np.load(path) as file:
        arrays = dict(file)
    changed = json.loads(str(arrays["metadata"]))
    changed["provenance"]["weights_digest"] = "another"
    arrays["metadata"] = np.array(json.dumps(changed))
    arrays["map"] = arrays["map"] * np.float32(1.5)
    np.savez(path, **arrays)
    code, said, err = run("replay", path, "--photo", photo, "--json")
    assert code == 1
    [found] = json.loads(said)["maps"]
    assert found["difference"] == pytest.approx(1 / 3, rel=1e-4)
    assert found["correlation"] == pytest.approx(1)
    assert not found["agrees"]
    assert "weights_digest was another" in err


def test_a_file_that_is_none(run: Run, tmp_path: Path) -> None:
    (tmp_path / "x.npz").write_bytes(b"nothing")
    code, _, err = run("replay", tmp_path / "x.npz")
    assert code == 2
    assert "no .npz file of maps" in err


def test_files_that_cannot_be_replayed_do_not_stop_the_others(run: Run, photos: Path, tmp_path: Path) -> None:
    good, odd, moved = (tmp_path / f"{name}.npz" for name in ("good", "odd", "moved"))
    with Client(shared().address) as client:
        explanation = client.explain(photos / "00.png", "gradient", model="digits")
    for each in (good, odd, moved):
        explanation.save(each)
        picture = explanation.metadata()["picture"]
        rewrite(each, picture={**picture, "file": "gone.png" if each == moved else "photos/00.png"})
    rewrite(odd, request={"methods": "x"})
    code, said, err = run("replay", odd, moved, good)
    assert code == 2
    assert said.count("agrees") == 1
    assert f"{odd} is no .npz file of maps" in err
    assert f"photo {tmp_path / 'gone.png'} is not there; name it with --photo" in err
    rewrite(odd, provenance={})
    code, said, _ = run("replay", odd, "--json")
    assert code == 2
    assert list(json.loads(said)["failed"]) == [str(odd)]


def plan(photos: Path, out: Path, **arguments: object) -> FolderPlan:
    return FolderPlan(photos, out, ["gradient"], [], "digits", arguments)


def test_maps_of_a_restart_that_was_cut_off_are_of_two_settings(run: Run, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "maps"
    asked = "explain", photos, "--model", "digits", "--method", "gradient", "--out", out
    assert run(*asked)[0] == 0
    calls = iter([None, None, None, KeyboardInterrupt()])

    def cut_off(_: int) -> None:
        if error := next(calls):
            raise error

    with Client(shared().address) as client, pytest.raises(KeyboardInterrupt):
        FolderRun(client, plan(photos, out, seed=5), restart=True).explain(cut_off)
    settings = json.loads((out / "settings.json").read_text())
    with Client(shared().address) as client:
        again = FolderRun(client, plan(photos, out, seed=5))
        again.explain(lambda _: None)
    assert again.maps.path == out
    assert (again.report.found, again.report.done) == (3, 9)
    assert json.loads((out / "settings.json").read_text()) == settings
    assert {metadata_of(out / name)[0]["provenance"]["seed"] for name in explained(out)} == {5}


def metadata_of(path: Path) -> list[dict[str, Any]]:
    with np.load(path) as file:
        return list(json.loads(str(file["metadata"]))["explanations"])


def rewrite(path: Path, **changes: object) -> None:
    """Changes what a file of maps says of each of them."""
    with np.load(path) as file:
        arrays = dict(file)
    document = json.loads(str(arrays["metadata"]))
    for each in document.get("explanations", [document]):
        each.update(changes)
    np.savez(path, **{**arrays, "metadata": np.array(json.dumps(document))})


def test_stable_and_partial_maps(run: Run, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "maps"
    methods = "--method", "smooth_grad", "--method", "gradient", "--param", "smooth_grad.samples=200"
    asked = "explain", photos, "--model", "digits", *methods, "--until-stable", 1, "--out", out, "--json"
    assert json.loads(run(*asked)[1])["done"] == 12
    assert json.loads((out / "settings.json").read_text())["until_stable"] == 1
    entries = metadata_of(out / "00.png.npz")
    assert (entries[0]["asked"], entries[0]["warnings"]) == (200, [])
    assert entries[0]["done"] < 200
    assert run("replay", out / "00.png.npz", "--tolerance", 1e-5)[0] == 0
    rewrite(out / "00.png.npz", warnings=["TIME_UP: a partial answer"], completed_fraction=0.5)
    code, _, err = run("replay", out / "00.png.npz")
    assert code == 2
    assert "time ran out" in err
    assert json.loads(run(*asked)[1])["done"] == 1
    rewrite(out / "00.png.npz", overlay=None)
    assert json.loads(run(*asked)[1])["done"] == 1


def test_a_name_that_is_too_long_and_a_full_disk(
    run: Run, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = "x" * 246 + ".png"
    shutil.copy(photos / "00.png", photos / long)
    asked = "explain", photos, "--model", "digits", "--method", "gradient", "--out", tmp_path / "maps"
    code, said, err = run(*asked)
    assert code == 1
    assert "12 of 13 pictures have maps" in said
    assert "File name too long" in err

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("gradserve.folders.files.save_arrays", full)
    (photos / long).unlink()
    code, said, err = run(*asked, "--restart")
    assert (code, said) == (1, "")
    assert "No space left" in err


def test_objects_of_a_folder(run: Run, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "maps"
    asked = "explain", photos, "--model", "digits", "--method", "gradient", "--target", 1, "--target", 2, "--out", out
    assert run(*asked, "--segment")[0] == 0
    with np.load(out / "00.png.npz") as file, Client(shared().address) as client:
        alone = client.explain(photos / "00.png", "gradient", target=[1, 2], model="digits", segment=True)
        masks = alone.masks()
        assert masks is not None
        assert file["masks"].shape == file["maps"].shape == (2, 8, 8)
        assert np.array_equal(file["masks"], masks)


def test_a_refused_first_command_locks_no_folder(run: Run, photos: Path, tmp_path: Path) -> None:
    asked = "explain", photos, "--model", "digits", "--method", "grad_cam", "--out", tmp_path / "maps"
    assert run(*asked, "--param", "layer=nonsense")[0] == 1
    assert not (tmp_path / "maps/index.html").exists()
    assert run(*asked)[0] == 0


def test_the_page_shows_maps_of_the_present_pictures(run: Run, photos: Path, tmp_path: Path) -> None:
    asked = "explain", photos, "--model", "digits", "--method", "gradient", "--out", tmp_path / "maps"
    assert run(*asked)[0] == 0
    (photos / "00.png").write_bytes(b"no picture")
    assert run(*asked)[0] == 1
    page = (tmp_path / "maps/index.html").read_text()
    assert 'src="03.png' in page
    assert 'src="00.png' not in page


def test_the_page_is_written_after_ctrl_c(
    run: Run, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep = MapFolder.keep

    def two(maps: MapFolder, *arguments: Any) -> None:
        if len(explained(tmp_path / "maps")) == 2:
            raise KeyboardInterrupt
        keep(maps, *arguments)

    monkeypatch.setattr(MapFolder, "keep", two)
    code, said, _ = run("explain", photos, "--model", "digits", "--method", "gradient", "--out", tmp_path / "maps")
    assert code != 0
    assert said == ""
    assert "2 of 12 pictures" in (tmp_path / "maps/index.html").read_text()


@pytest.mark.parametrize("out", [".", ".."])
def test_a_folder_of_maps_that_holds_the_pictures(out: str, run: Run, photos: Path) -> None:
    code, _, err = run("explain", photos, "--model", "digits", "--out", photos / out)
    assert code == 2
    assert "is the folder of the pictures, or holds it" in err


def test_a_folder_that_cannot_be_read(run: Run, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scan = os.scandir

    def scandir(path: Any) -> Any:
        if Path(path) == photos / "more":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", scandir)
    code, said, err = run("explain", photos, "--model", "digits", "--method", "gradient", "--out", tmp_path / "maps")
    assert code == 1
    assert "4 of 4 pictures have maps" in said
    assert "more: " in err
    assert "Permission denied" in err


def test_settings_hold_no_bytes_of_pictures(run: Run, photos: Path, tmp_path: Path) -> None:
    asked = "explain", photos, "--model", "digits", "--method", "gradient", "--out", tmp_path / "maps"
    assert run(*asked, "--target", f"like:{photos / '00.png'}")[0] == 0
    [target] = json.loads((tmp_path / "maps/settings.json").read_text())["targets"]
    sha256 = hashlib.sha256((photos / "00.png").read_bytes()).hexdigest()
    assert target["similarity"]["image"]["encoded"] == {"sha256": sha256}
    code, _, err = run(*asked, "--target", f"like:{photos / '03.png'}")
    assert code == 2
    assert sha256 in err
