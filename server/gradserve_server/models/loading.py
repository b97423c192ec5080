"""Building a network and giving it its weights."""

import hashlib
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple
from urllib.error import URLError

import torch
from safetensors.torch import load_file
from torch import nn
from torchvision import models as zoo

from .catalogue import Colour, ModelSpec

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
AUXILIARY = ("aux1", "aux2", "AuxLogits")  # heads of GoogLeNet and Inception that never run in eval mode


class Source(NamedTuple):
    """A network in eval mode as its author wrote it, with what its weights say about its input and classes."""

    network: nn.Module
    digest: str
    labels: tuple[str, ...]
    height: int
    width: int
    resize: int
    interpolation: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


class LoadError(ValueError):
    """A model that cannot be loaded; the message names the model and what was wrong."""


def load(spec: ModelSpec) -> Source:
    """Builds and loads. Raises LoadError."""
    try:
        if ":" in spec.source:
            network, meta = _build_own(spec), None
        else:
            network, meta = _build_torchvision(spec)
        transformed = _drop_auxiliary(network)
        network.eval().requires_grad_(False)
        return _describe(spec, network, meta, transformed)
    except LoadError:
        raise
    except URLError as error:
        hint = f"give a file, --model {spec.name}=FILE, or {spec.name}=random to try things out"
        raise LoadError(f"model {spec.name}: its weights cannot be downloaded ({error.reason}); {hint}") from error
    except Exception as error:
        raise LoadError(f"model {spec.name}: {spec.source} with weights {spec.weights}: {error}") from error


def _build_own(spec: ModelSpec) -> nn.Module:
    module, _, function = spec.source.partition(":")
    torch.manual_seed(spec.seed)
    network = getattr(import_module(module), function)(**spec.arguments)
    if not isinstance(network, nn.Module):
        raise LoadError(f"model {spec.name}: {spec.source} gave a {type(network).__name__}, not a torch.nn.Module")
    if spec.weights not in ("random", "DEFAULT"):
        _check_weights(spec, ["random"])
        _load_file(network, spec)
    return network


def _build_torchvision(spec: ModelSpec) -> tuple[nn.Module, Any]:
    """The network and the weights enum whose metadata describe its input."""
    available = zoo.get_model_weights(spec.source)
    if spec.weights != "random" and not Path(spec.weights).suffix:
        _check_weights(spec, ["DEFAULT", *available.__members__, "random"])
        weights = available[spec.weights] if spec.weights != "DEFAULT" else available.DEFAULT
        return zoo.get_model(spec.source, weights=weights), weights
    usual = next(iter(available))  # the first weights' input is the common one; later ones resize in ways of their own
    torch.manual_seed(spec.seed)
    network = zoo.get_model(spec.source, weights=None)
    if spec.weights != "random":
        _load_file(network, spec)
    else:
        _enliven(network, usual.transforms().crop_size[0])
    return network, usual


def _check_weights(spec: ModelSpec, names: list[str]) -> None:
    if spec.weights not in names and not Path(spec.weights).suffix:
        there = ", ".join(dict.fromkeys(names))
        raise LoadError(
            f"model {spec.name}: {spec.source} has no weights {spec.weights!r}; there are: {there}, or a file"
        )


