"""Files of weights as training scripts write them: they load, or it is said what they are and what to do."""

import argparse
import re
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import own_networks
import pytest
import torch
from safetensors.torch import save_file, save_model
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from torchvision.models import googlenet, mnasnet0_5, squeezenet1_1
from zoo import CPU, normalised, off

from gradserve_server.models.catalogue import ModelSpec
from gradserve_server.models.digest import digest
from gradserve_server.models.faults import check_builders
from gradserve_server.models.loading import LoadError, load
from gradserve_server.models.preparation import prepare
from gradserve_server.models.prepared import Prepared

State = dict[str, Tensor]
SIZE = {"height": 16, "width": 16}


def spec(builder: str, **facts: object) -> ModelSpec:
    return ModelSpec.model_validate({"name": "mine", "builder": f"own_networks:{builder}", **SIZE, **facts})


def prefixed(prefix: str) -> Callable[[State], State]:
    return lambda state: {f"{prefix}{name}": tensor for name, tensor in state.items()}


def training(state: State, key: str = "state_dict") -> dict[str, Any]:
    """A checkpoint of a training script, with an optimizer whose momentum has the names of the weights."""
    momentum = {"momentum": {name: torch.zeros_like(tensor) for name, tensor in state.items()}}
    return {"epoch": 3, "optimizer": momentum, "arch": "resnet18", "best": 0.7, "step": torch.tensor(5), key: state}


def without_counters(state: State) -> State:
    return {name: tensor for name, tensor in state.items() if "num_batches" not in name}


WRAPS: dict[str, Callable[[State], Any]] = {
    "a state dict": lambda s: s,
    "a plain dict": dict,
    **{
        f"under {key}": lambda s, key=key: training(s, key)
        for key in (
            "state_dict",
            "model",
            "model_state",
            "model_state_dict",
            "net",
            "ema",
            "state_dict_ema",
            "model_ema",
        )
    },
    "under model, state_dict": lambda s: {"model": training(s), "epoch": 1},
    "beside an epoch": lambda s: {**s, "epoch": 3},
    **{
        f"with {prefix}": prefixed(prefix)
        for prefix in ("module.", "model.", "_orig_mod.", "module.model.", "model._orig_mod.", "net.0.")
    },
    "with a prefix under state_dict": lambda s: training(prefixed("model.")(s)),
    "with one compiled part": lambda s: {name.replace("norm.", "norm._orig_mod."): t for name, t in s.items()},
    "without BatchNorm's counters": without_counters,
    "beside numpy's numbers": lambda s: {**training(s), "best": np.float64(0.9), "more": [np.float32(1), np.int64(3)]},
    "in float64": lambda s: {name: t.double() if t.is_floating_point() else t for name, t in s.items()},
}


@pytest.fixture(scope="module")
def network() -> nn.Module:
    torch.manual_seed(1)
    return own_networks.trunk()


@pytest.mark.parametrize("wrap", WRAPS.values(), ids=WRAPS)
def test_wrappers_and_prefixes(network: nn.Module, tmp_path: Path, wrap: Callable[[State], Any]) -> None:
    torch.save(wrap(network.state_dict()), tmp_path / "w.pth")
    assert load(spec("trunk", weights=str(tmp_path / "w.pth"))).digest == digest(network)


@pytest.mark.parametrize("name", ["w", "w.bin", "w.ckpt", "w.pth.tar", "best", "w.2.pt"])
@pytest.mark.parametrize("save", [torch.save, save_file], ids=["torch", "safetensors"])
def test_any_ending(network: nn.Module, tmp_path: Path, name: str, save: Callable[..., None]) -> None:
    save(network.state_dict(), tmp_path / name)
    checked = spec("trunk", weights=str(tmp_path / name))
    check_builders([checked])
    assert load(checked).digest == digest(network)


def test_the_old_format_of_torch(network: nn.Module, tmp_path: Path) -> None:
    torch.save(network.state_dict(), tmp_path / "w.pth", _use_new_zipfile_serialization=False)
    assert load(spec("trunk", weights=str(tmp_path / "w.pth"))).digest == digest(network)


