"""Files of a repository of the Hugging Face hub: from the cache, or fetched, with words for what may go wrong."""

import json
import threading
from collections.abc import Callable, Collection, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from ..tables import nearest
from .preset import HubFault

MAX_SECONDS = 8.0  # Longest wait for the hub's first answer, beside which the program has 2 s to say so.
REQUEST_SECONDS = 6.0  # Longest wait within a request.
PICKLED = (".bin", ".pth", ".pt", ".ckpt", ".pkl", ".h5", ".msgpack", ".npz")
SAFETENSORS = ".safetensors"
INDEX = "model.safetensors.index.json"


def fetched(repository: str, revision: str | None, patterns: Sequence[str], needed: Collection[str]) -> Path:
    """The folder with the files of a repository that fit the patterns. Raises HubFault.

    `needed`: patterns of which each must be there; where the cache has all of them, the hub is not asked.
    """
    from huggingface_hub import snapshot_download

    cached = _cached(repository, revision, patterns)
    if cached is not None and not _missing([path.name for path in cached.iterdir()], [*needed, *_shards(cached)]):
        return cached
    info = _answer(repository, revision, lambda: _info(repository, revision))
    names = [each.rfilename for each in info.siblings or []]
    if missing := _missing(names, needed):
        raise HubFault(_without(repository, missing, names))
    try:
        return Path(snapshot_download(repository, revision=revision, allow_patterns=list(patterns)))
    except Exception as error:
        raise HubFault(
            f"downloading {repository} failed ({_short(error)}); try again, or {_by_hand(repository)}"
        ) from error


def check_weights(names: Collection[str], where: str) -> None:
    """Raises HubFault where there are no weights in safetensors format among the files."""
    if _missing(names, [f"*{SAFETENSORS}"]):
        raise HubFault(_without(where, [f"*{SAFETENSORS}"], names))


def _cached(repository: str, revision: str | None, patterns: Sequence[str]) -> Path | None:
    from huggingface_hub import snapshot_download

    try:
        return Path(
            snapshot_download(repository, revision=revision, allow_patterns=list(patterns), local_files_only=True)
        )
    except Exception:  # The hub's errors for what is not in the cache are of several kinds.
        return None


def _shards(folder: Path) -> list[str]:
    """The files that the weights in a folder consist of, where an index lists several."""
    index = folder / INDEX
    return sorted(set(json.loads(index.read_text("utf-8"))["weight_map"].values())) if index.is_file() else []


def _missing(names: Collection[str], needed: Collection[str]) -> list[str]:
    return [pattern for pattern in needed if not any(fnmatch(name, pattern) for name in names)]


def _without(where: str, missing: Collection[str], names: Collection[str]) -> str:
    """What to say of files that are not there."""
    pickled = [name for name in names if name.endswith(PICKLED)]
    if any(pattern.endswith(SAFETENSORS) for pattern in missing):
        has = f"has its weights as {', '.join(pickled[:3])} alone" if pickled else "has no weights"
        convert = "convert them: safetensors.torch.save_file(state_dict, 'model.safetensors')"
        return f"{where} {has}; only safetensors files are loaded, in which no code can hide; {convert}"
    return f"{where} has no {', '.join(missing)}"


def _info(repository: str, revision: str | None) -> Any:
    from huggingface_hub import HfApi

    return HfApi().model_info(repository, revision=revision, timeout=REQUEST_SECONDS)


def _answer(repository: str, revision: str | None, ask: Callable[[], Any]) -> Any:
    """What the hub answers, which may take MAX_SECONDS, whatever the network does. Raises HubFault."""
    from huggingface_hub.errors import OfflineModeIsEnabled, RepositoryNotFoundError, RevisionNotFoundError

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
    if isinstance(fault, RepositoryNotFoundError):
        what = f"the hub has no {repository}, or it is private{_near(repository)}"
        raise HubFault(f"{what}; correct builder, or set HF_TOKEN to a token that may read it") from fault
    why = "HF_HUB_OFFLINE is set" if isinstance(fault, OfflineModeIsEnabled) else _short(fault)
    what = f"{repository} is not in the cache, and the hub cannot be reached ({why})"
    raise HubFault(f"{what}; {_by_hand(repository)}") from fault


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
