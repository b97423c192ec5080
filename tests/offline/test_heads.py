"""Indexes and fine-tuning of networks with other heads than plain logits."""

from pathlib import Path

import numpy as np
import pytest
import torch
from heads import network
from PIL import Image
from safetensors.torch import load_file
from zoo import CPU

from gradserve_server.methods.influence.index import Index
from gradserve_server.models.catalogue import ModelSpec, read_catalogue
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


ENTRY = f"""
[models.grey]
builder = "heads:network"
arguments = {{ outputs = 4, strength = 2.5, end = "nothing", channels = 1 }}
channels = 1
mean = [0.4]
std = [0.25]
{SIZE}
interpolation = "bicubic"
head = "softmax"
default_eps = 0.02
seed = 3
notes = ["of four things"]
precisions = ["exact", "balanced"]
auto = {{ maximize = "balanced" }}
rows = {{ exact = 3, balanced = 5 }}
"""


def test_a_new_entry_says_all_that_the_old_one_said(place: Path) -> None:
    """But for what is new: the weights with their labels and indexes, and notes on what the old ones knew."""
    (place / "grey.toml").write_text(ENTRY + "tokens = { leading = 1, trailing = 2 }\nload = false\n")
    (old,) = read_catalogue(place / "grey.toml")
    tried = set(ModelSpec.model_fields) - {"weights", "labels", "index", "pictures", "revision"}  # The last is of hubs.
    assert old.model_fields_set == tried, "or one is not tried"
    returned = finetune.write_model(network(2, channels=1), old, ["nine", "seven"], place / "written", "new")
    (new,) = read_catalogue(place / "written" / "model.toml")
    replaced = {"name", "weights", "labels", "index", "pictures", "notes"}
    for spec in (returned, new):
        assert spec.model_dump(exclude=replaced) == old.model_dump(exclude=replaced)
        assert (spec.name, spec.notes) == ("new", ())
        assert Path(spec.weights) == place / "written" / "weights.safetensors"


def test_a_tuned_model_that_needs_its_arguments_and_channels_is_served(place: Path) -> None:
    (place / "models.toml").write_text(MODELS + ENTRY)
    assert run(finetune, place, "grey", "grey", "--held-out", "0") == 0
    (spec,) = read_catalogue(place / "grey" / "model.toml")
    model = prepare(spec, CPU, fold=False)
    assert (model.card.classes, model.card.channels) == (("nine", "seven"), 1)
    images = torch.rand(2, 3, 32, 40, generator=torch.Generator().manual_seed(0))
    own = network(2, channels=1)
    own.load_state_dict(load_file(spec.weights))
    grey = (images * torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(1, keepdim=True)
    torch.testing.assert_close(model(images), own((grey - 0.4) / 0.25), rtol=1e-4, atol=1e-4)
