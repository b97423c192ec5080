"""Which builders name a network of a hub: timm:NAME and hf:NAME_OR_FOLDER. This needs none of their packages."""

from pathlib import Path
from typing import Literal, NamedTuple

# The one function of the module timm itself that returns a network; every other word after timm: is a network's name.
TIMM_FUNCTION = "create_model"

CONFIG = "config.json"  # What a folder of a network of Hugging Face has.
PATH_STARTS = (".", "/", "~")  # What begins so is a path, and no name of a hub.


class HubName(NamedTuple):
    """A network of a hub."""

    hub: Literal["timm", "hf"]
    name: str  # For hf it may be a folder.

    @property
    def is_folder(self) -> bool:
        """Whether it names a folder, whether it is there or not."""
        return self.hub == "hf" and self.name.startswith(PATH_STARTS)

    @property
    def folder(self) -> Path:
        """The folder that it names."""
        return Path(self.name).expanduser()


def hub_name(source: str) -> HubName | None:
    """The network of a hub that a builder names, or None for torchvision's networks and functions of one's own."""
    prefix, mark, name = source.partition(":")
    if prefix == "hf" and mark:
        return HubName("hf", name)
    if prefix == "timm" and mark and name != TIMM_FUNCTION:
        return HubName("timm", name)
    return None


def resolved(source: str, base: Path) -> str:
    """The builder with the whole path of its folder, if it names one: a path, or a folder that `base` has."""
    named = hub_name(source)
    if named is None or named.hub != "hf" or not named.name:
        return source
    inside = (base / named.folder).absolute()
    return f"hf:{inside}" if named.name.startswith(PATH_STARTS) or inside.is_dir() else source
