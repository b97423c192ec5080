"""Indexes and fine-tuning of networks with other heads than plain logits."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from zoo import CPU

from gradserve_server.methods.influence.index import Index
from gradserve_server.models.catalogue import read_catalogue
from gradserve_server.models.embedded.digits.data import parts, pixels
from gradserve_server.models.preparation import prepare
from gradserve_server.offline import finetune, index

SIZE = "height = 32\nwidth = 40\nresize = 40\n"
MODELS = f"""
[models.soft]
builder = "heads:sequential"
{SIZE}
[models.sure]
builder = "heads:sequential"
arguments = {{ outputs = 1, end = "Sigmoid" }}
labels = ["seven", "nine"]
{SIZE}
[models.many]
builder = "heads:sequential"
arguments = {{ outputs = 2, end = "Sigmoid" }}
labels = ["seven", "nine"]
{SIZE}
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A catalogue, and class folders of 30 digits each."""
    folder = tmp_path_factory.mktemp("heads")
    (folder / "models.toml").write_text(MODELS)
    x, _, y, _ = parts()
    for label, name in ((7, "seven"), (9, "nine")):
        (folder / "data" / name).mkdir(parents=True)
        for i, picture in enumerate(pixels(x[y == label])[:30]):
            Image.fromarray(picture).save(folder / "data" / name / f"{i:02d}.png")
    return folder


def run(command: object, place: Path, model: str, out: str, *options: str) -> int:
    paths = ["--config", place / "models.toml", "--data", place / "data", "--out", place / out]
    return command.main(["--model", model, *map(str, paths), "--threads", "1", *options])  # type: ignore[attr-defined]


def test_a_softmax_at_the_end_stays_behind_a_new_last_layer(place: Path) -> None:
    """The new regression is of the scores before it, and so are the served logits and the index."""
    assert run(finetune, place, "soft", "tuned", "--held-out", "0") == 0
    (spec,) = read_catalogue(place / "tuned" / "model.toml")
    model = prepare(spec, CPU, fold=False)
    assert any("it ends in a softmax" in note for note in model.card.notes)
    images = torch.rand(2, 3, 32, 40, generator=torch.Generator().manual_seed(0))
    network = model.network
    close = torch.testing.assert_close
    close(model(images), network[0](model.normalised(images)))
    close(model(images).softmax(1), network(model.normalised(images)))
    manifest = Index(place / "tuned" / "index").manifest
    assert (manifest.methods[0], manifest.head_exact) == ("last_layer", True)
    assert manifest.feature_layer == "0.head"


def test_an_index_of_a_binary_model_knows_both_classes(place: Path) -> None:
    assert run(index, place, "sure", "index", "--weight-decay", "1e-3") == 0
    columns = Index(place / "index").columns
    assert np.bincount(columns["label"]).tolist() == [30, 30]
    assert Index(place / "index").manifest.classes == 2
    sign = np.where(columns["predicted"] == columns["label"], 1, -1)
    assert (np.sign(columns["margin"]) == sign).all()
    assert columns["loss"] == pytest.approx(np.log1p(np.exp(-columns["margin"])), rel=1e-4)


@pytest.mark.parametrize(
    ("command", "model", "says"),
    [
        (index, "many", "many has independent labels"),
        (finetune, "many", "many has the head multilabel, and fine-tuning trains classes that exclude each other"),
        (finetune, "sure", "sure has the head binary, and fine-tuning trains classes that exclude each other"),
    ],
)
def test_what_makes_no_sense_is_refused(
    command: object, model: str, says: str, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(command, place, model, "nowhere") == 1
    assert says in " ".join(capsys.readouterr().err.split())
