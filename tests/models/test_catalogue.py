"""Which models a server serves, and what is said when it cannot."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from gradserve_server.models.catalogue import EMBEDDED, ModelSpec, check_builders, faults_of, from_flag, read_catalogue

CATALOGUE = """
[models.photos]
builder = "mobilenet_v2"
weights = "weights/mobile.safetensors"
labels = "labels.txt"
default_eps = 0.01

[models.mine]
builder = "networks:linear"
weights = "random"
height = 8
width = 12
mean = [0.5, 0.5, 0.5]
std = [0.25, 0.25, 0.25]
labels = ["a", "b", "c", "d", "e"]
seed = 3

[models.digits]
default_eps = 0.2

[models.resnet18]
weights = "IMAGENET1K_V1"
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "catalogue.toml"


def test_tables(path: Path) -> None:
    path.write_text(CATALOGUE)
    photos, mine, digits, resnet = read_catalogue(path)
    assert (photos.name, photos.source, photos.default_eps) == ("photos", "mobilenet_v2", 0.01)
    assert photos.weights == str(path.parent / "weights/mobile.safetensors")
    assert photos.labels == path.parent / "labels.txt"
    assert (mine.height, mine.width, mine.mean, mine.std) == (8, 12, (0.5,) * 3, (0.25,) * 3)
    assert mine.labels == ("a", "b", "c", "d", "e")
    assert (mine.weights, mine.seed) == ("random", 3)
    assert digits == EMBEDDED["digits"].model_copy(update={"default_eps": 0.2})
    assert (resnet.source, resnet.weights) == ("resnet18", "IMAGENET1K_V1")


def test_absolute_paths_stay(path: Path) -> None:
    path.write_text('[models.m]\nweights = "/models/m.pth"\nlabels = "/models/m.txt"\n')
    (spec,) = read_catalogue(path)
    assert (spec.weights, spec.labels) == ("/models/m.pth", Path("/models/m.txt"))


PATHS = [
    ("networks:linear", "w", True),
    ("networks:linear", "w.bin", True),
    ("networks:linear", "folder/w.pth.tar", True),
    ("networks:linear", "IMAGENET1K_V1", True),
    ("networks:linear", "random", False),
    ("networks:linear", "DEFAULT", False),
    ("resnet18", "w.ckpt", True),
    ("resnet18", "w", True),
    ("resnet18", "IMAGENET1K_V1", False),
    ("resnet18", "random", False),
    ("no_such_network", "w", True),
]


@pytest.mark.parametrize(("builder", "weights", "is_file"), PATHS)
def test_what_is_no_name_is_a_path_beside_the_catalogue(path: Path, builder: str, weights: str, is_file: bool) -> None:
    path.write_text(f'[models.m]\nbuilder = "{builder}"\nweights = "{weights}"\n')
    (spec,) = read_catalogue(path)
    assert spec.weights == (str(path.parent / weights) if is_file else weights)


def test_one_channel_needs_one_number(path: Path) -> None:
    path.write_text('[models.m]\nbuilder = "n:m"\nchannels = 1\nmean = [0.5]\nstd = [0.25]\n')
    (spec,) = read_catalogue(path)
    assert (spec.channels, spec.mean, spec.std) == (1, (0.5,), (0.25,))


WRONG = {
    'models = "resnet18"': (ValueError, "models must be tables"),
    "[models": (ValueError, "at the end of a table declaration"),
    "[models.m]\nheigth = 3": (ValidationError, "heigth"),
    "[models.m]\nheight = 0": (ValidationError, "height"),
    "[models.m]\nmean = [0.5, 0.5]": (ValidationError, "mean has 2 numbers for channels = 3"),
    "[models.m]\nstd = []": (ValidationError, "std"),
    "[models.m]\nmean = [124, 117, 104]": (ValidationError, r"pixels are in \[0, 1\]; divide mean and std by 255"),
    "[models.m]\nstd = [58, 57, 57]": (ValidationError, r"pixels are in \[0, 1\]; divide mean and std by 255"),
    "[models.m]\nstd = [0.2, 0, 0.2]": (ValidationError, "std must be above 0"),
    "[models.m]\nstd = [nan, 1, 1]": (ValidationError, "finite"),
    "[models.m]\nmean = [0.5]": (ValidationError, "mean has 1 numbers for channels = 3 .*needs channels = 1"),
    '[models.m]\nbuilder = "n:m"\nchannels = 1\nstd = [1, 1, 1]': (
        ValidationError,
        "std has 3 numbers for channels = 1",
    ),
    '[models.m]\nbuilder = "n:m"\nchannels = 2': (ValidationError, "channels"),
    "[models.m]\nchannels = 1": (ValidationError, "channels = 1 is for a builder of your own"),
    '[models."a b"]\nheight = 3': (ValidationError, "name"),
    "[models.m]\ndefault_eps = 8": (ValidationError, "default_eps"),
}


