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
APPLIED: Mapping[Ending, Callable[[Tensor], Tensor]] = {
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
# Functions that give the elements of their first argument in another shape, type or place.
MOVING = frozenset(
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


class Found(NamedTuple):
    """An operation that made a tensor, and what it was made of, in that tensor's shape."""

    ending: Ending
    scores: Tensor


class Endings(TorchFunctionMode):
    """Remembers, during one pass, every softmax and sigmoid with what went into it."""

    def __init__(self) -> None:
        super().__init__()
        self._known: dict[int, tuple[weakref.ref[Tensor], Found]] = {}  # by the id of what came out

    def of(self, out: Tensor) -> Found | None:
        """The operation that gave this very tensor, if it is known."""
        given, found = self._known.get(id(out), (None, None))
        return found if given is not None and given() is out else None

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Calls, and remembers."""
        kwargs = kwargs or {}
        x = args[0] if args else kwargs.get("input")
        ending = OPERATIONS.get(func)
        if ending is not None:
            scores = x.clone() if func in IN_PLACE else x
            out = func(*args, **kwargs)
            self._remember(out, Found(ending, scores.to(out.dtype)))
            return out
        before = self.of(x) if func in MOVING and args and isinstance(x, Tensor) else None
        out = func(*args, **kwargs)
        if before is not None:
            self._remember(out, Found(before.ending, func(before.scores, *args[1:], **kwargs)))
        return out

    def _remember(self, out: Tensor, found: Found) -> None:
        """Forgets what nobody holds any more, so that the probabilities of attention are not kept."""
        self._known = {key: each for key, each in self._known.items() if each[0]() is not None}
        self._known[id(out)] = (weakref.ref(out), found)