def test_a_network_that_was_made_half_with_its_counters(network: nn.Module, tmp_path: Path) -> None:
    halved = {name: tensor.half() for name, tensor in network.state_dict().items()}
    torch.save(halved, tmp_path / "w.pth")
    loaded = load(spec("trunk", weights=str(tmp_path / "w.pth"))).network.state_dict()
    assert all(tensor.equal(halved[name].to(tensor.dtype)) for name, tensor in loaded.items())


def test_an_averaged_model(network: nn.Module, tmp_path: Path) -> None:
    torch.save(AveragedModel(network).state_dict(), tmp_path / "w.pth")
    assert load(spec("trunk", weights=str(tmp_path / "w.pth"))).digest == digest(network)


@pytest.mark.parametrize("name", ["module", "model"])
def test_a_prefix_stays_where_the_network_has_it(tmp_path: Path, name: str) -> None:
    torch.manual_seed(2)
    network = getattr(own_networks, f"inside_{name}")()
    checked = spec(f"inside_{name}", weights=str(tmp_path / "w.pth"))
    for wrap in (dict, prefixed("module."), prefixed("model."), prefixed("module.module.")):
        torch.save(wrap(network.state_dict()), tmp_path / "w.pth")
        assert load(checked).digest == digest(network)


def test_the_trained_weights_before_their_average_and_that_is_said(network: nn.Module, tmp_path: Path) -> None:
    averaged = {name: tensor + 1 for name, tensor in network.state_dict().items()}
    torch.save({"model_ema": averaged, "model": network.state_dict()}, tmp_path / "w.pth")
    model = prepare(spec("trunk", weights=str(tmp_path / "w.pth")), CPU)
    assert model.card.digest == digest(network)
    assert "weights are model of w.pth, which also has model_ema" in model.card.notes


def test_what_fits_is_taken_of_several(network: nn.Module, tmp_path: Path) -> None:
    other = own_networks.cosine_head().state_dict()
    torch.save({"model": {**other, "more": torch.ones(1)}, "net": network.state_dict()}, tmp_path / "w.pth")
    assert load(spec("trunk", weights=str(tmp_path / "w.pth"))).digest == digest(network)


