"""Counting which operations of a network take the values of a tensor."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

from torch import Tensor
from torch.overrides import TorchFunctionMode

METADATA = {  # Functions that read no values of a tensor.
    *(getattr(Tensor, name).__get__ for name in ("shape", "dtype", "device", "requires_grad", "ndim", "is_cuda")),
    *(Tensor.size, Tensor.dim, Tensor.numel, Tensor.stride, Tensor.is_contiguous, Tensor.is_floating_point),
}


class Uses(TorchFunctionMode):
    """Counts the torch functions that take the values of each watched tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.count: Counter[int] = Counter()  # By the tensor's id.
        self._watched: dict[int, Tensor] = {}  # Keeps the tensors alive, so that no id is used again.

    def watch(self, *tensors: Tensor | None) -> None:
        """Counts the uses of these tensors from now on."""
        self._watched |= {id(tensor): tensor for tensor in tensors if tensor is not None}

    def once(self, *tensors: Tensor | None) -> bool:
        """Whether each of the tensors was used exactly once."""
        return all(self.count[id(tensor)] == 1 for tensor in tensors if tensor is not None)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Counts and calls."""
        if func not in METADATA:
            self.count.update(id(tensor) for tensor in tensors_in((args, kwargs or {})) if id(tensor) in self._watched)
        return func(*args, **(kwargs or {}))


def tensors_in(value: Any) -> Iterator[Tensor]:
    """The tensors in a value: itself, or those in a dict, list or tuple at any depth."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        yield from tensors_in(list(value.values()))
    elif isinstance(value, list | tuple):
        for item in value:
            yield from tensors_in(item)
