"""Weights from files and from nowhere, labels, input transforms, and what is said when something does not fit."""

import re
from pathlib import Path

import pytest
import torch
from networks import googlenet_with_transform, linear
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision.models import squeezenet1_1
from zoo import CPU, normalised, off

from gradserve_server.models.catalogue import EMBEDDED, ModelSpec
from gradserve_server.models.embedded.digits.train import split
from gradserve_server.models.loading import LoadError, digest, load
from gradserve_server.models.preparation import prepare

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


@pytest.mark.parametrize(
    "wrap", [dict, lambda s: {"state_dict": s}, lambda s: {f"module.{k}": v for k, v in s.items()}]
)
@pytest.mark.parametrize("suffix", [".pth", ".pt"])
def test_checkpoints(network: nn.Module, tmp_path: Path, wrap: type[dict], suffix: str) -> None:
    torch.save(wrap(network.state_dict()), tmp_path / f"w{suffix}")
    assert load(spec(weights=str(tmp_path / f"w{suffix}"))).digest == digest(network)


class Trap:
    """Touches a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (self.path,)


def test_a_checkpoint_runs_no_code(tmp_path: Path) -> None:
    torch.save({"state_dict": Trap(tmp_path / "sprung")}, tmp_path / "w.pth")
    with pytest.raises(LoadError, match="model mine"):
        load(spec(weights=str(tmp_path / "w.pth")))
    assert not (tmp_path / "sprung").exists()


def test_torchvision_weights_from_a_file_bring_its_metadata(tmp_path: Path) -> None:
    network = squeezenet1_1(weights=None).eval()
    save_file(network.state_dict(), tmp_path / "w.safetensors")
    source = load(ModelSpec(name="s", builder="squeezenet1_1", weights=str(tmp_path / "w.safetensors")))
    assert source.digest == digest(network)
    assert (source.height, source.width, source.resize, source.interpolation) == (224, 224, 256, "bilinear")
    assert source.mean == (0.485, 0.456, 0.406)
    assert source.labels[1] == "goldfish"


def test_random_weights_follow_the_seed() -> None:
    first, same, other = (load(spec(weights="random", seed=seed)).digest for seed in (1, 1, 2))
    assert first == same != other


def save(folder: Path, state: dict[str, Tensor]) -> str:
    save_file(state, folder / "w.safetensors")
    return str(folder / "w.safetensors")


def broken(folder: Path) -> str:
    (folder / "w.safetensors").write_bytes(b"not weights at all, for certain")
    return str(folder / "w.safetensors")


FAULTS = {
    "of another network": lambda p: (
        spec(weights=save(p, squeezenet1_1().state_dict())),
        r"model mine: w.safetensors does not fit networks:linear: missing or unexpected 1.weight, 1.bias, .* more",
    ),
    "of another shape": lambda p: (
        spec(weights=save(p, {"1.weight": torch.ones(5, 7), "1.bias": torch.ones(5)})),
        r"model mine: networks:linear with weights .*w.safetensors: .*size mismatch for 1.weight",
    ),
    "damaged": lambda p: (spec(weights=broken(p)), r"model mine: .*w.safetensors is neither a .safetensors file nor"),
    "without a file": lambda p: (spec(weights=str(p / "none.pth")), r"model mine: .*none.pth"),
    "of an unknown name": lambda p: (
        ModelSpec(name="r", builder="resnet18", weights="IMAGENET1K_V7"),
        r"model r: resnet18 has no weights 'IMAGENET1K_V7'; there are: .*IMAGENET1K_V1",
    ),
    "of a misspelt name": lambda p: (spec(weights="Random"), r"model mine: networks:linear has no weights 'Random'"),
    "of no function": lambda p: (spec(builder="networks:nothing"), r"model mine: .*networks.* 'nothing'"),
    "of no module": lambda p: (spec(builder="networks.deep:nothing"), r"model mine: .*networks"),
    "of no network": lambda p: (spec(builder="networks:not_a_network"), "gave a Tensor, not a torch.nn.Module"),
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_what_does_not_fit_is_said(fault: object, tmp_path: Path) -> None:
    wrong, says = fault(tmp_path)  # type: ignore[operator]
    with pytest.raises(LoadError, match=re.compile(says, re.DOTALL)):
        load(wrong)


def test_labels(tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text("ant\n bee \n\ncat\ndog\neel\n")
    assert prepare(spec(labels=tmp_path / "labels.txt"), CPU).card.classes == ("ant", "bee", "cat", "dog", "eel")
    assert prepare(spec(labels=tuple("vwxyz")), CPU).card.classes == tuple("vwxyz")
    with pytest.raises(LoadError, match="model mine: 3 labels for 5 classes"):
        prepare(spec(labels=("a", "b", "c")), CPU)
    with pytest.raises(LoadError, match=r"model mine: .*nowhere.txt"):
        load(spec(labels=tmp_path / "nowhere.txt"))


COLOURS = {"ImageNet's": {}, "their own": {"mean": (0.4, 0.5, 0.6), "std": (0.2, 0.25, 0.3)}}


@pytest.mark.parametrize("colours", COLOURS.values(), ids=COLOURS)
def test_googlenets_input_transform_becomes_normalisation(colours: dict[str, tuple[float, ...]]) -> None:
    facts = {"name": "g", "builder": "networks:googlenet_with_transform", "height": 64, "width": 64, "seed": 5}
    model = prepare(ModelSpec.model_validate({**facts, **colours}), CPU, torch.float64)
    torch.manual_seed(5)
    network = googlenet_with_transform().double().eval()
    assert network.aux1 is not None
    assert not any("aux" in name for name, _ in model.network.named_modules())
    images = torch.rand(2, 3, 64, 64, dtype=torch.float64, requires_grad=True)
    mean, std = (torch.tensor(v, dtype=torch.float64).view(3, 1, 1) for v in colours.values() or ([0] * 3, [1] * 3))
    own = network((images - mean) / std if colours else normalised(images))
    gradients = [torch.autograd.grad(out[:, 3].sum(), images)[0] for out in (model(images), own)]
    assert off(*gradients) < 1e-9


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
