"""Which models a server serves: those of a TOML file, or the embedded ones; `flags.py` has the command line's."""

import logging
from collections.abc import Collection
from functools import cache
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, StringConstraints, ValidationError, model_validator

from .card import HeadKind, Interpolation, Precision, Rpc
from .hubs.names import HubName, hub_name, resolved
from .tables import mistakes, read_toml

log = logging.getLogger(__name__)

Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
Colour = Annotated[tuple[FiniteFloat, ...], Field(min_length=1)]  # A number for each channel that the network takes.
Rows = Annotated[int, Field(ge=1, le=4096)]
Side = Annotated[int, Field(ge=1, le=4096)]
Revision = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._/-]{0,127}$")]
PRECISIONS: tuple[Precision, ...] = ("exact", "balanced", "fast")
MAX_UNIT_VALUE = 2  # Largest mean or std of pixels in [0, 1]; a larger one is for pixels up to 255.
EMBEDDED_FOLDER = Path(__file__).parent / "embedded"
EMBEDDED_PACKAGE = "gradserve_server.models.embedded"


class TokenSpec(BaseModel):
    """Tokens of a transformer that stand for no place of the image: class tokens, registers."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    leading: int = Field(default=0, ge=0, le=4096, description="before the patches")
    trailing: int = Field(default=0, ge=0, le=4096, description="after the patches")

    @property
    def numbers(self) -> tuple[int, int]:
        """The numbers of leading and of trailing tokens."""
        return self.leading, self.trailing


class ModelSpec(BaseModel):
    """One `[models.NAME]` table of the catalogue. What is left out comes from torchvision's own metadata."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Name = Field(description="name to use in requests")
    builder: str = Field(
        default="",
        description="torchvision name, timm:NAME, hf:NAME_OR_FOLDER or package.module:function; default: the name",
    )
    arguments: dict[str, int | float | str] = Field(
        default={}, description="keyword arguments for timm's networks or a builder of your own"
    )
    revision: Revision | None = Field(default=None, description="commit of the hub's weights, for timm: and hf:")
    weights: str = Field(
        default="DEFAULT", description='"DEFAULT" or an enum name (downloaded), "random", or else a file of weights'
    )
    labels: Path | tuple[str, ...] | None = Field(default=None, description="names of the classes, or a file of lines")
    height: int | None = Field(default=None, ge=1, le=4096, description="height of the input after the crop")
    width: int | None = Field(default=None, ge=1, le=4096, description="width of the input after the crop")
    resize: Side | tuple[Side, Side] | None = Field(
        default=None,
        description="before the crop: shorter side, at least the input's longer one, or [height, width] to stretch to",
    )
    interpolation: Interpolation | None = Field(default=None, description="of the resizing")
    channels: Literal[1, 3] = Field(default=3, description="that the network takes; 1: pictures are turned into grey")
    mean: Colour | None = Field(default=None, description="subtracted from pixels in [0, 1], a number for each channel")
    std: Colour | None = Field(default=None, description="divides them, a number for each channel")
    head: HeadKind | None = Field(
        default=None, description="what its outputs mean; default: softmax, or what a sigmoid at its end says"
    )
    default_eps: float = Field(default=4 / 255, ge=0, le=1, description="perturbation budget that suits the model")
    seed: int = Field(default=0, ge=0, description='of "random" weights')
    index: Literal["embedded"] | Path | None = Field(default=None, description="folder of its influence index")
    pictures: Literal["embedded"] | Path | None = Field(default=None, description="folder of its index of pictures")
    notes: tuple[str, ...] = Field(default=(), description="shown with the model")
    tokens: TokenSpec | None = Field(default=None, description="tokens beside the patches, where they are not found")
    precisions: tuple[Precision, ...] | None = Field(
        default=None, description="which to load; default: those that the device computes fast, exact always"
    )
    auto: dict[Rpc, Precision] = Field(default={}, description="what AUTO means for an RPC; default: exact")
    rows: dict[Precision, Rows] = Field(default={}, description="rows per pass at the model's own input size")
    load: bool = Field(default=True, description="whether it is loaded when the server starts, or only when asked to")

    @model_validator(mode="after")
    def _check_precisions(self) -> "ModelSpec":
        """EXACT, and every precision that `auto` or `rows` name, must be loaded."""
        if self.precisions is None:
            return self
        if missing := {"exact", *self.auto.values(), *self.rows} - set(self.precisions):
            why = "certificates need it" if "exact" in missing else "auto or rows have it"
            first, *_ = (each for each in PRECISIONS if each in missing)
            whole = ", ".join(f'"{each}"' for each in PRECISIONS if each in missing.union(self.precisions))
            raise ValueError(f'precisions must include "{first}" ({why}); write [{whole}]')
        return self

    @model_validator(mode="after")
    def _check_own_builder(self) -> "ModelSpec":
        if self.arguments and (":" not in self.source or (self.hub and self.hub.hub == "hf")):
            raise ValueError("arguments are for timm:NAME and for a builder of your own, package.module:function")
        if self.revision and (self.hub is None or self.hub.is_folder):
            raise ValueError("revision is for names of a hub, timm:NAME or hf:NAME, whose weights may change there")
        if self.channels == 1 and ":" not in self.source:
            raise ValueError(
                "channels = 1 is for timm:, hf: and a builder of your own; torchvision's networks take 3 channels"
            )
        return self

    @model_validator(mode="after")
    def _check_normalisation(self) -> "ModelSpec":
        """The normalisation must have a number for each channel, for pixels in [0, 1]."""
        for name in ("mean", "std"):
            numbers = getattr(self, name)
            if numbers is not None and len(numbers) != self.channels:
                hint = " (a network that takes grey pictures needs channels = 1)" if len(numbers) == 1 else ""
                raise ValueError(f"{name} has {len(numbers)} numbers for channels = {self.channels}{hint}")
            if numbers is not None and max(numbers) > MAX_UNIT_VALUE:
                raise ValueError("pixels are in [0, 1]; divide mean and std by 255")
        if self.std is not None and min(self.std) <= 0:
            raise ValueError("std must be above 0")
        return self

    @property
    def source(self) -> str:
        """What builds the model."""
        return self.builder or self.name

    @property
    def hub(self) -> HubName | None:
        """The network of a hub that it is, or None."""
        return hub_name(self.source)

    @property
    def is_own(self) -> bool:
        """Whether a function of one's own builds it, package.module:function, which alone knows its input."""
        return ":" in self.source and self.hub is None

    @property
    def is_embedded(self) -> bool:
        """Whether its network is one of those that come with this package."""
        return self.source.startswith(EMBEDDED_PACKAGE)


