"""`gradserve index` and `gradserve finetune`, run in this process, and what they write served by the engine."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from methods.influence.small import run
from PIL import Image

from gradserve.datasets import open_dataset
from gradserve_server.methods.influence import IndexedModel, InfluenceArguments, influence
from gradserve_server.methods.influence.index import Index
from gradserve_server.methods.influence.serving import attached
from gradserve_server.models.catalogue import EMBEDDED, read_catalogue
from gradserve_server.models.embedded.digits.data import parts, pixels
from gradserve_server.models.preparation import prepare
from gradserve_server.offline import finetune, index
from gradserve_server.offline.examples import named_classes
from gradserve_server.offline.pictures import with_classes

CPU = torch.device("cpu")
NAMES = ("zero", "one", "two", "three")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Class folders of 40 digits each."""
    folder = tmp_path_factory.mktemp("data")
    x, _, y, _ = parts()
    for label, name in enumerate(NAMES):
        (folder / name).mkdir()
        for i, picture in enumerate(pixels(x[y == label])[:40]):
            Image.fromarray(picture).save(folder / name / f"{i:02d}.png")
    return folder


@pytest.fixture(scope="module")
def tuned(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("tuned") / "mine"
    options = ["--model", "digits", "--data", str(data), "--out", str(out), "--weight-decay", "0.01"]
    assert finetune.main([*options, "--held-out", "0.25", "--threads", "1"]) == 0
    return out


def test_a_fine_tuned_head_is_served_with_exact_influence(tuned: Path) -> None:
    (spec,) = read_catalogue(tuned / "model.toml")
    assert spec.name == "mine"
    model, plain = attached(spec, prepare(spec, CPU))
    assert model.card.classes == ("one", "three", "two", "zero")
    manifest = Index(tuned / "index").manifest
    assert (manifest.methods[0], manifest.head_exact, manifest.head_damping) == ("last_layer", True, 0.01)
    assert manifest.count == 120
    _, x, _, y = parts()
    tests = torch.from_numpy(pixels(x[y == 3])).permute(0, 3, 1, 2).float() / 255
    right = sum(int(model(image[None]).argmax()) == model.card.classes.index("three") for image in tests)
    assert right >= len(tests) - 1
    arguments = InfluenceArguments((IndexedModel("mine", model.card.index),), "last_layer", "loss", None, rank=1, top=3)
    found = run({"mine": model, **plain}, lambda job: influence(job, tests[:1], arguments))
    assert found.label == model.card.classes.index("three")
    names = [Index(tuned / "index").name(int(row)) for row in found.helpful]
    assert all(name.startswith("three/") for name in names)
    assert np.allclose(found.corrected, found.scores, rtol=0.5)


def test_an_older_index_is_replaced_and_other_weights_are_refused(
    tuned: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = ["--config", str(tuned / "model.toml"), "--model", "mine", "--threads", "1"]
    out = tuned / "again"
    for size in ("8", "4"):
        assert index.main([*config, "--data", str(data), "--out", str(out), "--size", size]) == 0
        assert Index(out).vectors.shape == (160, int(size))
    assert Index(out).name(0) == "one/00.png"
    text = capsys.readouterr().err
    assert "160 examples" in text
    (spec,) = read_catalogue(tuned / "model.toml")
    other = spec.model_copy(update={"weights": "random", "labels": None, "index": out})
    with pytest.raises(ValueError, match=r"is of (weights|other input)"):
        attached(other, prepare(other, CPU))


def test_all_weights(data: Path, tmp_path: Path) -> None:
    options = ["--model", "digits", "--data", str(data), "--out", str(tmp_path / "all"), "--name", "whole"]
    assert finetune.main([*options, "--all", "--epochs", "1", "--weight-decay", "1e-3", "--threads", "1"]) == 0
    manifest = Index(tmp_path / "all/index").manifest
    assert manifest.methods == ("projected", "last_layer", "neighbours")
    assert manifest.weight_decay == 1e-3
    assert read_catalogue(tmp_path / "all/model.toml")[0].name == "whole"


@pytest.mark.parametrize("kind", ["influence", "pictures"])
def test_what_is_no_index_is_never_replaced(
    kind: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photos, file, backup = tmp_path / "photos", tmp_path / "notes", tmp_path / "it.old"
    shutil.copytree(data, photos)
    file.write_text("mine")
    words = ["--kind", kind, "--model", "digits", "--threads", "1"]
    for out in (photos, file):
        assert index.main([*words, "--data", str(photos), "--out", str(out)]) == 1
        assert f"--out: {out} is there already, and is no index" in "".join(capsys.readouterr().err.split("\n"))
    assert len(list(photos.rglob("*.png"))) == 160
    assert file.read_text() == "mine"
    backup.mkdir()
    for _ in range(2):  # Into no folder, then in place of an index.
        assert index.main([*words, "--out", str(tmp_path / "it")]) == 0
    assert sorted(each.name for each in tmp_path.iterdir()) == ["it", "it.old", "notes", "photos"]


def test_classes_have_the_numbers_of_all_labels(tmp_path: Path) -> None:
    """Also where the set names fewer than its labels number."""
    pixels = np.zeros((5, 8, 8, 3), np.uint8)
    for name, labels in (("some", range(5)), ("huge", [0, 1, 2, 3, 3_000_000_000])):
        np.savez(tmp_path / f"{name}.npz", images=pixels, labels=np.array(labels), classes=np.array(["x", "y"]))
    dataset, classes = with_classes(open_dataset(tmp_path / "some.npz"), prepare(EMBEDDED["digits"], CPU).card)
    assert classes == ("x", "y", "2", "3", "4")
    assert [each.label for each in dataset] == [0, 1, 2, 3, 4]
    with pytest.raises(ValueError, match=r"labels number classes from 0, at most 1,000,000; there is 3000000000"):
        named_classes(open_dataset(tmp_path / "huge.npz"))


def test_a_name_that_is_not_utf8_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    (tmp_path / "a.png").rename(os.fsdecode(os.fsencode(tmp_path) + b"/\xe9.png"))
    assert index.main(["--kind", "pictures", "--model", "digits", "--data", str(tmp_path), "--out", "x"]) == 1
    assert r"the name of the file '\udce9.png' is not UTF-8; rename it" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("command", "arguments", "code", "says"),
    [
        (index, ["--model", "cifar10", "--out", "x"], 1, "--data is needed"),
        (index, ["--model", "cifar10", "--data", "nowhere", "--out", "x"], 1, "there is no nowhere"),
        (index, ["--model", "resnet99", "--data", "nowhere", "--out", "x"], 1, "nearest: resnet"),
        (index, ["--model", "digits"], 2, "Missing option"),
        (index, ["--model", "digits", "--out", "x", "--size", "0"], 2, "--size"),
        (finetune, ["--model", "squeezenet1_1=random", "--data", "DATA", "--out", "x"], 1, "does not end in a Linear"),
        (finetune, ["--model", "digits", "--data", "FLAT", "--out", "x"], 1, "has no labels"),
    ],
)
def test_what_is_wrong_is_said(
    command: object, arguments: list[str], code: int, says: str, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    places = {"DATA": str(data), "FLAT": str(data / "one")}
    assert command.main([places.get(word, word) for word in arguments]) == code
    assert says in " ".join(capsys.readouterr().err.split())
