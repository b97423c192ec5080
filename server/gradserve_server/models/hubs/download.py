"""Files of a repository of the Hugging Face hub: from the cache, or fetched, with words for what may go wrong."""

import json
import re
import threading
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

from ..tables import nearest
from .preset import HubFault

MAX_SECONDS = 8.0  # Longest wait for the hub's first answer, beside which the program has 2 s to say so.
REQUEST_SECONDS = 6.0  # Longest wait within a request.
PICKLED = (".bin", ".pth", ".pt", ".ckpt", ".pkl", ".h5", ".msgpack", ".npz")
SAFETENSORS = ".safetensors"
SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"  # All weights in one file, or a list of several.
SHARD = re.compile(r"[\w.-]+\.safetensors")  # Name of a file of weights that an index lists, beside it.

Alternatives = Sequence[str]  # Names of files of which one must be there; the first that is there is taken.


def fetched(
    repository: str, revision: str | None, needed: Sequence[Alternatives], wanted: Collection[str] = ()
) -> Path:
    """The folder with those files of a repository, and the parts that an index among them lists. Raises HubFault.

    wanted: files that the hub may lack. Where the cache has all that is needed and wanted, the hub is not asked.
    """
    cached = _cached(repository, revision, needed[0])
    names = [path.name for path in cached.iterdir()] if cached else []
    parts = [[part] for part in _shards(cached)] if cached and SINGLE not in names else []
    absent = _missing(names, [*needed, *([each] for each in wanted), *parts])
    if cached is not None and not absent:
        return cached
    what = f"{', '.join(each[0] for each in absent)} of {repository}" if cached else repository
    info = _answer(repository, revision, what, lambda: _info(repository, revision))
    names = [each.rfilename for each in info.siblings or []]
    if missing := _missing(names, needed):
        raise HubFault(_without(repository, missing, names))
    chosen = [next(name for name in each if name in names) for each in needed]
    folder = _downloaded(repository, revision, [*chosen, *(each for each in wanted if each in names)])
    parts_of_index = _shards(folder) if INDEX in chosen else []
    return _downloaded(repository, revision, parts_of_index) if parts_of_index else folder


def check_weights(folder: Path) -> None:
    """Raises HubFault where a folder lacks its file of weights, or one of those that its index lists."""
    names = [path.name for path in folder.iterdir()]
    if missing := _missing(names, [(SINGLE, INDEX)]):
        raise HubFault(_without(str(folder), missing, names))
    parts = [] if SINGLE in names else _shards(folder)
    if absent := [part for part in parts if part not in names]:
        raise HubFault(f"{folder} has no {', '.join(absent)}, which its {INDEX} lists; copy the whole folder")


def read_json(path: Path) -> dict[str, Any]:
    """The object of a file. Raises HubFault."""
    try:
        content = json.loads(path.read_text("utf-8"))
    except (ValueError, RecursionError) as error:
        why = f"{path.name} in {path.parent} is cut off or damaged ({_short(error)})"
        raise HubFault(f"{why}; copy or download it again") from error
    if not isinstance(content, dict):
        raise HubFault(f"{path.name} in {path.parent} has no {{...}}, names with their values; copy it again")
    return content


def _cached(repository: str, revision: str | None, names: Alternatives) -> Path | None:
    """The folder of the revision in the cache, if it has one of these files."""
    from huggingface_hub import try_to_load_from_cache

    paths = (try_to_load_from_cache(repository, name, revision=revision) for name in names)
    return next((Path(path).parent for path in paths if isinstance(path, str)), None)


