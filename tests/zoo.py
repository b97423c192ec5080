"""The models that tests look at, loaded once for most tests, and as they were before the server made them ready."""

import csv
from collections.abc import Callable
from functools import lru_cache

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from networks import resnet20
from paths import DATA
from PIL import Image
from torch import Tensor, nn
from torchvision.models import (
    AlexNet_Weights,
    ConvNeXt,
    ConvNeXt_Tiny_Weights,
    Swin_T_Weights,
    SwinTransformer,
    VGG11_BN_Weights,
    VisionTransformer,
    ViT_B_32_Weights,
    alexnet,
    get_model,
    vgg11_bn,
)
from torchvision.models._api import register_model
from torchvision.models.convnext import CNBlockConfig

from gradserve_server.models.card import Precision
from gradserve_server.models.catalogue import EMBEDDED, ModelSpec
from gradserve_server.models.inputs import IMAGENET_MEAN, IMAGENET_STD
from gradserve_server.models.loading import Source, load
from gradserve_server.models.preparation import prepare_source
from gradserve_server.models.prepared import Prepared

torch.set_num_threads(1)
CPU = torch.device("cpu")
SMALL = {"height": 64, "width": 96, "resize": 64}  # not square, so that nothing can be transposed unseen


def _narrow(builder: Callable[[], nn.Module], width: int = 64) -> nn.Module:
    """The network with narrow layers between its convolutions and its classes, which hold nearly all its weights."""
    with torch.device("meta"):
        network = builder()
        for i, layer in enumerate(network.classifier):
            if isinstance(layer, nn.Linear):
                inputs, outputs = layer.in_features, layer.out_features
                sizes = (width if inputs == 4096 else inputs, width if outputs == 4096 else outputs)
                network.classifier[i] = nn.Linear(*sizes)
    for module in network.to_empty(device="cpu").modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
    return network


@register_model()
def narrow_alexnet(*, weights: AlexNet_Weights | None = None) -> nn.Module:
    return _narrow(alexnet)


@register_model()
def narrow_vgg11_bn(*, weights: VGG11_BN_Weights | None = None) -> nn.Module:
    return _narrow(vgg11_bn)


@register_model()
def narrow_vit_b_32(*, weights: ViT_B_32_Weights | None = None) -> nn.Module:
    """A quarter as wide."""
    return VisionTransformer(image_size=224, patch_size=32, num_layers=12, num_heads=3, hidden_dim=192, mlp_dim=768)


def _random(name: str, **facts: object) -> ModelSpec:
    return ModelSpec.model_validate({"name": name, "weights": "random", **SMALL, **facts})


def _real(name: str, builder: str, file: str, **facts: object) -> ModelSpec:
    return ModelSpec.model_validate({"name": name, "builder": builder, "weights": str(DATA / file), **facts})


@register_model()
def narrow_swin_t(*, weights: Swin_T_Weights | None = None) -> nn.Module:
    """Half as wide."""
    return SwinTransformer([4, 4], 48, [2, 2, 6, 2], [3, 6, 12, 24], [7, 7])


@register_model()
def narrow_convnext_tiny(*, weights: ConvNeXt_Tiny_Weights | None = None) -> nn.Module:
    """Half as wide."""
    widths = [(48, 96, 3), (96, 192, 3), (192, 384, 9), (384, None, 3)]
    return ConvNeXt([CNBlockConfig(*each) for each in widths])


SPECS = {
    spec.name: spec
    for spec in [
        *(_random(name, builder=f"narrow_{name}") for name in ("alexnet", "vgg11_bn", "convnext_tiny", "swin_t")),
        *map(_random, ["resnet18", "densenet121", "googlenet", "mobilenet_v2", "squeezenet1_1"]),
        *map(_random, ["shufflenet_v2_x0_5", "mnasnet0_5", "regnet_y_400mf", "mobilenet_v3_small"]),
        _random("efficientnet_b0"),
        _random("inception_v3", height=96, width=128),
        ModelSpec(name="vit_b_32", builder="narrow_vit_b_32", weights="random"),
        _real("trained-mobilenet_v2", "mobilenet_v2", "mobilenet_v2-imagenet.safetensors"),
        _real("trained-squeezenet1_0", "squeezenet1_0", "squeezenet1_0-imagenet.safetensors"),
        _real("trained-resnet20", "networks:resnet20", "cifar10-resnet20.safetensors", height=32, width=32),
        _random("linear", builder="networks:linear", height=8, width=12),
        EMBEDDED["imagenet"],
    ]
}


