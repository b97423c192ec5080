"""Which models a server serves, and what is said when it cannot."""

import re
from pathlib import Path

import pytest

from gradserve_server.models.catalogue import EMBEDDED, ModelSpec, read_catalogue
from gradserve_server.models.faults import check_builders, faults_of
from gradserve_server.models.flags import from_flag

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
    (EMBEDDED["cifar10"].builder, "random", False),
    (EMBEDDED["imagenet"].builder, "random", True),
    (EMBEDDED["imagenet"].builder, "DEFAULT", False),
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


TOKENS = "tokens must be { leading = N, trailing = N }"
WRONG = {
    'models = "resnet18"': "models must be tables",
    "[models]\nresnet18 = 3": "models must be tables",
    "[models": ": Expected ']' at the end of a table declaration",
    "[models.m]\nlables = 'a'": "unknown key lables; nearest: labels",
    "[models.m]\nheigth = 3": "unknown key heigth; nearest: height, ",
    "[models.m]\ntokens = { leadin = 3 }": "unknown key tokens.leadin; nearest: leading",
    "[models.m]\nheight = 0": "height must be greater than or equal to 1, was 0",
    "[models.m]\nheight = 'high'": "height must be a valid integer",
    "[models.m]\nmean = [0.5, 0.5]": "mean has 2 numbers for channels = 3",
    "[models.m]\nstd = []": "std must be a list, such as [0.5, 0.5, 0.5]",
    "[models.m]\nstd = 0.5": "std must be a list, such as [0.5, 0.5, 0.5]",
    "[models.m]\nmean = [124, 117, 104]": "pixels are in [0, 1]; divide mean and std by 255",
    "[models.m]\nstd = [58, 57, 57]": "pixels are in [0, 1]; divide mean and std by 255",
    "[models.m]\nstd = [0.2, 0, 0.2]": "std must be above 0",
    "[models.m]\nstd = [nan, 1, 1]": "must be a finite number",
    "[models.m]\nmean = [0.5]": "a network that takes grey pictures needs channels = 1",
    '[models.m]\nbuilder = "n:m"\nchannels = 1\nstd = [1, 1, 1]': "std has 3 numbers for channels = 1",
    '[models.m]\nbuilder = "n:m"\nchannels = 2': "channels must be 1 or 3, was 2",
    '[models.m]\nbuilder = "n:m"\narguments = { widths = [1, 2] }': "arguments.widths must be a number or text",
    "[models.m]\nchannels = 1": "channels = 1 is for timm:, hf: and a builder of your own",
    "[models.m]\ntokens = 3": TOKENS,
    "[models.m]\ntokens = { leading = 'one' }": TOKENS,
    "[models.m]\nlabels = 3": "labels must be the name of a file, or a list of names",
    '[models."a b"]\nheight = 3': "name may have letters, digits",
    "[models.m]\ndefault_eps = 8": "default_eps must be less than or equal to 1, was 8",
    '[models.m]\nprecisions = ["fast"]': 'must include "exact" (certificates need it); write ["exact", "fast"]',
    '[models.m]\nprecisions = ["exact"]\nrows = { fast = 3 }': 'must include "fast" (auto or rows have it); write',
    '[models.m]\nprecisions = "exact"': 'precisions must be a list, such as ["exact", "fast"]',
}


@pytest.mark.parametrize(("text", "says"), WRONG.items())
def test_wrong_tables(path: Path, text: str, says: str) -> None:
    path.write_text(text)
    with pytest.raises(ValueError, match=re.escape(says)) as caught:
        read_catalogue(path)
    (line,) = str(caught.value).splitlines()
    assert line.startswith(("catalogue.toml, [models.", f"{path}: "))
    assert len(line) < 200, "no dump of the whole table"


def test_all_that_is_wrong_has_a_line(path: Path) -> None:
    path.write_text("[models.m]\nstd = 3\nlables = 'a'\nheight = 0\n")
    with pytest.raises(ValueError, match=r"catalogue\.toml") as caught:
        read_catalogue(path)
    assert [line.split()[2] for line in str(caught.value).splitlines()] == ["height", "std", "unknown"]


FLAGS = [
    ("digits", EMBEDDED["digits"]),
    ("resnet18", ModelSpec(name="resnet18")),
    ("resnet18=random", ModelSpec(name="resnet18", weights="random")),
    ("mobilenet_v2=/a=b.pth", ModelSpec(name="mobilenet_v2", weights="/a=b.pth")),
]


@pytest.mark.parametrize(("flag", "spec"), FLAGS)
def test_flags(flag: str, spec: ModelSpec) -> None:
    assert from_flag(flag) == spec


