"""Building a network and giving it its weights."""

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple
from urllib.error import URLError

import torch
from torch import Tensor, nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

from .builders import BuilderFault, build, check_sizes, text_of, where
from .catalogue import Colour, ModelSpec, names_file
from .checkpoints import CheckpointError
from .faults import no_weights
from .weights import Loaded, load_weights
from .wrappers import NotServable, refuse_quantised, run_uncompiled, unwrap, unwrap_children

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
GREY_MEAN, GREY_STD = (0.0,), (1.0,)  # Defaults for networks that take one channel.
GREY_NOTE = (
    "it takes grey pictures: those of requests are turned into 0.299 R + 0.587 G + 0.114 B; "
    "gradients are by the RGB pixels"
)
OWN_WEIGHTS = "its weights are those that the builder made"
AUXILIARY = ("aux1", "aux2", "AuxLogits")  # Heads of GoogLeNet and Inception that never run in eval mode.


class Source(NamedTuple):
    """A network in eval mode as its author wrote it, with what its weights say about its input and classes."""

    network: nn.Module
    digest: str
    labels: tuple[str, ...]
    height: int
    width: int
    resize: int
    interpolation: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    channels: Literal[1, 3] = 3
    labels_are_usual: bool = False  # Whether they are those of torchvision's weights, and not the entry's.
    classes: int | None = None  # Size of the last layer, if the file of weights decided it.
    notes: tuple[str, ...] = ()


class LoadError(ValueError):
    """A model that cannot be loaded; the message names the model and what was wrong."""


class CatalogueMistake(LoadError):
    """An entry of the catalogue that does not fit its network; the message says what to correct, not which model."""


class _Built(NamedTuple):
    """A network with its weights; `usual`: the torchvision weights whose metadata describe its input."""

    network: nn.Module
    usual: Any = None
    transformed: bool = False  # Whether the network's own input transform was switched off.
    loaded: Loaded = Loaded()


def load(spec: ModelSpec) -> Source:
    """Builds and loads. Raises LoadError."""
    try:
        built = _build_own(spec) if ":" in spec.source else _build_torchvision(spec)
        built.network.eval().requires_grad_(False)
        return _describe(spec, built)
    except LoadError:
        raise
    except (BuilderFault, CheckpointError, NotServable) as error:
        raise LoadError(f"model {spec.name}: {error}") from error
    except URLError as error:
        hint = f"give a file, --model {spec.name}=FILE, or {spec.name}=random to try things out"
        raise LoadError(f"model {spec.name}: its weights cannot be downloaded ({error.reason}); {hint}") from error
    except Exception as error:
        what = f"loading {spec.source} with weights {spec.weights} failed{where(error)}: {text_of(error)}"
        hint = '; try weights = "random", to tell whether the network or its weights are at fault'
        raise LoadError(f"model {spec.name}: {what}{hint * (spec.weights != 'random')}") from error


def _build_own(spec: ModelSpec) -> _Built:
    """The network of a builder of one's own. Nothing inside it is rewritten; wrappers of torch's are taken away."""
    run_uncompiled()
    network = unwrap(build(spec))
    unwrap_children(network)
    refuse_quantised(network)
    loaded = Loaded()
    if names_file(spec):
        _check_file(spec)
        loaded = load_weights(network, Path(spec.weights), spec.source)
    check_sizes(network)
    unwrap_children(network, DataParallel, DistributedDataParallel)  # Names of a file may include these.
    return _Built(network, loaded=loaded)


