"""Weights from files and from nowhere, labels, input transforms, and what is said when something does not fit."""

import inspect
import re
from pathlib import Path

import numpy as np
import own_networks
import pytest
import torch
from networks import googlenet_with_transform, linear
from PIL import Image
from safetensors.torch import save_file
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torchvision.models import GoogLeNet_Weights, squeezenet1_1
from zoo import CPU, normalised, off

from gradserve_server.models.card import Framing
from gradserve_server.models.catalogue import EMBEDDED, ModelSpec
from gradserve_server.models.channels import grey
from gradserve_server.models.digest import digest
from gradserve_server.models.embedded.digits.data import parts, split
from gradserve_server.models.loading import LoadError, load
from gradserve_server.models.preparation import prepare
from gradserve_server.models.wrappers import WRAPPERS

LINEAR = {"builder": "networks:linear", "height": 8, "width": 12}


@pytest.fixture(scope="module")
def network() -> nn.Module:
    torch.manual_seed(1)
    return linear().eval()


def spec(name: str = "mine", **facts: object) -> ModelSpec:
    return ModelSpec.model_validate({"name": name, **LINEAR, **facts})


def logits(network: nn.Module, images: Tensor) -> Tensor:
    return network(normalised(images))


def test_safetensors(network: nn.Module, tmp_path: Path) -> None:
    save_file(network.state_dict(), tmp_path / "w.safetensors")
    model = prepare(spec(weights=str(tmp_path / "w.safetensors")), CPU)
    images = torch.rand(2, 3, 8, 12)
    assert off(model(images), logits(network, images)) < 1e-6
    assert model.card.digest == digest(network)
    assert model.card.builder == "networks:linear"
    assert model.card.classes == tuple(f"class {i}" for i in range(5))


def test_torchvision_weights_from_a_file_bring_its_metadata(tmp_path: Path) -> None:
    network = squeezenet1_1(weights=None).eval()
    save_file(network.state_dict(), tmp_path / "w.safetensors")
    source = load(ModelSpec(name="s", builder="squeezenet1_1", weights=str(tmp_path / "w.safetensors")))
    assert source.digest == digest(network)
    assert (source.height, source.width, source.resize) == (224, 224, Framing(256, 256))
    assert source.interpolation == "bilinear"
    assert source.mean == (0.485, 0.456, 0.406)
    assert source.labels[1] == "goldfish"


def test_random_weights_follow_the_seed() -> None:
    first, same, other = (load(spec(weights="random", seed=seed)).digest for seed in (1, 1, 2))
    assert first == same != other


def test_the_digest_is_of_all_that_extra_state_holds() -> None:
    """torch's text of a large tensor leaves its middle out."""
    digests = [load(spec(builder="rare_kinds:with_extra_state", arguments={"middle": x})).digest for x in (0, 1, 0)]
    assert digests[0] == digests[2] != digests[1]


