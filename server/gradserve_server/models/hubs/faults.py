"""What is wrong with entries that name a network of a hub, as far as it can be known without torch."""

from importlib.util import find_spec
from pathlib import Path

from ..catalogue import ModelSpec
from ..tables import nearest
from .names import CONFIG, HubName

NO_TIMM = "timm is not installed; run: pip install 'gradserve[timm]'"
NO_TRANSFORMERS = "transformers is not installed; run: pip install 'gradserve[hf]'"


def hub_fault(spec: ModelSpec, named: HubName) -> str:
    """Why the network certainly cannot be built, or nothing. Names of timm are looked up when it is built."""
    return _timm_fault(named.name) if named.hub == "timm" else _hf_fault(spec, named)


def _timm_fault(name: str) -> str:
    if find_spec("timm") is None:
        return NO_TIMM
    return "" if name else "timm: needs a name, such as timm:resnet18"


def _hf_fault(spec: ModelSpec, named: HubName) -> str:
    if find_spec("transformers") is None:
        return NO_TRANSFORMERS
    if not named.name:
        return "hf: needs a name or a folder, such as hf:microsoft/resnet-50 or hf:./my-network"
    if named.is_folder:
        return _folder_fault(named.folder)
    if not spec.revision:
        what = f"revision is missing: what {named.name} is on the hub may change"
        flag = f"--model hf:{named.name}@COMMIT"
        return f'{what}; give revision = "COMMIT" ({flag}), which its page shows, or a folder, hf:./FOLDER'
    return ""


def _folder_fault(folder: Path) -> str:
    if not folder.is_dir():
        beside = [each.name for each in folder.parent.iterdir() if each.is_dir()] if folder.parent.is_dir() else []
        near = nearest(folder.name, beside)
        base = "relative to the configuration file, or in --model to where the command is called"
        return f"there is no folder {folder}{near}; correct builder, in which a path is {base}"
    if not (folder / CONFIG).is_file():
        return f"{folder} has no {CONFIG}; it must be a folder that save_pretrained wrote"
    return ""