@lru_cache(8)  # of some 100 MB each
def _loaded(name: str) -> tuple[Prepared, Source, dict[str, Tensor]]:
    """The prepared model, and the source and state that it came from (whose tensors preparing leaves alone)."""
    if name.startswith("trained") and not DATA.is_dir():
        pytest.skip("needs the real weights in ../shared/data")
    source = load(SPECS[name])
    state = source.network.state_dict()
    return prepare_source(SPECS[name], source, CPU, torch.float32), source, state


def prepared(name: str) -> Prepared:
    """The model as the engine uses it, in fp32."""
    return _loaded(name)[0]


@lru_cache(2)
def in_double(name: str) -> Prepared:
    """The same made ready in float64, in EXACT alone."""
    source = _loaded(name)[1]._replace(network=unmodified(name, torch.float64))
    return prepare_source(SPECS[name].model_copy(update={"precisions": ("exact",)}), source, CPU, torch.float64)


def at(model: Prepared, precision: Precision) -> Prepared:
    """The model in that precision; the test is skipped where the processor has no fast operations for it."""
    if precision in model.card.absent:
        pytest.skip(f"{precision}: {model.card.absent[precision]}")
    return model.at(precision)


def unmodified(name: str, dtype: torch.dtype = torch.float32) -> nn.Module:
    """The network afresh from its author's code, with the same weights."""
    options = (
        {"aux_logits": False, "init_weights": False} if SPECS[name].source in ("googlenet", "inception_v3") else {}
    )
    with torch.device("meta"):
        own = ":" in SPECS[name].source
        network = resnet20() if own else get_model(SPECS[name].source, weights=None, **options)
    network.load_state_dict(_loaded(name)[2], assign=True)
    return network.to(dtype).eval().requires_grad_(False)


def normalised(images: Tensor) -> Tensor:
    """As torchvision's weights and the CIFAR ones want them."""
    mean, std = (torch.tensor(v, dtype=images.dtype).view(3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))
    return (images - mean) / std


def pictures(model: Prepared, count: int, seed: int = 0) -> Tensor:
    """[count, 3, H, W] in [0, 1]: smooth blots with some noise, of the model's size and type."""
    generator = torch.Generator().manual_seed(seed)
    size = (model.card.height, model.card.width)
    blots = F.interpolate(torch.rand(count, 3, 5, 5, generator=generator), size, mode="bicubic")
    noise = 0.05 * torch.randn(count, 3, *size, generator=generator)
    return (blots + noise).clamp(0, 1).to(model.dtype)


def photos(model: Prepared, count: int) -> Tensor:
    """The first photos of ../shared/data, resized and cropped as the model's card says; CIFAR's for its model."""
    card = model.card
    if len(card.classes) == 10:
        with np.load(DATA / "cifar10-test-1000.npz") as file:
            pixels = file["images"][:count]
    else:
        with (DATA / "images/labels.csv").open() as lines:
            names = [row["file"] for row in csv.DictReader(lines)][:count]
        shorter = card.resize.height
        pixels = np.stack([_cropped(Image.open(DATA / "images" / name), shorter, card.height) for name in names])
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).to(model.dtype) / 255


def _cropped(photo: Image.Image, resize: int, side: int) -> np.ndarray:
    scale = resize / min(photo.size)
    width, height = (round(length * scale) for length in photo.size)
    left, top = (width - side) // 2, (height - side) // 2
    resized = photo.convert("RGB").resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(resized.crop((left, top, left + side, top + side)))


def inputs(name: str, count: int = 1) -> tuple[Prepared, Tensor]:
    """A model with pictures that suit it: photos, where it was trained on photos."""
    model = prepared(name)
    return model, (photos if name.startswith("trained") else pictures)(model, count)


def off(ours: Tensor | np.ndarray, reference: Tensor | np.ndarray) -> float:
    """Relative L2 distance."""
    a, b = (torch.as_tensor(t).detach().double() for t in (ours, reference))
    assert a.shape == b.shape
    assert b.norm() > 0, "a reference of zeros proves nothing"
    return ((a - b).norm() / b.norm()).item()
