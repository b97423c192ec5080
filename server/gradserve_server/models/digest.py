"""What tells the weights of two networks apart."""

import hashlib
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn


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
