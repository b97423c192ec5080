"""The weights of a model in memory that the workers of a host have in common (Linux alone).

Each worker makes a model ready by itself. The first one then writes its weights into a file that lies in memory, and
seals it, so that nobody can change or shorten it any more. The others, if theirs are bit for bit the same, map that
file as well and free their own. The mappings are private: who writes to a weight has a copy of that page.
"""

import fcntl
import mmap
import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

import torch
from torch import Tensor, nn

ALIGNMENT = 64  # Each weight begins at a multiple of this many bytes.
MIN_BYTES = 1 << 16  # Smaller weights are not shared.


def share_weights(networks: Iterable[nn.Module], link: Path) -> None:
    """Moves the networks' weights to memory that other processes with the same ones share.

    `link` is where the first process tells where the file lies. It is found while that process lives; after that the
    next one makes another file. Where no memory can be shared, the weights stay where they are.
    """
    weights = list({id(p): p for each in networks for p in each.parameters() if _is_shareable(p)}.values())
    if not weights or not hasattr(os, "memfd_create"):
        return
    with suppress(OSError), link.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # Workers load at the same time, and one file is enough.
        memory = _opened(link, weights)
        if memory is None:
            memory = _written(link, weights)
        for weight, part in zip(weights, _parts(memory, weights), strict=True):
            weight.data = part.view(weight.dtype).as_strided(weight.size(), weight.stride())


def _is_shareable(weight: nn.Parameter) -> bool:
    """Whether it is a large plain tensor on a CPU that has its memory for itself, in whatever order."""
    if type(weight) is not nn.Parameter or weight.device.type != "cpu" or weight.layout != torch.strided:
        return False
    return MIN_BYTES <= weight.nbytes == weight.untyped_storage().nbytes()


def _opened(link: Path, weights: Sequence[nn.Parameter]) -> Tensor | None:
    """The memory that another process has made and that `link` leads to, or None if it holds other weights."""
    try:
        file = os.open(link, os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return None  # No process has made one, or the one that did has ended.
    try:
        if fcntl.fcntl(file, fcntl.F_GET_SEALS) != _seals() or os.fstat(file).st_size != _size(weights):
            return None  # The number of that process, or of its file, may have been given to another one.
        memory = _mapped(file, _size(weights))
    except OSError:
        return None
    finally:
        os.close(file)
    same = all(torch.equal(*pair) for pair in zip(map(_bytes, weights), _parts(memory, weights), strict=True))
    return memory if same else None


def _written(link: Path, weights: Sequence[nn.Parameter]) -> Tensor:
    """New memory with these weights, to which the link leads. Its file stays open as long as this process lives."""
    file = os.memfd_create("gradserve-weights", os.MFD_ALLOW_SEALING | os.MFD_CLOEXEC)
    try:
        os.posix_fallocate(
            file, 0, _size(weights)
        )  # This raises where memory is full; a write to a mapping would kill the process.
        for weight, offset in zip(weights, _offsets(weights), strict=False):
            rest = _bytes(weight).numpy().data
            while rest:
                count = os.pwrite(file, rest, offset)
                rest, offset = rest[count:], offset + count
        fcntl.fcntl(file, fcntl.F_ADD_SEALS, _seals())
        new = link.with_suffix(".new")
        new.unlink(missing_ok=True)
        new.symlink_to(f"/proc/{os.getpid()}/fd/{file}")
        new.replace(link)
        return _mapped(file, _size(weights))
    except OSError:
        os.close(file)
        raise


def _mapped(file: int, size: int) -> Tensor:
    access = mmap.PROT_READ | mmap.PROT_WRITE
    return torch.frombuffer(mmap.mmap(file, size, mmap.MAP_PRIVATE, access), dtype=torch.uint8)


def _seals() -> int:
    return fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL


def _bytes(weight: Tensor) -> Tensor:
    """The bytes of its memory, as they lie there."""
    return weight.detach().as_strided((weight.numel(),), (1,)).view(torch.uint8)


def _offsets(weights: Sequence[nn.Parameter]) -> list[int]:
    """Where each weight begins, and where the last one ends."""
    offsets = [0]
    for weight in weights:
        offsets.append(-(-(offsets[-1] + weight.nbytes) // ALIGNMENT) * ALIGNMENT)
    return offsets


def _size(weights: Sequence[nn.Parameter]) -> int:
    return _offsets(weights)[-1]


def _parts(memory: Tensor, weights: Sequence[nn.Parameter]) -> list[Tensor]:
    """The bytes of each weight in the common memory."""
    return [memory[at : at + each.nbytes] for each, at in zip(weights, _offsets(weights), strict=False)]
