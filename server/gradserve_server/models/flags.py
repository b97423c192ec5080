"""Models that the command line names: of the configuration file, embedded ones, torchvision's, and those of hubs."""

import re
from collections.abc import Iterable
from os.path import basename, normpath
from pathlib import Path

from pydantic import ValidationError

from .catalogue import EMBEDDED, ModelSpec
from .hubs.names import HubName, hub_name, resolved
from .tables import mistakes

MAX_NAME_CHARACTERS = 64  # The longest name of a model that `catalogue.Name` allows.


def from_flag(flag: str, known: Iterable[ModelSpec] = ()) -> ModelSpec:
    """The model of `--model NAME`, or `--model NAME=WEIGHTS`; see `of_hub` for those of hubs. Raises ValueError.

    known: the models of the configuration file, which come before embedded ones of the same name.
    """
    source, _, weights = flag.partition("=")
    named = EMBEDDED | {spec.name: spec for spec in known}
    hub = hub_name(source)
    if ":" in source and hub is None:
        own = f'a network of your own needs --config with [models.NAME] and builder = "{source}"'
        raise ValueError(f"--model takes NAME, timm:NAME or hf:NAME_OR_FOLDER; {own}")
    try:
        spec = of_hub(source, hub) if hub else named.get(source) or ModelSpec(name=source)
    except ValidationError as error:
        raise ValueError(mistakes(error, f"--model {flag}", ModelSpec)) from error
    return spec.model_copy(update={"load": True, **({"weights": weights} if weights else {})})


def of_hub(source: str, hub: HubName) -> ModelSpec:
    """The network of a hub under its own name: timm:NAME, hf:NAME or hf:FOLDER; a name may have @REVISION after it.

    Folders are relative to the one that the command is called in. Raises ValueError, and so ValidationError.
    """
    source, mark, revision = (source, "", "") if hub.is_folder else source.partition("@")
    builder = resolved(source, Path.cwd())
    if mark and builder != source:
        folder = source.removeprefix("hf:")
        what = f"--model {source}@{revision}: the folder {folder} is here, and has no revisions"
        raise ValueError(f"{what}; write hf:./{folder}, or call the command elsewhere")
    return ModelSpec(name=name_of(builder), builder=builder, revision=revision if mark else None)


def name_of(builder: str) -> str:
    """The name to serve a hub's network by: the last part of its own, with `-` for what a name may not have."""
    hub, _, name = builder.partition(":")
    legal = re.sub(r"[^A-Za-z0-9._-]+", "-", basename(normpath(name))).lstrip("._-")
    return legal[:MAX_NAME_CHARACTERS] or hub
