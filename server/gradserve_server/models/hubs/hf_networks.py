"""Networks of Hugging Face: AutoModelForImageClassification of a folder or of a repository of the hub at a revision."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn

from ..card import Framing, Interpolation
from ..catalogue import ModelSpec
from ..checkpoints import shown
from ..inputs import Colours, Geometry, Preset
from ..preprocess import RESAMPLING
from ..torch_resize import FILTERS
from .download import INDEX, SINGLE, check_weights, fetched, read_json
from .names import CONFIG, HubName
from .preset import (
    ONE_LEVEL,
    TOLERANCE,
    HubFault,
    HubNetwork,
    Transform,
    measured_colours,
    proven,
    resizes_as_usual,
)

PROCESSOR = "preprocessor_config.json"
TIMM_KIND = "timm_wrapper"  # Its networks are timm's, made with whichever arguments the file names.
COMMIT_DIGITS = 40
LEVIT_SCALE = 256 / 224  # Of the size before the crop, in LevitImageProcessor.
# The filters that torchvision has for pictures of 8 bits.
ROUNDED_BY_TORCH: dict[Interpolation, Interpolation] = {
    "bilinear": "torch_bilinear",
    "bicubic": "torch_bicubic",
    "lanczos": "torch_lanczos",
}
COLOUR_TOLERANCE = 1e-6
GIVE_ALL = "give height, width, resize, interpolation, mean and std for what is to be done instead"
FOREIGN_CODE = "it needs Python code of its repository, which is never run"


def hf_network(spec: ModelSpec, named: HubName) -> HubNetwork:
    """Builds it. Raises HubFault, and what transformers raises."""
    from transformers.utils import logging

    logging.disable_progress_bar()  # A server's log is no place for bars.
    published = spec.weights == "DEFAULT"
    folder = named.folder if named.is_folder else _download(spec, named.name, published)
    config = _config(folder)
    if published:
        check_weights(folder)
    network = _with_weights(folder, config) if published else _without_weights(config)
    notes = []
    if spec.revision and not (len(spec.revision) == COMMIT_DIGITS and set(spec.revision) <= set("0123456789abcdef")):
        notes.append(f"revision {spec.revision} is no commit, and may move; give the commit to pin its weights")
    return HubNetwork(network, Preset(*_input(spec, folder, config), _labels(config)), tuple(notes))


def _download(spec: ModelSpec, name: str, published: bool) -> Path:
    weights = [(SINGLE, INDEX)] if published else []
    return fetched(name, spec.revision, [(CONFIG,), *weights], [PROCESSOR] if None in _given(spec) else [])


def _given(spec: ModelSpec) -> list[Any]:
    """What the entry says of the preprocessing; where that is all, no image processor is needed."""
    return [spec.height, spec.width, spec.resize, spec.interpolation, spec.mean, spec.std]


def _config(folder: Path) -> Any:
    """Its configuration. Raises HubFault."""
    from transformers import AutoConfig

    content = read_json(folder / CONFIG)
    kind = content.get("model_type")
    if kind == TIMM_KIND or (kind is None and "architecture" in content):
        file = folder / "model.safetensors"
        what = f"{folder} is a network of timm"
        name = content.get("architecture", "NAME")
        raise HubFault(f'{what}; write builder = "timm:{name}" and weights = "{file}"')
    if kernel := next(_kernels(content), ""):
        what = f"its {CONFIG} names {kernel} of the hub for its attention, which is code"
        raise HubFault(f"{what}, and is never fetched; take attn_implementation out of a copy of it in a folder")
    try:
        return AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except ValueError as error:
        if "auto_map" in content:
            raise HubFault(f"{FOREIGN_CODE}; write a builder of your own, package.module:function") from error
        raise HubFault(f"transformers knows no model_type {kind!r}; is a newer version needed?") from error
    except Exception as error:
        why = f"transformers cannot read {CONFIG} in {folder} ({' '.join(str(error).split())[:200]})"
        raise HubFault(f"{why}; copy or download it again") from error


def _kernels(content: Any) -> Iterator[str]:
    """The kernels that a configuration or a part of it names: repositories of the hub, OWNER/NAME."""
    if isinstance(content, Mapping):
        for key, value in content.items():
            if "attn_implementation" in key:
                values = value.values() if isinstance(value, Mapping) else (value,)
                yield from (each for each in values if isinstance(each, str) and "/" in each)
            else:
                yield from _kernels(value)


def _with_weights(folder: Path, config: Any) -> nn.Module:
    """The network with all of its weights. Raises HubFault."""
    from transformers import AutoModelForImageClassification

    _check_kind(config)
    try:
        network, report = AutoModelForImageClassification.from_pretrained(
            folder,
            config=config,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            dtype=torch.float32,
            output_loading_info=True,
        )
    except SafetensorError as error:
        raise HubFault(f"a file of weights in {folder} is cut off or damaged; copy it again") from error
    if absent := sorted({*report["missing_keys"], *(key for key, *_ in report["mismatched_keys"])}):
        what = f"its file has no weights that fit {shown(absent)}, which would be random numbers"
        made = ", ".join(config.architectures or ["another class"])
        raise HubFault(f"{what}; it was saved as {made}, and must be one for image classification")
    return network  # type: ignore[no-any-return]


def _without_weights(config: Any) -> nn.Module:
    from transformers import AutoModelForImageClassification

    _check_kind(config)
    return AutoModelForImageClassification.from_config(config, trust_remote_code=False, dtype=torch.float32)  # type: ignore[no-any-return]


def _check_kind(config: Any) -> None:
    """Raises HubFault for networks that classify no images."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING as KNOWN

    if type(config) not in KNOWN:
        raise HubFault(f"transformers has no image classification for networks of the kind {config.model_type}")


