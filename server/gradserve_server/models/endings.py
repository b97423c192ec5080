"""Finding the scores before the softmax or sigmoid that a network ends in, without touching the network."""

import weakref
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

Ending = Literal["softmax", "log_softmax", "sigmoid", "log_sigmoid"]

# What each ending makes of scores [N, classes].
APPLY: Mapping[Ending, Callable[[Tensor], Tensor]] = {
    "softmax": lambda scores: scores.softmax(1),
    "log_softmax": lambda scores: scores.log_softmax(1),
    "sigmoid": torch.sigmoid,
    "log_sigmoid": F.logsigmoid,
}
IN_PLACE = frozenset({torch.sigmoid_, Tensor.sigmoid_})
OPERATIONS: Mapping[Any, Ending] = {
    **dict.fromkeys((torch.softmax, Tensor.softmax, F.softmax, torch.special.softmax), "softmax"),
    **dict.fromkeys((torch.log_softmax, Tensor.log_softmax, F.log_softmax, torch.special.log_softmax), "log_softmax"),
    **dict.fromkeys((torch.sigmoid, Tensor.sigmoid, torch.special.expit, *IN_PLACE), "sigmoid"),
    F.logsigmoid: "log_sigmoid",
}
LOGARITHMS: Mapping[Ending, Ending] = {"softmax": "log_softmax", "sigmoid": "log_sigmoid"}
POWERS: Mapping[Ending, Ending] = {log: ending for ending, log in LOGARITHMS.items()}
# Functions that make one ending another.
CONVERTS: Mapping[Any, Mapping[Ending, Ending]] = {
    **dict.fromkeys((torch.log, Tensor.log), LOGARITHMS),
    **dict.fromkeys((torch.exp, Tensor.exp), POWERS),
}
# Functions that give the elements of their first argument in another shape, type or place.
REARRANGES = frozenset(
    {Tensor.squeeze, Tensor.unsqueeze, Tensor.view, Tensor.reshape, Tensor.flatten, Tensor.ravel, Tensor.__getitem__}
    | {torch.squeeze, torch.unsqueeze, torch.reshape, torch.flatten, torch.ravel, torch.clone}
    | {
        Tensor.contiguous,
        Tensor.clone,
        Tensor.detach,
        torch.detach,
        Tensor.to,
        Tensor.float,
        Tensor.double,
        Tensor.half,
        Tensor.bfloat16,
    }
)
# Functions whose result shares the memory of a tensor, but not its count of writes.
SHARES = frozenset({Tensor.data.__get__, Tensor.numpy, Tensor.__array__, Tensor.untyped_storage})  # type: ignore[attr-defined]


class Origin(NamedTuple):
    """The operation that made a tensor, and what it was made of, in that tensor's shape."""

    ending: Ending
    scores: Tensor
    eps: float  # The eps of the coarsest number format that the tensor's elements have been in.


class _Record(NamedTuple):
    """A tensor with its origin, and the states by which it shows whether either was written over since."""

    out: weakref.ref[Tensor]
    origin: Origin
    states: tuple[int | Tensor, int | Tensor]  # States of the tensor and of its scores, by `_state`.


class Endings(TorchFunctionMode):
    """Remembers, during one pass, every softmax and sigmoid with what went into it."""

    def __init__(self) -> None:
        super().__init__()
        self._records: dict[int, _Record] = {}  # By the id of the output.

    def of(self, out: Tensor) -> Origin | None:
        """The operation that gave this very tensor, if it is known and nothing was written into it or its scores."""
        record = self._records.get(id(out))
        if record is None or record.out() is not out:
            return None
        pairs = zip((out, record.origin.scores), record.states, strict=True)
        return record.origin if all(_is_unwritten(tensor, state) for tensor, state in pairs) else None

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Calls the function, and remembers a softmax or sigmoid."""
        kwargs = kwargs or {}
        x = args[0] if args else kwargs.get("input")
        ending = OPERATIONS.get(func)
        if ending is not None:
            scores = x.clone() if func in IN_PLACE else x
            out = func(*args, **kwargs)
            self._remember(out, ending, scores.to(out.dtype))
            return out
        follows = func in REARRANGES or func in CONVERTS or func in SHARES
        origin = self.of(x) if follows and args and isinstance(x, Tensor) else None
        out = func(*args, **kwargs)
        if origin is None:
            return out
        if func in SHARES:
            del self._records[id(x)]
        elif func in REARRANGES and out.is_floating_point():
            self._remember(out, origin.ending, func(origin.scores, *args[1:], **kwargs), origin.eps)
        elif origin.ending in CONVERTS.get(func, {}) and not kwargs:
            self._remember(out, CONVERTS[func][origin.ending], origin.scores, origin.eps)
        return out

    def _remember(self, out: Tensor, ending: Ending, scores: Tensor, eps: float = 0.0) -> None:
        """Remembers an output; forgets those that are gone, so that the probabilities of attention are not kept."""
        self._records = {key: each for key, each in self._records.items() if each.out() is not None}
        origin = Origin(ending, scores, max(eps, torch.finfo(out.dtype).eps))
        self._records[id(out)] = _Record(weakref.ref(out), origin, (_state(out), _state(scores)))


def _state(tensor: Tensor) -> int | Tensor:
    """The count of writes into a tensor, or a copy of it where torch keeps no such count."""
    return tensor.clone() if tensor.is_inference() else tensor._version


def _is_unwritten(tensor: Tensor, state: int | Tensor) -> bool:
    if isinstance(state, int):
        return tensor._version == state
    return torch.equal(tensor.nan_to_num(), state.nan_to_num())
