"""`gradserve index` and `gradserve finetune`, run in this process, and what they write served by the engine."""

from pathlib import Path

import numpy as np
import pytest
import torch
from methods.influence.small import run
from PIL import Image

from gradserve_server.methods.influence import IndexedModel, InfluenceArguments, influence
from gradserve_server.methods.influence.index import Index
from gradserve_server.methods.influence.serving import attached
from gradserve_server.models.catalogue import read_catalogue
from gradserve_server.models.embedded.digits.data import parts, pixels
from gradserve_server.models.preparation import prepare
from gradserve_server.offline import finetune, index

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