def _embedded(name: str, package: str, weights: str, **facts: object) -> ModelSpec:
    folder = EMBEDDED_FOLDER / package
    builder = f"{EMBEDDED_PACKAGE}.{package}.network:{package}"
    paths = {"weights": str(folder / weights) if weights else "DEFAULT", "labels": folder / "labels.txt"}
    return ModelSpec.model_validate({"name": name, "builder": builder, **paths, **facts})


IMAGENET_INPUT: dict[str, object] = {
    "height": 224,
    "width": 224,
    "resize": 256,
    "interpolation": "bicubic",
    "mean": (127 / 255,) * 3,
    "std": (128 / 255,) * 3,
}

IMAGENET_NOTES = ("photos of a thousand kinds of things; EfficientNet-Lite0",)

DIGITS_INPUT = {"height": 8, "width": 8, "resize": 8, "mean": (0.5,) * 3, "std": (0.5,) * 3, "default_eps": 0.1}

CIFAR10_INPUT: dict[str, object] = {
    "height": 32,
    "width": 32,
    "resize": 32,
    "mean": (0.4914, 0.4822, 0.4465),
    "std": (0.2470, 0.2435, 0.2616),
    "default_eps": 8 / 255,
}

ROBUST_NOTES = ("photos of ten things, 32x32; trained against attacks in Linf 8/255",)

EMBEDDED = {  # The first is the default model of a server that is not told what to serve.
    spec.name: spec
    for spec in [
        _embedded("imagenet", "imagenet", "", **IMAGENET_INPUT, notes=IMAGENET_NOTES),
        _embedded(
            "digits",
            "digits",
            "digits.safetensors",
            **DIGITS_INPUT,
            index="embedded",
            pictures="embedded",
            notes=("8x8 grey digits, bright ink on black",),
        ),
        _embedded("cifar10", "cifar10", "cifar10.safetensors", **CIFAR10_INPUT, notes=("photos of ten things, 32x32",)),
        _embedded("cifar10-robust", "cifar10", "cifar10-robust.safetensors", **CIFAR10_INPUT, notes=ROBUST_NOTES),
    ]
}