def _labels(config: Any) -> tuple[str, ...]:
    """The names of its classes, in their order; none where they are transformers' own LABEL_0 and so on."""
    labels = tuple(str(config.id2label[i]) for i in sorted(config.id2label))
    return () if all(label == f"LABEL_{i}" for i, label in enumerate(labels)) else labels


def _input(spec: ModelSpec, folder: Path, config: Any) -> tuple[Geometry | None, Colours | None]:
    """What its image processor does, as far as the entry does not say otherwise. Raises HubFault."""
    channels = getattr(config, "num_channels", 3)
    if channels != spec.channels:
        remedy = f"write channels = {channels}" if channels in (1, 3) else "only networks of 1 and of 3 are served"
        raise HubFault(f"it takes {channels} channels, and channels is {spec.channels}; {remedy}")
    if None not in _given(spec):
        return None, None
    if not (folder / PROCESSOR).is_file():
        raise HubFault(f"{folder.name} has no {PROCESSOR}, so that its preprocessing is not known; {GIVE_ALL}")
    processor = _processor(folder, "pil")
    transform = _transform(processor)
    try:
        measured = measured_colours(transform, channels)
        colours = _exact(processor, measured)
        geometry = proven(transform, _geometries(processor), colours)
        geometry = geometry and _as_usual(folder, geometry, colours)
    except HubFault as error:
        raise HubFault(f"{error}; {GIVE_ALL}") from error
    except Exception as error:
        raise HubFault(f"its {_kind(processor)} failed on a test picture ({error}); {GIVE_ALL}") from error
    if geometry is None:
        raise HubFault(f"its {_kind(processor)} does what this server does not{_odd(processor)}; {GIVE_ALL}")
    return geometry, colours


def _as_usual(folder: Path, geometry: Geometry, colours: Colours) -> Geometry | None:
    """The geometry with the rounding of the backend that transformers takes by itself, where that is torchvision's.

    None where that backend does something else with pictures.
    """
    usual = _processor(folder)
    if type(usual) is type(_processor(folder, "pil")):
        return geometry
    way = ROUNDED_BY_TORCH.get(geometry.interpolation, geometry.interpolation)
    rounded = geometry._replace(interpolation=way)
    tolerance = ONE_LEVEL if way in FILTERS and not resizes_as_usual(way) else TOLERANCE
    return proven(_transform(usual), [rounded], colours, tolerance)