class Trap:
    """Touches a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (self.path,)


def state() -> State:
    return own_networks.trunk().state_dict()


def changed(name: str, tensor: Tensor | None) -> State:
    """The state dict with another tensor of that name, or without it."""
    rest = {other: t for other, t in state().items() if other != name}
    return rest if tensor is None else {**rest, name: tensor}


def old(content: Any, path: Path) -> None:
    """As torch.save wrote before torch 1.6."""
    torch.save(content, path, _use_new_zipfile_serialization=False)


def scheduler() -> object:
    optimizer = torch.optim.SGD(own_networks.trunk().parameters(), 0.1)
    return torch.optim.lr_scheduler.StepLR(optimizer, 1)


NO_FILE = "is no file of weights (.safetensors, or of torch.save), or was cut off ("
WHOLE = 'save its state_dict(): net = torch.load("w.pth", weights_only=False); torch.save(net.state_dict(), '
CODE = "Such objects are not loaded, since that would run code from the file. If you trust it, "

REFUSED: dict[str, tuple[Callable[[Path], Any], list[str]]] = {
    "a pickled network": (
        lambda p: torch.save(own_networks.trunk(), p),
        ["is a whole pickled own_networks.Trunk, not its weights. " + CODE + WHOLE],
    ),
    "a network of torch's": (
        lambda p: torch.save(nn.Sequential(nn.Linear(3, 5)), p),
        ["whole pickled torch.nn.modules.container.Sequential", WHOLE],
    ),
    "a network in the old format": (
        lambda p: old(own_networks.trunk(), p),
        ["is a whole pickled own_networks.Trunk, not its weights. " + CODE + WHOLE],
    ),
    "arguments and no weights": (
        lambda p: torch.save({"args": argparse.Namespace(lr=1)}, p),
        [
            "also holds an argparse.Namespace. " + CODE,
            "load it with c = torch.load(",
            'save only its dict of tensors (look at c.keys(); often c["state_dict"] or c["model"])',
        ],
    ),
    "another protocol": (
        lambda p: torch.save(state(), p, pickle_protocol=4),
        ["without running code", 'torch.save(torch.load("w.pth", weights_only=False), "weights.pth")'],
    ),
    "TorchScript": (
        lambda p: torch.jit.save(own_networks.scripted(), p),
        ["is a TorchScript file, not a file of weights; save those of the module it was made from: torch.save(net.st"],
    ),
    "half a file": (
        lambda p: (torch.save(state(), p), p.write_bytes(p.read_bytes()[:3000])),
        [NO_FILE + "3000 bytes); copy it again"],
    ),
    "an empty file": (lambda p: p.write_bytes(b""), ["w.pth is empty"]),
    "zeros": (lambda p: p.write_bytes(bytes(5000)), [NO_FILE + "5000 bytes); copy it again"]),
    "a table": (lambda p: p.write_text("epoch,accuracy\n1,0.3\n"), [NO_FILE]),
    "text": (lambda p: p.write_text("<html>404"), [NO_FILE]),
    "a pointer of Git LFS": (
        lambda p: p.write_text("version https://git-lfs.github.com/spec/v1"),
        ["is a pointer of Git LFS, not the file itself; run: git lfs pull"],
    ),
    "a tensor": (lambda p: torch.save(torch.ones(3), p), ["holds a tensor, not a dict of tensors by name"]),
    "a list": (lambda p: torch.save([state()], p), ["holds a list, not a dict of tensors by name"]),
    "no weights": (
        lambda p: torch.save({"optimizer": {"momentum": state()}, "epoch": 3}, p),
        ["has no weights; it holds: optimizer, epoch"],
    ),
    "another network": (
        lambda p: torch.save({"net": squeezenet1_1().state_dict()}, p),
        [
            "does not fit own_networks:trunk: of 8 tensors that the network wants, the file has 1 under net; missing: ",
            " and 4 more; unknown: features.0.weight, features.0.bias, features.3.squeeze.weight and 49 more; is it",
        ],
    ),
    "a layer less": (
        lambda p: torch.save(changed("fc.bias", None), p),
        ["of 8 tensors that the network wants, the file has 7; missing: fc.bias; let the builder make"],
    ),
    "a layer more": (
        lambda p: torch.save(changed("aux1.weight", torch.ones(3)), p),
        ["the file has 8; unknown: aux1.weight; "],
    ),
    "other shapes": (
        lambda p: torch.save(changed("conv.weight", torch.ones(8, 3, 5, 5)), p),
        ["own_networks:trunk: 1 of 8 tensors has another shape: conv.weight is 8x3x5x5 in the file and 8x3x3x3 in the"],
    ),
    "another input of the last layer": (
        lambda p: torch.save(changed("fc.weight", torch.ones(5, 9)), p),
        ["fc.weight is 5x9 in the file and 5x8 in the network"],
    ),
    "whole numbers": (
        lambda p: torch.save(changed("conv.weight", torch.ones(8, 3, 3, 3, dtype=torch.int8)), p),
        ["1 of another kind: conv.weight is torch.int8 in the file and torch.float32 in the network"],
    ),
}


@pytest.mark.parametrize(("write", "says"), REFUSED.values(), ids=REFUSED)
def test_what_is_refused_and_what_to_do(tmp_path: Path, write: Callable[[Path], Any], says: list[str]) -> None:
    write(tmp_path / "w.pth")
    with pytest.raises(LoadError, match=r"^model mine: .*w\.pth:? ") as caught:
        load(spec("trunk", weights=str(tmp_path / "w.pth")))
    for words in says:
        assert words in str(caught.value)
    assert "\x1b" not in str(caught.value)


WRAPPED: dict[str, Callable[[Path], Any]] = {
    "arguments beside": lambda p: torch.save({"state_dict": state(), "args": argparse.Namespace(lr=1)}, p),
    "a scheduler before": lambda p: torch.save({"opt": scheduler(), "net": state()}, p),
    "a scheduler before, in the old format": lambda p: old({"opt": scheduler(), "net": state()}, p),
    "a network under a key": lambda p: torch.save({"model": own_networks.trunk(), "epoch": 3}, p),
    "a network under a key, in the old format": lambda p: old({"model": own_networks.trunk(), "epoch": 3}, p),
    "an array beside": lambda p: torch.save({"state_dict": state(), "accuracy": np.ones(3)}, p),
    "an unknown key": lambda p: torch.save({"epoch": 3, "generator": state()}, p),
    "unknown keys": lambda p: torch.save({"epoch": 3, "nets": {'the "g"': state()}, "optim": {"m": state()}}, p),
}


@pytest.mark.parametrize("write", WRAPPED.values(), ids=WRAPPED)
def test_the_advice_works_as_it_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Callable[..., Any]
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "w.pth")
    with pytest.raises(
        LoadError, match=r"also holds an? |holds a whole own_networks.Trunk under|its weights seem"
    ) as caught:
        load(spec("trunk", weights="w.pth"))
    advice = re.search(r"(c = torch.load.*|torch.save\(torch.*)", str(caught.value))
    assert advice is not None
    exec(advice[0], {"torch": torch})
    load(spec("trunk", weights="weights.pth"))


def test_nothing_is_warned_of(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    torch.jit.save(own_networks.scripted(), tmp_path / "w.pth")
    recwarn.clear()
    with pytest.raises(LoadError):
        load(spec("trunk", weights=str(tmp_path / "w.pth")))
    assert not recwarn.list


def test_a_checkpoint_runs_no_code(tmp_path: Path) -> None:
    torch.save({"state_dict": Trap(tmp_path / "sprung")}, tmp_path / "w.pth")
    with pytest.raises(LoadError, match="model mine"):
        load(spec("trunk", weights=str(tmp_path / "w.pth")))
    assert not (tmp_path / "sprung").exists()


def test_a_folder_and_nothing(tmp_path: Path) -> None:
    with pytest.raises(LoadError, match=re.escape(f"{tmp_path} is a folder, not a file of weights")):
        load(spec("trunk", weights=str(tmp_path)))
    with pytest.raises(LoadError, match=re.escape(f"no file of weights {tmp_path / 'none'}; correct weights, which")):
        load(spec("trunk", weights=str(tmp_path / "none")))


# Last layers of another size.
def fine_tuned(tmp_path: Path, builder: str, size: int, **facts: object) -> tuple[nn.Module, Prepared]:
    """A network with a last layer of that size, and what is served of the default builder with its file."""
    torch.manual_seed(3)
    network = getattr(own_networks, builder)(size)
    torch.save(network.state_dict(), tmp_path / "w.pth")
    return network, prepare(spec(builder, weights=str(tmp_path / "w.pth"), **facts), CPU)


@pytest.mark.parametrize("builder", ["trunk", "convolutional_head", "head_of_two_names"])
def test_a_plain_last_layer_takes_the_files_number_of_classes(tmp_path: Path, builder: str) -> None:
    network, model = fine_tuned(tmp_path, builder, 7)
    images = torch.rand(2, 3, 16, 16)
    assert off(model(images), network(normalised(images))) < 1e-5
    assert len(model.card.classes) == 7
    (note,) = [note for note in model.card.notes if "last layer" in note]
    assert re.search(r"its last layer, .*fc.*, has 7 outputs as in the file, not 5", note)


@pytest.mark.parametrize(("builder", "size"), [("cosine_head", 7), ("hooked_head", 7), ("tied", 7)])
def test_a_last_layer_that_is_more_than_plain_is_not_replaced(tmp_path: Path, builder: str, size: int) -> None:
    with pytest.raises(LoadError, match=rf"fc.weight is {size}x8 in the file and 5x8 in the network"):
        fine_tuned(tmp_path, builder, size)


@pytest.mark.parametrize("builder", ["cosine_head", "hooked_head", "tied"])
def test_a_last_layer_of_the_same_size_stays_what_it_is(tmp_path: Path, builder: str) -> None:
    network, model = fine_tuned(tmp_path, builder, 5)
    images = torch.rand(2, 3, 16, 16)
    assert off(model(images), network(normalised(images))) < 1e-5
    assert not [note for note in model.card.notes if "last layer" in note]


def test_a_layer_that_gives_no_classes_is_not_resized(tmp_path: Path) -> None:
    with pytest.raises(LoadError, match="gives its last layer 14 outputs, but the network has 7 classes"):
        fine_tuned(tmp_path, "grouped", 14)


def test_two_layers_of_other_sizes_are_too_many(tmp_path: Path) -> None:
    torch.save({**changed("conv.weight", torch.ones(9, 3, 3, 3)), "fc.weight": torch.ones(7, 8)}, tmp_path / "w.pth")
    with pytest.raises(LoadError, match=r"2 of 8 tensors have another shape: .*7x8.*9x3x3x3"):
        load(spec("trunk", weights=str(tmp_path / "w.pth")))


def test_a_tensor_of_two_names_may_stand_once_in_the_file_and_not_twice_differently(tmp_path: Path) -> None:
    network = own_networks.tied()
    save_model(network, str(tmp_path / "w.safetensors"))  # This leaves the second name out.
    checked = spec("tied", weights=str(tmp_path / "w.safetensors"))
    assert load(checked).digest == digest(network)
    torn = {**network.state_dict(), "fc.weight": torch.ones(5, 8)}
    torch.save(torn, tmp_path / "w.pth")
    with pytest.raises(LoadError, match=r"fc.weight and attention.weight are one tensor .* differ in the file"):
        load(spec("tied", weights=str(tmp_path / "w.pth")))


def fitted_to(builder: str, network: nn.Module, path: Path) -> Prepared:
    """torchvision's network served with the weights of another, at a small size."""
    torch.save(network.eval().state_dict(), path)
    facts = {"height": 64, "width": 64, "precisions": ("exact",)}
    return prepare(ModelSpec.model_validate({"name": "mine", "builder": builder, "weights": str(path), **facts}), CPU)