def _downloaded(repository: str, revision: str | None, names: Sequence[str]) -> Path:
    """The folder with those files of the repository, which it has. Raises HubFault."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError

    try:
        return Path(snapshot_download(repository, revision=revision, allow_patterns=list(names)))
    except GatedRepoError as error:
        raise HubFault(_gated(repository)) from error
    except Exception as error:
        raise HubFault(
            f"downloading {repository} failed ({_short(error)}); try again, or {_by_hand(repository)}"
        ) from error


def _shards(folder: Path) -> list[str]:
    """The files that the weights in a folder consist of, where an index lists several. Raises HubFault."""
    if not (folder / INDEX).is_file():
        return []
    parts = read_json(folder / INDEX).get("weight_map")
    names = set(parts.values()) if isinstance(parts, dict) else set()
    if not names or not all(isinstance(name, str) and SHARD.fullmatch(name) for name in names):
        raise HubFault(f"{INDEX} in {folder} lists no files of weights beside it; copy or download it again")
    return sorted(names)


def _missing(names: Collection[str], needed: Iterable[Alternatives]) -> list[Alternatives]:
    return [each for each in needed if not any(name in names for name in each)]


def _without(where: str, missing: Sequence[Alternatives], names: Collection[str]) -> str:
    """What to say of files that are not there."""
    if any(each[0].endswith(SAFETENSORS) for each in missing):
        others = [name for name in names if name.endswith((*PICKLED, SAFETENSORS))]
        has = f"has its weights as {', '.join(sorted(others)[:3])} alone" if others else "has no weights"
        convert = "convert them: safetensors.torch.save_file(state_dict, 'model.safetensors')"
        files = " or ".join(next(each for each in missing if each[0].endswith(SAFETENSORS)))
        return f"{where} {has}; only safetensors files are loaded, in which no code can hide, here {files}; {convert}"
    return f"{where} has no {', '.join(each[0] for each in missing)}"


def _gated(repository: str) -> str:
    remedy = "ask for access on its page, and set HF_TOKEN to a token of the account that has it"
    return f"{repository} is gated: the hub gives it to whom its authors let in; {remedy}"


def _info(repository: str, revision: str | None) -> Any:
    from huggingface_hub import HfApi

    return HfApi().model_info(repository, revision=revision, timeout=REQUEST_SECONDS)


def _answer(repository: str, revision: str | None, what: str, ask: Callable[[], Any]) -> Any:
    """What the hub answers, which may take MAX_SECONDS, whatever the network does. Raises HubFault.

    what: which files are not in the cache, for people.
    """
    from huggingface_hub.errors import (
        GatedRepoError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    answers: list[Any] = []
    faults: list[Exception] = []

    def run() -> None:
        try:
            answers.append(ask())
        except Exception as error:
            faults.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(MAX_SECONDS)
    if answers:
        return answers[0]
    fault = faults[0] if faults else TimeoutError(f"no answer within {MAX_SECONDS:g} s")
    if isinstance(fault, RevisionNotFoundError):
        raise HubFault(f"{repository} has no revision {revision}; give the commit that its page shows") from fault
    if isinstance(fault, GatedRepoError):  # This is a RepositoryNotFoundError too.
        raise HubFault(_gated(repository)) from fault
    if isinstance(fault, RepositoryNotFoundError):
        unknown = f"the hub has no {repository}, or it is private{_near(repository)}"
        raise HubFault(f"{unknown}; correct builder, or set HF_TOKEN to a token that may read it") from fault
    why = "HF_HUB_OFFLINE is set" if isinstance(fault, OfflineModeIsEnabled) else _short(fault)
    raise HubFault(
        f"{what} is not in the cache, and the hub cannot be reached ({why}); {_by_hand(repository)}"
    ) from fault


def _by_hand(repository: str) -> str:
    return (
        f"download it where there is a network, `hf download {repository} --local-dir FOLDER`, and name what you have: "
        'builder = "hf:FOLDER", or weights = "FOLDER/model.safetensors" for timm'
    )


def _near(repository: str) -> str:
    """Names on the hub that are like that one, or nothing."""
    from huggingface_hub import HfApi

    found: list[str] = []

    def search() -> None:
        try:
            found.extend(each.id for each in HfApi().list_models(search=repository.rpartition("/")[2], limit=20))
        except Exception:  # A hint that cannot be had is left out.
            return

    thread = threading.Thread(target=search, daemon=True)
    thread.start()
    thread.join(1)
    return nearest(repository, found, 0.3)


def _short(error: Exception) -> str:
    return (str(error) or type(error).__name__).strip().splitlines()[0][:200]