def _processor(folder: Path, backend: str | None = None) -> Any:
    """Its image processor with that backend, by default the one that transformers takes. Raises HubFault."""
    from transformers import AutoImageProcessor

    content = read_json(folder / PROCESSOR)
    try:
        return AutoImageProcessor.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False, backend=backend
        )
    except (ValueError, ImportError) as error:
        if "auto_map" in content:
            raise HubFault(f"its image processor: {FOREIGN_CODE}; {GIVE_ALL}") from error
        raise HubFault(f"its image processor cannot be made ({str(error)[:200]}); {GIVE_ALL}") from error


def _transform(processor: Any) -> Transform:
    return lambda picture: processor(images=picture, return_tensors="pt")["pixel_values"][0]


def _kind(processor: Any) -> str:
    return type(processor).__name__.removesuffix("Pil")


def _odd(processor: Any) -> str:
    """What it does that this server does not, as far as its settings tell."""
    named = ("do_pad", "do_flip_channel_order", "do_thumbnail", "do_align_long_axis")
    odd = [name for name in named if getattr(processor, name, False)]
    if not getattr(processor, "do_resize", True) and not getattr(processor, "do_center_crop", False):
        return ": it leaves pictures at their own size"
    return f": {', '.join(odd)}" if odd else ""


def _exact(processor: Any, measured: Colours) -> Colours:
    """Its normalisation as its settings have it where these agree with what was measured, which has been rounded."""
    factor = 255 * processor.rescale_factor if processor.do_rescale else 255.0
    normalised = bool(getattr(processor, "do_normalize", False))
    mean = processor.image_mean if normalised else [0.0] * len(measured.mean)
    std = processor.image_std if normalised else [1.0] * len(measured.mean)
    mean, std = ([each] * len(measured.mean) if isinstance(each, float | int) else each for each in (mean, std))
    settings = Colours(tuple(each / factor for each in mean), tuple(each / factor for each in std))
    pairs = zip((*settings.mean, *settings.std), (*measured.mean, *measured.std), strict=False)
    same = len(settings.mean) == len(measured.mean) and all(abs(a - b) <= COLOUR_TOLERANCE for a, b in pairs)
    return settings if same else measured


def _geometries(processor: Any) -> Iterator[Geometry]:
    """What the processors of transformers may come to, by their settings."""
    names = {int(number): name for name, number in RESAMPLING.items() if name not in ROUNDED_BY_TORCH.values()}
    way = names.get(int(processor.resample)) if processor.resample is not None else "bilinear"
    if way is None or not processor.do_resize:
        return
    size = _sides(processor, "size")
    cropped = _sides(processor, "crop_size") if getattr(processor, "do_center_crop", False) else {}
    if shortest := size.get("shortest_edge"):
        height, width = cropped.get("height", shortest), cropped.get("width", shortest)
        scales = (1.0, 1 / (getattr(processor, "crop_pct", None) or 1.0), LEVIT_SCALE)
        for side in dict.fromkeys(int(shortest * scale) for scale in scales):
            yield Geometry(height, width, Framing(side, side, floored=True), way)
        yield Geometry(shortest, shortest, Framing(shortest, shortest, stretched=True), way)
    if "height" in size and "width" in size:
        height, width = cropped.get("height", size["height"]), cropped.get("width", size["width"])
        yield Geometry(height, width, Framing(size["height"], size["width"], stretched=True, floored=True), way)


def _sides(processor: Any, name: str) -> Mapping[str, int]:
    """A setting of sizes as a dict of the sides that it names."""
    value = getattr(processor, name, None)
    return {key: each for key, each in dict(value or {}).items() if each is not None}