def test_a_module_that_uses_random_numbers_when_it_is_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that is started again may import it first for another model."""
    text = "import torch\ntable = torch.rand(9)\ndef build():\n    return torch.nn.Linear(3, 5)\n"
    (tmp_path / "random_at_import.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    first, second = (load(spec(builder="random_at_import:build")).digest for _ in range(2))
    assert first == second


def broken(folder: Path) -> str:
    (folder / "w.safetensors").write_bytes(b"not weights at all, for certain")
    return str(folder / "w.safetensors")


def line_of(builder: str) -> int:
    """The first line of what that builder does."""
    return int(inspect.getsourcelines(getattr(own_networks, builder))[1]) + 1


FAULTS = {
    "damaged": lambda p: (spec(weights=broken(p)), r"model mine: .*w.safetensors is cut off or damaged; copy it again"),
    "without a file": lambda p: (
        spec(weights=str(p / "none.pth")),
        r"model mine: no file of weights .*none.pth; correct",
    ),
    "of an unknown name": lambda p: (
        ModelSpec(name="r", builder="resnet18", weights="IMAGENET1K_V7"),
        r'model r: no file of weights IMAGENET1K_V7; .*; names that it may be: "random", .*"IMAGENET1K_V1"$',
    ),
    "of a misspelt name": lambda p: (
        spec(weights="Random"),
        r'model mine: no file of weights Random; correct weights, .*; its builder knows no names but "random"$',
    ),
    "of no function": lambda p: (
        spec(builder="own_networks:trunc"),
        r"^model mine: own_networks has no function trunc; nearest: trunk",
    ),
    "of a network": lambda p: (
        spec(builder="own_networks:instance"),
        r"own_networks:instance is a network, not a function that returns one; name a function",
    ),
    "of numbers": lambda p: (
        spec(builder="own_networks:SIZES"),
        r"own_networks:SIZES is of type tuple, not a function that returns a network; correct builder$",
    ),
    "of no module": lambda p: (
        spec(builder="networks.deep:nothing"),
        r"^model mine: there is no module networks.deep: No module named",
    ),
    "of a module at fault": lambda p: (
        spec(builder="at_fault:build"),
        r"^model mine: importing at_fault failed at at_fault.py:3: SyntaxError: ",
    ),
    "of no network": lambda p: (
        spec(builder="networks:not_a_network"),
        "networks:not_a_network returned a Tensor; it must return a torch.nn.Module$",
    ),
    "of a tuple": lambda p: (
        spec(builder="own_networks:returns_a_tuple"),
        "^model mine: its builder own_networks:returns_a_tuple returned a tuple; it must return the network alone$",
    ),
    "of nothing": lambda p: (spec(builder="own_networks:returns_nothing"), "returned None; it must return"),
    "of a class": lambda p: (spec(builder="own_networks:returns_its_class"), "returned the class Trunk; it must"),
    "of lazy layers": lambda p: (
        spec(builder="own_networks:lazy"),
        "it has Lazy layers without a size; let the builder run it once on zeros before returning it$",
    ),
    "with other arguments": lambda p: (
        spec(builder="own_networks:takes_classes", arguments={"clases": 7}),
        r"own_networks:takes_classes takes \(classes: int\): .*classes.*; correct arguments = \{ clases = 7 \}$",
    ),
    "without its arguments": lambda p: (
        spec(builder="own_networks:takes_classes"),
        r"missing a required argument: 'classes'; correct arguments = \{ \.\.\. \}$",
    ),
    "that imports what is not there": lambda p: (
        spec(builder="own_networks:imports_nothing"),
        r"^model mine: its builder own_networks:imports_nothing failed at own_networks.py:\d+: ModuleNotFoundError: No",
    ),
    "that fails": lambda p: (
        spec(builder="own_networks:raises"),
        r"^model mine: its builder own_networks:raises failed at own_networks.py:\d+: LookupError: no such recipe: s",
    ),
    "that fails in torch": lambda p: (
        spec(builder="own_networks:raises_deep", weights=broken(p)),
        rf"raises_deep failed at own_networks.py:{line_of('raises_deep')}: TypeError: ",
    ),
    "that leaves": lambda p: (
        spec(builder="own_networks:leaves"),
        r"leaves failed at own_networks.py:\d+: SystemExit: 3",
    ),
    "scripted": lambda p: (
        spec(builder="own_networks:scripted"),
        "mine: the network is a TorchScript module",
    ),
    "traced": lambda p: (spec(builder="own_networks:traced"), "mine: the network is a TorchScript module"),
    "scripted inside": lambda p: (
        spec(builder="own_networks:scripted_inside"),
        r"model mine: its layer net is a TorchScript module .* let the builder return the torch.nn.Module",
    ),
    "with a hook on a wrapper": lambda p: (
        spec(builder="own_networks:parallel_with_hook"),
        r"model mine: its DataParallel has hooks of its own; put them on the network inside",
    ),
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_what_does_not_fit_is_said(fault: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "at_fault.py").write_text("import torch\n\ndef build(:\n")
    monkeypatch.syspath_prepend(tmp_path)
    wrong, says = fault(tmp_path)  # type: ignore[operator]
    with pytest.raises(LoadError, match=re.compile(says, re.DOTALL)):
        load(wrong)


def test_labels(tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text("ant\n bee \n\ncat\ndog\neel\n")
    assert prepare(spec(labels=tmp_path / "labels.txt"), CPU).card.classes == ("ant", "bee", "cat", "dog", "eel")
    assert prepare(spec(labels=tuple("vwxyz")), CPU).card.classes == tuple("vwxyz")
    for few in ("a\nb\n", "a\nb\nc\nd\ne\nf\n"):
        (tmp_path / "few.txt").write_text(few)
        says = rf"few.txt has {len(few) // 2} labels, but the network has 5 classes; give a line for each, in the order"
        with pytest.raises(LoadError, match=f"model mine: {says}"):
            prepare(spec(labels=tmp_path / "few.txt"), CPU)
    with pytest.raises(LoadError, match="model mine: its entry has 3 labels, but the network has 5 classes"):
        prepare(spec(labels=("a", "b", "c")), CPU)
    (tmp_path / "empty.txt").write_text("\n")
    (tmp_path / "picture.txt").write_bytes(b"\xff\xd8\xff")
    for name, says in (("empty", "are empty; give one label a line"), ("picture", "are no text in UTF-8")):
        with pytest.raises(LoadError, match=rf"model mine: its labels, .*{name}.txt, {says}"):
            load(spec(labels=tmp_path / f"{name}.txt"))
    with pytest.raises(LoadError, match=r"model mine: .*nowhere.txt"):
        load(spec(labels=tmp_path / "nowhere.txt"))


def test_what_the_entry_left_to_be_assumed_is_noted(tmp_path: Path) -> None:
    made = "its weights are those that the builder made"
    own = {"mean": (0.5,) * 3, "std": (0.5,) * 3}
    assert load(spec()).notes == ("mean and std are not given: ImageNet's are used", made)
    assert load(spec(mean=(0.5,) * 3, weights="random")).notes == ("std is not given: ImageNet's is used",)
    assert load(spec(**own)).notes == (made,)
    assert "mean and std are not given: 0 and 1 are used" in load(spec(channels=1)).notes
    torch.save(linear().state_dict(), tmp_path / "w.pth")
    assert not load(spec(**own, weights=str(tmp_path / "w.pth"))).notes


COLOURS = {"ImageNet's": {}, "their own": {"mean": (0.4, 0.5, 0.6), "std": (0.2, 0.25, 0.3)}}


@pytest.mark.parametrize("colours", COLOURS.values(), ids=COLOURS)
@pytest.mark.parametrize("builder", ["googlenet", "networks:googlenet_with_transform"])
def test_googlenets_input_transform(
    builder: str, colours: dict[str, tuple[float, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """torchvision's own becomes a normalisation, with its auxiliary heads gone; one's own stays as it is."""
    torch.manual_seed(5)
    network = googlenet_with_transform().eval()
    monkeypatch.setattr(GoogLeNet_Weights, "get_state_dict", lambda *_, **__: network.state_dict())
    facts = {"name": "g", "builder": builder, "height": 64, "width": 64, "seed": 5}
    model = prepare(ModelSpec.model_validate({**facts, **colours}), CPU, torch.float64)
    assert any("aux" in name for name, _ in model.network.named_modules()) == (builder != "googlenet")
    assert model.network.transform_input == (builder != "googlenet")
    network.double()
    images = torch.rand(2, 3, 64, 64, dtype=torch.float64, requires_grad=True)
    mean, std = (torch.tensor(v, dtype=torch.float64).view(3, 1, 1) for v in colours.values() or ([0] * 3, [1] * 3))
    own = network((images - mean) / std if colours else normalised(images))
    gradients = [torch.autograd.grad(out[:, 3].sum(), images)[0] for out in (model(images), own)]
    assert off(*gradients) < 1e-9


OWN = ["aux_used", "transform_input", "cosine_head", "hooked_head", "tied", "head_of_two_names"]
WRAPPED = ["compiled", "compiled_inside", "compiled_in_place", "compiled_forward"]
WRAPPED += ["parallel", "parallel_inside", "averaged"]


@pytest.mark.parametrize("from_file", [False, True])
@pytest.mark.parametrize("builder", [*OWN, *WRAPPED])
def test_networks_of_ones_own_are_served_as_they_are(builder: str, from_file: bool, tmp_path: Path) -> None:
    torch.manual_seed(6)
    network = getattr(own_networks, builder)()
    facts: dict[str, object] = {"builder": f"own_networks:{builder}", "height": 16, "width": 16, "seed": 6}
    if from_file:
        torch.save(network.state_dict(), tmp_path / "w.pth")
        facts |= {"weights": str(tmp_path / "w.pth"), "seed": 7}
    model = prepare(spec(**facts), CPU)
    images = torch.rand(2, 3, 16, 16)
    assert off(model(images), logits(network, images)) < 1e-5
    wrappers = [type(m).__name__ for m in model.network.modules() if type(m) in WRAPPERS or m._compiled_call_impl]
    assert not wrappers


def test_a_compiled_network_takes_the_file_of_the_plain_one(tmp_path: Path) -> None:
    network = own_networks.trunk()
    for builder, file in (("compiled", network), ("compiled_inside", own_networks.Inside("net", network))):
        torch.save(file.state_dict(), tmp_path / "w.pth")
        facts = {"builder": f"own_networks:{builder}", "weights": str(tmp_path / "w.pth")}
        assert load(spec(**facts)).digest == digest(file)


GREY = {"builder": "own_networks:one_channel", "height": 16, "width": 16, "seed": 8}


@pytest.mark.parametrize("colours", [{}, {"mean": (0.3,), "std": (0.2,)}], ids=["as they are", "normalised"])
def test_one_channel(colours: dict[str, tuple[float]]) -> None:
    model = prepare(spec(**GREY, channels=1, **colours), CPU, torch.float64)
    torch.manual_seed(8)
    network = own_networks.one_channel().double()
    images = torch.rand(3, 3, 16, 16, dtype=torch.float64, requires_grad=True)
    grey = torch.einsum("nchw,c->nhw", images, torch.tensor([0.299, 0.587, 0.114], dtype=torch.float64))[:, None]
    outs = model(images), network((grey - 0.3) / 0.2 if colours else grey)
    assert off(*outs) < 1e-9
    assert off(*(torch.autograd.grad(out[:, 3].sum(), images)[0] for out in outs)) < 1e-9
    assert model.card.channels == 1
    assert any("grey" in note for note in model.card.notes)


def test_one_channel_in_all_precisions() -> None:
    exact = prepare(spec(**GREY, channels=1, mean=(0.3,), std=(0.2,), precisions=("exact", "balanced", "fast")), CPU)
    images = torch.rand(3, 3, 16, 16, requires_grad=True)
    for precision, bound in (("balanced", 0.05), ("fast", 0.1)):
        outs = exact.at(precision)(images), exact(images)
        assert off(*outs) < bound
        assert off(*(torch.autograd.grad(out[:, 3].sum(), images)[0] for out in outs)) < bound


def test_grey_is_that_of_pil() -> None:
    pixels = torch.randint(0, 256, (16, 16, 3), dtype=torch.uint8)
    pil = torch.from_numpy(np.array(Image.fromarray(pixels.numpy()).convert("L")))
    ours = grey(pixels.permute(2, 0, 1)[None] / 255) * 255
    assert (ours[0, 0] - pil).abs().max() <= 0.51


def test_another_number_of_channels_is_said() -> None:
    with pytest.raises(LoadError, match=r"model mine: its network takes pictures of one channel.* channels = 1"):
        prepare(spec(**GREY), CPU)
    with pytest.raises(LoadError, match=r"model mine: its network takes pictures of three channels: leave channels"):
        prepare(spec(builder="own_networks:trunk", height=16, width=16, channels=1), CPU)
    with pytest.raises(LoadError, match=r"model mine: a first pass over images of 16x16 failed"):
        prepare(spec(builder="networks:linear", height=16, width=16), CPU)


@pytest.mark.parametrize(
    ("builder", "says"),
    [
        ("Failing", r"failed at own_networks\.py:\d+: RuntimeError; if its input has another size"),
        ("OfTwo", r"mine: its forward must take the images alone, .*'scale'; wrap it"),
        ("four_channels", r"RuntimeError: .*; networks of 1 or 3 channels can be served"),
    ],
)
def test_a_first_pass_that_fails_says_what_to_do(builder: str, says: str) -> None:
    with pytest.raises(LoadError, match=says):
        prepare(spec(builder=f"own_networks:{builder}", height=16, width=16), CPU)


def test_a_precision_that_fails_is_named_with_its_exception() -> None:
    card = prepare(spec(builder="own_networks:NotInHalf", height=16, width=16, precisions=("exact", "fast")), CPU).card
    assert card.precisions == ("exact",)
    assert card.absent["fast"] == "in FAST it fails: NotImplementedError"


def test_a_torchvision_network_that_cannot_be_built_says_what_to_try(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object, **__: object) -> None:
        raise KeyError("classifier.1")

    monkeypatch.setattr("torchvision.models.get_model", fails)
    said = r"model mine: loading squeezenet1_1 with weights (\w+) failed at test_loading\.py:\d+: KeyError: '[^']*'"
    with pytest.raises(LoadError, match=said + '; try weights = "random", to tell'):
        load(ModelSpec(name="mine", builder="squeezenet1_1"))
    with pytest.raises(LoadError, match=said + "$"):
        load(ModelSpec(name="mine", builder="squeezenet1_1", weights="random"))


def test_digits_are_split_as_scikit_learn_splits_them() -> None:
    data = load_digits()
    theirs = train_test_split(data.data, data.target, test_size=0.2, random_state=0, stratify=data.target)
    assert all(np.array_equal(ours, right) for ours, right in zip(parts(), theirs, strict=True))


def test_digits_reads_held_out_digits() -> None:
    model = prepare(EMBEDDED["digits"], CPU)
    _, images, _, labels = split()
    with torch.no_grad():
        right = (model(images * 0.5 + 0.5).argmax(1) == labels).float().mean().item()
    assert len(labels) == 360
    assert right >= 0.98
    assert Path(EMBEDDED["digits"].weights).stat().st_size < 1e6
    assert model.card.classes[:3] == ("zero", "one", "two")
    assert (model.card.builder, model.card.height, model.card.width) == ("embedded", 8, 8)