def test_flags_that_are_no_names() -> None:
    own = "--model takes NAME, timm:NAME or hf:NAME_OR_FOLDER; a network of your own needs --config with [models.NAME] "
    own += 'and builder = "mynets:good"'
    for flag, says in (("mynets:good", own), ("a b=w.pth", "--model a b=w.pth: name may have letters")):
        with pytest.raises(ValueError, match=re.escape(says)):
            from_flag(flag)


HUB_FLAGS = {  # The name, builder, weights and revision of a flag; {here} is the folder that it is given in.
    "timm:resnet18": ("resnet18", "timm:resnet18", "DEFAULT", None),
    "timm:resnet18.a1_in1k=random": ("resnet18.a1_in1k", "timm:resnet18.a1_in1k", "random", None),
    "timm:resnet18@abc=w.pt": ("resnet18", "timm:resnet18", "w.pt", "abc"),
    "hf:owner/net@abc": ("net", "hf:owner/net", "DEFAULT", "abc"),
    "hf:./my_net/": ("my_net", "hf:{here}/my_net", "DEFAULT", None),
    "hf:my_net": ("my_net", "hf:{here}/my_net", "DEFAULT", None),
    "hf:my_net/..": ("here", "hf:{here}/my_net/..", "DEFAULT", None),
    "hf:/models/.ä b@c": ("b-c", "hf:/models/.ä b@c", "DEFAULT", None),
    "hf:": ("hf", "hf:", "DEFAULT", None),
    f"timm:{'x' * 99}": ("x" * 64, f"timm:{'x' * 99}", "DEFAULT", None),
}


@pytest.mark.parametrize("flag", HUB_FLAGS)
def test_networks_of_hubs_have_legal_names(flag: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = tmp_path / "here"
    (here / "my_net").mkdir(parents=True)
    monkeypatch.chdir(here)
    name, builder, weights, revision = HUB_FLAGS[flag]
    facts = {"name": name, "builder": builder.format(here=here), "weights": weights, "revision": revision}
    assert from_flag(flag) == ModelSpec.model_validate(facts)


def test_flags_of_hubs_that_cannot_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net").mkdir()
    wrong = {
        "hf:net@abc": "--model hf:net@abc: the folder net is here, and has no revisions; write hf:./net, or call",
        "timm:resnet18@": "--model timm:resnet18@: ",
        "timm:resnet18@a b": "--model timm:resnet18@a b: revision",
        "timm:create_model": 'needs --config with [models.NAME] and builder = "timm:create_model"',
    }
    for flag, says in wrong.items():
        with pytest.raises(ValueError, match=re.escape(says)):
            from_flag(flag)
    unpinned = faults_of([from_flag("hf:owner/other")])["other"]
    assert 'give revision = "COMMIT" (--model hf:owner/other@COMMIT), which its page shows' in unpinned


BUILDERS = [
    (ModelSpec(name="resnt18"), r"model resnt18: torchvision has no classifier 'resnt18'; nearest: .*resnet18"),
    (ModelSpec(name="digit"), "nearest: digits"),
    (
        ModelSpec(name="zzzzzzzz"),
        "no classifier 'zzzzzzzz'; for a builder of your own write package.module:function$",
    ),
    (
        ModelSpec(name="m", builder="no_such_package.nets:build"),
        "there is no module no_such_package; install it, or start with PYTHONPATH=FOLDER, the folder that no_such",
    ),
    (ModelSpec(name="m", builder="own_network:trunk"), "there is no module own_network; nearest: own_networks"),
    (
        ModelSpec(name="m", builder="own_networks.trunk"),
        "for a builder of your own write package.module:function, such as own_networks:trunk",
    ),
    (ModelSpec(name="m", builder="own_networks:"), "a builder of your own is package.module:function, and 'own_net"),
    (
        ModelSpec(name="m", builder="resnet18", weights="/nowhere/w.safetensors"),
        "no file of weights /nowhere/w.safetensors; ",
    ),
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
    where = "correct weights, which in a configuration file is relative to that file"
    knows = 'its builder knows no names but "random"'
    assert faults["file"] == f"no file of weights {tmp_path / 'w'}; {where}; {knows}"
    assert faults["folder"].startswith(f"{tmp_path} is a folder")
    assert faults["labels"].startswith(f"no file of labels {labels}; correct labels, which is relative to")
    assert "a builder of your own is package.module:function" in faults["package"]


def test_two_models_of_one_name() -> None:
    with pytest.raises(ValueError, match="model a: two models have the same name"):
        check_builders([ModelSpec(name="a"), ModelSpec(name="b"), ModelSpec(name="a")])


def test_good_builders_pass() -> None:
    own = ModelSpec(name="mine", builder="networks:linear", weights="random")
    check_builders([*EMBEDDED.values(), ModelSpec(name="vit_b_32"), ModelSpec(name="x", builder="resnet18"), own])