@pytest.mark.parametrize(("text", "error", "says"), [(text, *wrong) for text, wrong in WRONG.items()])
def test_wrong_tables(path: Path, text: str, error: type[Exception], says: str) -> None:
    path.write_text(text)
    with pytest.raises(error, match=says):
        read_catalogue(path)


FLAGS = [
    ("digits", EMBEDDED["digits"]),
    ("resnet18", ModelSpec(name="resnet18")),
    ("resnet18=random", ModelSpec(name="resnet18", weights="random")),
    ("mobilenet_v2=/a=b.pth", ModelSpec(name="mobilenet_v2", weights="/a=b.pth")),
]


@pytest.mark.parametrize(("flag", "spec"), FLAGS)
def test_flags(flag: str, spec: ModelSpec) -> None:
    assert from_flag(flag) == spec


BUILDERS = [
    (ModelSpec(name="resnt18"), r"model resnt18: torchvision has no classifier 'resnt18'; nearest: .*resnet18"),
    (ModelSpec(name="digit"), "nearest: digits"),
    (ModelSpec(name="zzzzzzzz"), "torchvision has no classifier 'zzzzzzzz'$"),
    (ModelSpec(name="m", builder="no_such_package.nets:build"), "no package 'no_such_package'"),
    (ModelSpec(name="m", builder="resnet18", weights="/nowhere/w.safetensors"), "no such file: /nowhere/w.safetensors"),
    (ModelSpec(name="m", builder="fasterrcnn_resnet50_fpn"), "torchvision has no classifier 'fasterrcnn_resnet50_fpn'"),
]


@pytest.mark.parametrize(("spec", "says"), BUILDERS)
def test_builders_are_checked_before_anything_starts(spec: ModelSpec, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        check_builders([ModelSpec(name="alexnet"), spec])


def test_every_fault_is_found(tmp_path: Path) -> None:
    own, labels = {"builder": "networks:linear"}, tmp_path / "none.txt"
    specs = [
        ModelSpec(name="alexnet"),
        ModelSpec(name="builder", builder="resnt18"),
        ModelSpec(name="file", builder="networks:linear", weights=str(tmp_path / "w")),
        ModelSpec(name="folder", builder="networks:linear", weights=str(tmp_path)),
        ModelSpec(name="labels", builder="networks:linear", labels=labels),
        ModelSpec(name="package", builder=":linear"),
        ModelSpec(name="twice"),
        ModelSpec.model_validate({"name": "twice", **own}),
    ]
    faults = faults_of(specs)
    assert list(faults) == ["twice", "builder", "file", "folder", "labels", "package"]
    assert "nearest: resnet18" in faults["builder"]
    assert faults["file"].startswith(f"no such file: {tmp_path / 'w'} (weights may be a file, or one of: ")
    assert faults["folder"].startswith(f"{tmp_path} is a folder")
    assert faults["labels"] == f"no such file of labels: {labels}"
    assert "no package ''" in faults["package"]


def test_two_models_of_one_name() -> None:
    with pytest.raises(ValueError, match="model a: two models have the same name"):
        check_builders([ModelSpec(name="a"), ModelSpec(name="b"), ModelSpec(name="a")])


def test_good_builders_pass() -> None:
    own = ModelSpec(name="mine", builder="networks:linear", weights="random")
    check_builders([*EMBEDDED.values(), ModelSpec(name="vit_b_32"), ModelSpec(name="x", builder="resnet18"), own])
