"""Building a network and giving it its weights."""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal, NamedTuple
from urllib.error import URLError

import torch
from torch import nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

from .builders import BuilderFault, build, check_sizes, text_of, where
from .card import Framing, Interpolation
from .catalogue import ModelSpec, names_file
from .checkpoints import CheckpointError
from .digest import digest
from .faults import no_weights
from .hubs.build import build_hub
from .hubs.names import HubName
from .hubs.preset import HubFault
from .inputs import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    Preset,
    SizeFault,
    geometry_of,
    normalisation,
    torchvision_preset,
    with_transform,
)
from .weights import Loaded, load_weights
from .wrappers import NotServable, refuse_quantised, run_uncompiled, unwrap, unwrap_children

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
    resize: Framing
    interpolation: Interpolation
    mean: tuple[float, ...]
    std: tuple[float, ...]
    channels: Literal[1, 3] = 3
    labels_are_usual: bool = False  # Whether they are those of published weights, and not the entry's.
    classes: int | None = None  # Size of the last layer, if the file of weights decided it.
    notes: tuple[str, ...] = ()

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of an input."""
        return self.channels, self.height, self.width


class LoadError(ValueError):
    """A model that cannot be loaded; the message names the model and what was wrong."""


class CatalogueMistake(LoadError):
    """An entry of the catalogue that does not fit its network; the message says what to correct, not which model."""


class _Built(NamedTuple):
    """A network with its weights, and what its library or published weights say of its input and classes."""

    network: nn.Module
    preset: Preset = Preset()
    transformed: bool = False  # Whether the network's own input transform was switched off.
    loaded: Loaded = Loaded()
    notes: tuple[str, ...] = ()


def load(spec: ModelSpec) -> Source:
    """Builds and loads. Raises LoadError."""
    try:
        built = _built(spec)
        built.network.eval().requires_grad_(False)
        return _describe(spec, built)
    except LoadError:
        raise
    except (BuilderFault, CheckpointError, HubFault, NotServable, SizeFault) as error:
        raise LoadError(f"model {spec.name}: {error}") from error
    except URLError as error:
        hint = f"give a file, --model {spec.name}=FILE, or {spec.name}=random to try things out"
        raise LoadError(f"model {spec.name}: its weights cannot be downloaded ({error.reason}); {hint}") from error
    except Exception as error:
        what = f"loading {spec.source} with weights {spec.weights} failed{where(error)}: {text_of(error)}"
        hint = '; try weights = "random", to tell whether the network or its weights are at fault'
        raise LoadError(f"model {spec.name}: {what}{hint * (spec.weights != 'random')}") from error


def _built(spec: ModelSpec) -> _Built:
    if spec.hub is not None:
        return _build_hub(spec, spec.hub)
    return _build_own(spec) if spec.is_own else _build_torchvision(spec)


def _build_hub(spec: ModelSpec, named: HubName) -> _Built:
    """A network of timm or of Transformers, which is served as their own code makes it."""
    network, preset, notes = build_hub(spec, named)
    loaded = Loaded()
    if names_file(spec):
        _check_file(spec)
        loaded = load_weights(network, Path(spec.weights), spec.source)
    elif spec.weights == "random":
        _init_random_weights(network, geometry_of(spec, preset.geometry)[:2], spec.channels)
    return _Built(network, preset, loaded=loaded, notes=notes)


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
        return _Built(network, torchvision_preset(weights), _drop_auxiliary(network))
    usual = next(iter(available))  # The first weights have the common input size; later ones resize in other ways.
    torch.manual_seed(spec.seed)
    segments = spec.source in zoo.list_models(module=zoo.segmentation)  # These would download a part of the weights.
    network = zoo.get_model(spec.source, weights=None, **({"weights_backbone": None} if segments else {}))
    transformed = _drop_auxiliary(network)
    preset = torchvision_preset(usual)
    if spec.weights == "random":
        size = geometry_of(spec, preset.geometry)[:2] if segments else tuple(usual.transforms().crop_size * 2)[:2]
        _init_random_weights(network, size)
        return _Built(network, preset, transformed)
    if segments and getattr(network, "aux_classifier", False) is None:
        del network.aux_classifier
        network.register_module("aux_classifier", None)  # A file may have weights for it, which are then ignored.
    _check_file(spec)
    loaded = load_weights(network, Path(spec.weights), spec.source)
    return _Built(network, preset, transformed, loaded)


def _check_file(spec: ModelSpec) -> None:
    if not Path(spec.weights).is_file():
        raise LoadError(f"model {spec.name}: {no_weights(spec)}")


def _init_random_weights(network: nn.Module, size: tuple[int, int], channels: int = 3) -> None:
    """Gives random weights gradients to look at: no head of zeros, BatchNorm statistics of smooth noise."""
    norms = [m for m in network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    for module in network.modules():
        if isinstance(module, nn.Linear) and not module.weight.any():
            nn.init.normal_(module.weight, std=module.in_features**-0.5)
    network.eval()
    if not norms:
        return
    noise = nn.functional.interpolate(torch.randn(8, channels, 16, 16), size, mode="bicubic")
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
    geometry, (mean, std) = geometry_of(spec, built.preset.geometry), normalisation(spec, built.preset.colours)
    if built.transformed:
        mean, std = with_transform(mean, std)
    labels, usual = _labels(spec, built.preset.labels)
    return Source(
        network=built.network,
        digest=digest(built.network),
        labels=labels,
        height=geometry.height,
        width=geometry.width,
        resize=geometry.resize,
        interpolation=geometry.interpolation,
        mean=mean,
        std=std,
        channels=spec.channels,
        labels_are_usual=usual,
        classes=built.loaded.classes,
        notes=(*built.loaded.notes, *built.notes, *_notes(spec, built.network)),
    )


def _notes(spec: ModelSpec, network: nn.Module) -> list[str]:
    """What the entry of a builder of one's own left to be assumed, and how grey pictures are taken."""
    usual = "0 and 1" if spec.channels == 1 else "ImageNet's"
    notes = [GREY_NOTE] if spec.channels == 1 else []
    if spec.is_own and (spec.mean is None or spec.std is None):
        left_out = " and ".join(name for name in ("mean", "std") if getattr(spec, name) is None)
        are = "are" if spec.mean is spec.std else "is"
        notes.append(f"{left_out} {are} not given: {usual} {are} used{_timms_own(network)}")
    if spec.is_own and spec.weights == "DEFAULT" and not spec.is_embedded:
        notes.append(OWN_WEIGHTS)
    return notes


def _timms_own(network: nn.Module) -> str:
    """What timm says of the normalisation of a network that a function of timm made, or nothing."""
    own = getattr(network, "pretrained_cfg", None)
    if not isinstance(own, Mapping) or "mean" not in own or "std" not in own:
        return ""
    hint = f'; timm says mean = {list(own["mean"])} and std = {list(own["std"])}, which builder = "timm:NAME" takes'
    return hint if (tuple(own["mean"]), tuple(own["std"])) != (IMAGENET_MEAN, IMAGENET_STD) else ""


def _labels(spec: ModelSpec, usual: tuple[str, ...]) -> tuple[tuple[str, ...], bool]:
    """Names of the classes, and whether they are those of published weights rather than of the entry."""
    if isinstance(spec.labels, Path):
        return _lines(spec.name, spec.labels), False
    if spec.labels is not None:
        return spec.labels, False
    return usual, bool(usual)


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