def _enliven(network: nn.Module, size: int) -> None:
    """Gives random weights gradients to look at: no head of zeros, BatchNorm statistics of smooth noise."""
    norms = [m for m in network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    for module in network.modules():
        if isinstance(module, nn.Linear) and not module.weight.any():
            nn.init.normal_(module.weight, std=module.in_features**-0.5)
    noise = nn.functional.interpolate(torch.randn(8, 3, 16, 16), (size, size), mode="bicubic")
    network.eval()
    for norm in norms:
        norm.train()
        norm.momentum = None  # the average over all passes, of which there is one
    with torch.no_grad():
        network(noise + 0.3 * torch.randn_like(noise))


def _load_file(network: nn.Module, spec: ModelSpec) -> None:
    path = Path(spec.weights)
    try:
        state: Any = load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
    except Exception as error:
        text = f"model {spec.name}: {path} is neither a .safetensors file nor a state dict saved by torch"
        raise LoadError(text) from error
    state = state.get("state_dict", state)
    state = {name.removeprefix("module."): tensor for name, tensor in state.items()}
    _fit_head(network, state)
    missing, unexpected = network.load_state_dict(state, strict=False)
    wrong = [name for name in missing if not name.endswith("num_batches_tracked") and not name.startswith(AUXILIARY)]
    wrong += [name for name in unexpected if not name.startswith(AUXILIARY)]
    if wrong:
        shown = ", ".join(wrong[:5]) + (f" and {len(wrong) - 5} more" if len(wrong) > 5 else "")
        raise LoadError(f"model {spec.name}: {path.name} does not fit {spec.source}: missing or unexpected {shown}")


def _fit_head(network: nn.Module, state: dict[str, Any]) -> None:
    """The file's last layer decides how many classes there are."""
    name, head = _head(network)
    weight = state.get(f"{name}.weight")
    if head is not None and weight is not None and weight.shape[1:] == head.weight.shape[1:]:
        parent, _, leaf = name.rpartition(".")
        fitting = nn.Linear(head.in_features, len(weight), head.bias is not None)
        setattr(network.get_submodule(parent), leaf, fitting)


def _head(network: nn.Module) -> tuple[str, nn.Linear | None]:
    """The last linear layer, which gives the logits in most networks."""
    linears = [(name, module) for name, module in network.named_modules() if isinstance(module, nn.Linear)]
    return linears[-1] if linears else ("", None)


def _drop_auxiliary(network: nn.Module) -> bool:
    """Removes heads that never run; returns whether the network's own input transform was switched off."""
    for name in AUXILIARY:
        if isinstance(getattr(network, name, None), nn.Module):
            setattr(network, name, None)
            network.aux_logits = False  # type: ignore[assignment]
    transformed = bool(getattr(network, "transform_input", False))
    if transformed:  # the normalisation can do it at once
        network.transform_input = False  # type: ignore[assignment]
    return transformed


def _describe(spec: ModelSpec, network: nn.Module, weights: Any, transformed: bool) -> Source:
    preset = weights.transforms() if weights else None
    crop = preset.crop_size[0] if preset else 224
    height, width = spec.height or crop, spec.width or crop
    mean: Any = spec.mean or (tuple(preset.mean) if preset else IMAGENET_MEAN)
    std: Any = spec.std or (tuple(preset.std) if preset else IMAGENET_STD)
    if transformed:
        mean, std = _with_transform(mean, std)
    return Source(
        network=network,
        digest=digest(network),
        labels=_labels(spec, network, weights),
        height=height,
        width=width,
        resize=spec.resize or (preset.resize_size[0] if preset and not spec.height else max(height, width)),
        interpolation=spec.interpolation or (preset.interpolation.value if preset else "bilinear"),
        mean=mean,
        std=std,
    )


def _with_transform(mean: Colour, std: Colour) -> tuple[Colour, Colour]:
    """The normalisation that includes GoogLeNet's own x * s / 0.5 + (m - 0.5) / 0.5, ImageNet's m and s."""
    scaled = [b * 0.5 / s for b, s in zip(std, IMAGENET_STD, strict=True)]
    moved = [a - c * (m - 0.5) / 0.5 for a, c, m in zip(mean, scaled, IMAGENET_MEAN, strict=True)]
    return tuple(moved), tuple(scaled)  # type: ignore[return-value]


def _labels(spec: ModelSpec, network: nn.Module, weights: Any) -> tuple[str, ...]:
    if isinstance(spec.labels, Path):
        return tuple(line.strip() for line in spec.labels.read_text().splitlines() if line.strip())
    if spec.labels is not None:
        return spec.labels
    names = tuple(weights.meta["categories"]) if weights else ()
    head = _head(network)[1]
    return names if head is None or head.out_features == len(names) else ()


def digest(network: nn.Module) -> str:
    """SHA-256 over the name, type, shape and bytes of every parameter and buffer."""
    sha = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        sha.update(f"{name} {tensor.dtype} {tuple(tensor.shape)};".encode())
        sha.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return sha.hexdigest()