def _build_torchvision(spec: ModelSpec) -> _Built:
    # Imported here, since the import takes long and networks of one's own do not need it.
    from torchvision import models as zoo

    available = zoo.get_model_weights(spec.source)
    if spec.weights != "random" and not names_file(spec):
        weights = available[spec.weights] if spec.weights != "DEFAULT" else available.DEFAULT
        network = zoo.get_model(spec.source, weights=weights)
        return _Built(network, weights, _drop_auxiliary(network))
    usual = next(iter(available))  # The first weights have the common input size; later ones resize in other ways.
    torch.manual_seed(spec.seed)
    network = zoo.get_model(spec.source, weights=None)
    transformed = _drop_auxiliary(network)
    if spec.weights == "random":
        _init_random_weights(network, usual.transforms().crop_size[0])
        return _Built(network, usual, transformed)
    _check_file(spec)
    return _Built(network, usual, transformed, load_weights(network, Path(spec.weights), spec.source))


def _check_file(spec: ModelSpec) -> None:
    if not Path(spec.weights).is_file():
        raise LoadError(f"model {spec.name}: {no_weights(spec)}")


def _init_random_weights(network: nn.Module, size: int) -> None:
    """Gives random weights gradients to look at: no head of zeros, BatchNorm statistics of smooth noise."""
    norms = [m for m in network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    for module in network.modules():
        if isinstance(module, nn.Linear) and not module.weight.any():
            nn.init.normal_(module.weight, std=module.in_features**-0.5)
    network.eval()
    if not norms:
        return
    noise = nn.functional.interpolate(torch.randn(8, 3, 16, 16), (size, size), mode="bicubic")
    for norm in norms:
        norm.train()
        norm.momentum = None  # The statistics become the average over all passes, of which there is one.
    with torch.no_grad():
        network(noise + 0.3 * torch.randn_like(noise))


def _drop_auxiliary(network: nn.Module) -> bool:
    """Removes torchvision's heads that never run; returns whether the input transform inside was switched off.

    torch ignores the tensors that a file has for a module that is None.
    """
    from torchvision import models as zoo

    if type(network) not in (zoo.GoogLeNet, zoo.Inception3):
        return False
    for name in AUXILIARY:
        if isinstance(getattr(network, name, None), nn.Module):
            setattr(network, name, None)
            network.aux_logits = False  # type: ignore[assignment]
    transformed = bool(network.transform_input)
    network.transform_input = False  # type: ignore[assignment]  # The normalisation does it instead.
    return transformed


def _describe(spec: ModelSpec, built: _Built) -> Source:
    preset = built.usual.transforms() if built.usual else None
    crop = preset.crop_size[0] if preset else 224
    height, width = spec.height or crop, spec.width or crop
    mean, std = _normalisation(spec, preset)
    if built.transformed:
        mean, std = _with_transform(mean, std)
    labels, usual = _labels(spec, built.usual)
    return Source(
        network=built.network,
        digest=digest(built.network),
        labels=labels,
        height=height,
        width=width,
        resize=spec.resize or (preset.resize_size[0] if preset and not spec.height else max(height, width)),
        interpolation=spec.interpolation or (preset.interpolation.value if preset else "bilinear"),
        mean=mean,
        std=std,
        channels=spec.channels,
        labels_are_usual=usual,
        classes=built.loaded.classes,
        notes=(*built.loaded.notes, *_notes(spec)),
    )


def _notes(spec: ModelSpec) -> list[str]:
    """What the entry of a builder of one's own left to be assumed, and how grey pictures are taken."""
    own = ":" in spec.source
    usual = "0 and 1" if spec.channels == 1 else "ImageNet's"
    notes = [GREY_NOTE] if spec.channels == 1 else []
    if own and (spec.mean is None or spec.std is None):
        left_out = " and ".join(name for name in ("mean", "std") if getattr(spec, name) is None)
        are = "are" if spec.mean is spec.std else "is"
        notes.append(f"{left_out} {are} not given: {usual} {are} used")
    if own and spec.weights == "DEFAULT" and not spec.is_embedded:
        notes.append(OWN_WEIGHTS)
    return notes


def _normalisation(spec: ModelSpec, preset: Any) -> tuple[Colour, Colour]:
    """Mean and standard deviation: the entry's, those of torchvision's weights, or the common ones."""
    if spec.channels == 1:
        return spec.mean or GREY_MEAN, spec.std or GREY_STD
    mean = spec.mean or (tuple(preset.mean) if preset else IMAGENET_MEAN)
    return mean, spec.std or (tuple(preset.std) if preset else IMAGENET_STD)


def _with_transform(mean: Colour, std: Colour) -> tuple[Colour, Colour]:
    """The normalisation that includes GoogLeNet's own x * s / 0.5 + (m - 0.5) / 0.5, ImageNet's m and s."""
    scaled = [b * 0.5 / s for b, s in zip(std, IMAGENET_STD, strict=True)]
    moved = [a - c * (m - 0.5) / 0.5 for a, c, m in zip(mean, scaled, IMAGENET_MEAN, strict=True)]
    return tuple(moved), tuple(scaled)


def _labels(spec: ModelSpec, usual: Any) -> tuple[tuple[str, ...], bool]:
    """Names of the classes, and whether they are those of torchvision's weights rather than of the entry."""
    if isinstance(spec.labels, Path):
        return _lines(spec.name, spec.labels), False
    if spec.labels is not None:
        return spec.labels, False
    return (tuple(usual.meta["categories"]), True) if usual else ((), False)


def _lines(name: str, path: Path) -> tuple[str, ...]:
    """The labels of a file. Raises LoadError."""
    try:
        lines = tuple(line.strip() for line in path.read_text("utf-8-sig").splitlines() if line.strip())
    except OSError as error:
        raise LoadError(f"model {name}: its labels, {path}, cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise LoadError(f"model {name}: its labels, {path}, are no text in UTF-8; save them as such") from error
    if not lines:
        raise LoadError(f"model {name}: its labels, {path}, are empty; give one label a line, or leave labels out")
    return lines


def class_names(spec: ModelSpec, source: Source, classes: int, *, single: bool = False) -> tuple[str, ...]:
    """The names of the classes once it is known how many there are. Raises LoadError.

    `single`: the network has one output for two classes, of which one name is enough, that of the second.
    """
    if source.classes not in (None, 1 if single else classes):
        text = f"the file gives its last layer {source.classes} outputs, but the network has {classes} classes"
        raise LoadError(f"model {spec.name}: {text}; let its builder make a network that fits the file")
    if len(source.labels) == classes:
        return source.labels
    if single and len(source.labels) == 1:
        return (f"not {source.labels[0]}", source.labels[0])
    if source.labels and not source.labels_are_usual:
        name, how = (spec.labels.name, "a line") if isinstance(spec.labels, Path) else ("its entry", "one")
        text = f"{name} has {len(source.labels)} labels, but the network has {classes} classes"
        alone = " (of a yes-or-no question NO and YES, or YES alone)" if single else ""
        raise LoadError(f"model {spec.name}: {text}; give {how} for each, in the order of the classes{alone}")
    return tuple(f"class {i}" for i in range(classes))


def digest(network: nn.Module) -> str:
    """SHA-256 over the name, type, shape and bytes of every parameter and buffer, and over what extra state holds."""
    sha = hashlib.sha256()
    for name, value in sorted(network.state_dict().items()):
        for part, item in _items(name, value):
            sha.update(_bytes(part, item))
    return sha.hexdigest()


def _items(name: str, value: object) -> Iterator[tuple[str, object]]:
    """A value of a state dict, or what is inside a dict, list or tuple, which get_extra_state may give."""
    if isinstance(value, Mapping):
        value = [item for pair in sorted(value.items(), key=lambda pair: str(pair[0])) for item in pair]
    if isinstance(value, list | tuple):
        for i, item in enumerate(value):
            yield from _items(f"{name}[{i}]", item)
    else:
        yield name, value


def _bytes(name: str, value: object) -> bytes:
    if not isinstance(value, Tensor):
        return f"{name} {value!r};".encode()
    tensor = value.to_dense() if value.is_sparse else value
    data = tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
    return f"{name} {tensor.dtype} {tuple(tensor.shape)};".encode() + data