def read_catalogue(path: Path) -> list[ModelSpec]:
    """The models of a TOML file; relative paths are relative to it. Raises OSError, ValueError."""
    tables = read_toml(path).get("models", {})
    if not isinstance(tables, dict) or not all(isinstance(table, dict) for table in tables.values()):
        raise ValueError(f"{path}: models must be tables: [models.NAME]")
    specs = []
    for name, table in tables.items():
        base = EMBEDDED[name].model_dump() if name in EMBEDDED and "builder" not in table else {"name": name}
        try:
            spec = ModelSpec.model_validate({**base, **table})
        except ValidationError as error:
            raise ValueError(mistakes(error, f"{path.name}, [models.{name}]", ModelSpec)) from error
        changes: dict[str, object] = {"builder": resolved(spec.builder, path.parent)}
        if spec.revision and changes["builder"] != spec.builder:
            folder = spec.builder.removeprefix("hf:")
            what = f"revision is given, but the folder {folder} is beside the file"
            remedy = f"write hf:./{folder} without revision, or move it"
            raise ValueError(f"{path.name}, [models.{name}]: {what}; {remedy}")
        if names_file(spec):
            changes["weights"] = str(path.parent / spec.weights)
        if isinstance(spec.labels, Path):
            changes["labels"] = path.parent / spec.labels
        if isinstance(spec.index, Path):
            changes["index"] = path.parent / spec.index
        if isinstance(spec.pictures, Path):
            changes["pictures"] = path.parent / spec.pictures
        specs.append(spec.model_copy(update=changes))
    return specs


class Tuning(BaseModel):
    """A file that `gradserve bench --tune` wrote: rows and precisions by model, and the machine that they hold for."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    machine: dict[str, str | int] = {}
    models: dict[str, "Tuned"] = {}

    def applied(self, spec: ModelSpec, defaults: Collection[Precision] = PRECISIONS) -> ModelSpec:
        """The spec with the measured rows and precisions; those that it names itself stay.

        `defaults`: precisions that are loaded if the spec names none. Measurements of other precisions are left out.
        """
        tuned = self.models.get(spec.name)
        if tuned is None:
            return spec
        there = defaults if spec.precisions is None else spec.precisions
        if left_out := {*tuned.rows, *tuned.auto.values()}.difference(there):
            text = "model %s: what was measured of %s is left out, since it is not loaded on this machine"
            log.warning(text, spec.name, ", ".join(sorted(left_out)).upper())
        rows = {precision: count for precision, count in tuned.rows.items() if precision in there}
        auto = {rpc: precision for rpc, precision in tuned.auto.items() if precision in there}
        return spec.model_copy(update={"rows": rows | spec.rows, "auto": auto | spec.auto})


class Tuned(BaseModel):
    """The measurements of one model."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    rows: dict[Precision, Rows] = {}
    auto: dict[Rpc, Precision] = {}


def read_tuning(path: Path) -> Tuning:
    """The measurements in a file. Raises OSError, ValueError."""
    try:
        return Tuning.model_validate(read_toml(path))
    except ValidationError as error:
        raise ValueError(mistakes(error, path.name, Tuning)) from error


def names_file(spec: ModelSpec) -> bool:
    """Whether the entry's weights are a path: all words are paths but the names that its builder knows."""
    return spec.weights not in (*weights_names(spec.source), "DEFAULT")


def weights_names(source: str) -> tuple[str, ...]:
    """The words that weights may be instead of a file, for a builder."""
    if hub_name(source):
        return ("random", "DEFAULT")
    if source == EMBEDDED["imagenet"].source:
        return ("DEFAULT",)  # Its builder makes it with the published weights, never with random ones.
    if ":" in source or source not in classifiers():
        return ("random",)
    from torchvision import models as zoo

    return ("random", "DEFAULT", *zoo.get_model_weights(source).__members__)


@cache
def classifiers() -> tuple[str, ...]:
    """The names of torchvision's networks that classify pictures, or their positions."""
    from torchvision import models as zoo

    return (*zoo.list_models(module=zoo), *zoo.list_models(module=zoo.segmentation))