@pytest.mark.parametrize("classes", [12, 1000])
def test_squeezenets_head_is_a_convolution(tmp_path: Path, classes: int) -> None:
    torch.manual_seed(4)
    network = squeezenet1_1(weights=None, num_classes=classes)
    model = fitted_to("squeezenet1_1", network, tmp_path / "w.pth")
    images = torch.rand(2, 3, 64, 64)
    assert off(model(images), network(normalised(images))) < 1e-4
    assert model.card.classes[1] == ("goldfish" if classes == 1000 else "class 1")
    assert any("last layer" in note for note in model.card.notes) == (classes != 1000)


@pytest.mark.parametrize("save", [torch.save, lambda s, p: save_file(s, p), lambda s, p: torch.save(dict(s), p)])
def test_mnasnet_whose_state_dict_has_a_version(tmp_path: Path, save: Callable[[Any, Path], None]) -> None:
    network = mnasnet0_5(weights=None).eval()
    save(network.state_dict(), tmp_path / "w")
    assert load(ModelSpec(name="mine", builder="mnasnet0_5", weights=str(tmp_path / "w"))).digest == digest(network)


@pytest.mark.parametrize("wrap", [nn.DataParallel, lambda n: torch.compile(n, backend="eager"), nn.Sequential])
def test_the_versions_travel_with_the_prefix(tmp_path: Path, wrap: Callable[[nn.Module], nn.Module]) -> None:
    network = own_networks.versioned()
    state = wrap(network).state_dict()
    old = {name: 2 * tensor if name.endswith("fc.weight") else tensor for name, tensor in state.items()}
    for content, version in ((state, 2), (old, 1)):
        state_dict = OrderedDict(content)
        state_dict._metadata = OrderedDict(state._metadata)
        for name, each in state._metadata.items():
            if f"{name}.fc" in state._metadata:  # This is the network itself.
                state_dict._metadata[name] = {**each, "version": version}
        torch.save(state_dict, tmp_path / "w")
        assert load(spec("versioned", weights=str(tmp_path / "w"))).digest == digest(network)


@pytest.mark.parametrize("auxiliary", [True, False])
@pytest.mark.parametrize("classes", [6, 1000])
def test_torchvisions_auxiliary_heads_may_be_in_the_file_or_not(tmp_path: Path, auxiliary: bool, classes: int) -> None:
    torch.manual_seed(5)
    network = googlenet(weights=None, num_classes=classes, aux_logits=auxiliary, init_weights=False)
    model = fitted_to("googlenet", network, tmp_path / "w.pth")
    images = torch.rand(2, 3, 64, 64)
    assert off(model(images), network(normalised(images))) < 1e-4


def test_a_layer_that_begins_with_aux1_may_not_be_missing(tmp_path: Path) -> None:
    lacking = {name: t for name, t in own_networks.aux_used().state_dict().items() if not name.startswith("aux1")}
    torch.save(lacking, tmp_path / "w.pth")
    with pytest.raises(LoadError, match=r"; missing: aux1.weight, aux1.bias; "):
        load(spec("aux_used", weights=str(tmp_path / "w.pth")))
