"""The logits in whatever a network gives: a tensor, a tuple, a dict or an object of its author's own.

Every head is served by logits [N, classes], whatever the network itself gives:

softmax      scores of classes that exclude each other; probabilities are their softmax
binary       [-z, z] of a network's single logit z; the probability of either class is the sigmoid of its logit
multilabel   a logit for each label; the probability of each is its sigmoid, and the labels are independent
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from .card import HeadKind
from .endings import Ending, Endings

Network = Callable[[Tensor], Any]
LOGITS = "logits"  # The name that libraries use in an output with several tensors.
ANOTHER_WAY = (
    "its output comes out of a {ending} for test images, but not for this one; return it "
    "the same way for every image and size, or return the logits"
)


class NoLogits(ValueError):
    """A network's output in which the logits cannot be told; the message says what it was and what is allowed."""


def logits_of(output: Any) -> Tensor:
    """The logits [N, classes]: the output itself, what it calls "logits", or the only tensor [N, C] in it.

    A tensor [N, C, 1, 1] is taken for [N, C], and one of a class of its author's own for torch's. Raises NoLogits.
    """
    if isinstance(output, Tensor):
        return _flat(_plain(output))
    named = output.get(LOGITS) if isinstance(output, Mapping) else getattr(output, LOGITS, None)
    if isinstance(named, Tensor):
        return _flat(_plain(named))
    rows = [flat for _, tensor in _parts(output) if (flat := _flat(tensor)).dim() == 2]
    if len(rows) == 1:
        return _plain(rows[0])
    if rows:
        raise NoLogits(
            f"it returns {described(output)}, so that it is unclear which are the logits; "
            'return one of them, or a dict with "logits"'
        )
    raise NoLogits(
        f"it returns {described(output)}, and none of it is a score for each class; return logits [images, classes]: "
        "a tensor, an output with .logits, or a tuple or dict with one such tensor"
    )


def run(network: nn.Module, images: Tensor) -> Tensor:
    """What a network gives for normalised images, which stay as they are even if it writes over its input.

    Raises NoLogits and whatever the network raises.
    """
    return logits_of(network(images.clone()))


@dataclasses.dataclass(frozen=True)
class Head:
    """What a network's outputs mean, and how its logits are computed."""

    kind: HeadKind = "softmax"
    ending: Ending | None = None  # The network's last operation, whose input are the logits.
    single: bool = False  # Whether it gives one number for each image.
    from_probabilities: bool = False  # Whether its logits are the logarithms of what it gives.
    doubt: str = ""  # Why the catalogue's head may be wrong, in words for its author.

    def logits(self, network: Network, images: Tensor) -> Tensor:
        """The served logits [N, classes] for normalised images, which the network may write over. Raises NoLogits."""
        if self.ending is None:
            scores = logits_of(network(images))
        else:
            with Endings() as endings:
                origin = endings.of(logits_of(network(images)))
            if origin is None or origin.ending != self.ending:
                raise NoLogits(ANOTHER_WAY.format(ending=self.ending))
            scores = origin.scores
        if self.from_probabilities:
            wide = scores.float() if scores.dtype in (torch.float16, torch.bfloat16) else scores
            scores = wide.clamp_min(torch.finfo(wide.dtype).tiny).log()
        if self.single:
            scores = scores.reshape(-1, 1)
            scores = torch.cat([-scores, scores], 1)
        return scores

    def run(self, network: Network, images: Tensor) -> Tensor:
        """The served logits [N, classes]; the images stay as they are. Raises NoLogits."""
        return self.logits(network, images.clone())

    def own_scores(self, logits: Tensor) -> Tensor:
        """The network's own scores [N, outputs] among the served logits."""
        return logits[:, 1:] if self.single else logits


PLAIN = Head()


def described(output: Any) -> str:
    """A network's output, in words for its author."""
    if isinstance(output, Tensor):
        return f"a tensor {_shape(output)}"
    tensors = [f"{name} of shape {_shape(tensor)}" for name, tensor in _parts(output)]
    return f"a {type(output).__name__} with {', '.join(tensors) or 'no tensors'}"


def _shape(tensor: Tensor) -> str:
    return str(list(tensor.shape))


def _flat(tensor: Tensor) -> Tensor:
    return tensor.flatten(1) if tensor.dim() == 4 and tensor.shape[2:] == (1, 1) else tensor


def _plain(tensor: Tensor) -> Tensor:
    """The tensor, which must be dense, of real numbers and of torch's own class. Raises NoLogits."""
    if tensor.is_complex():
        raise NoLogits("it returns complex numbers; return scores that are real, such as their .real or .abs()")
    if tensor.is_nested or tensor.layout != torch.strided:
        raise NoLogits("it returns a nested or sparse tensor; return a dense one: .to_padded_tensor(0) or .to_dense()")
    if is_traceable_wrapper_subclass(tensor):
        raise NoLogits(
            f"it returns a tensor of class {type(tensor).__name__}; return a plain torch.Tensor of its values"
        )
    return tensor if type(tensor) is Tensor else tensor.as_subclass(Tensor)


def _parts(output: Any) -> Iterator[tuple[str, Tensor]]:
    """The tensors directly inside, each with its name or its place."""
    if isinstance(output, Mapping):
        items = list(output.items())
    elif isinstance(output, tuple | list):
        items = [(f"[{place}]", value) for place, value in enumerate(output)]
    elif dataclasses.is_dataclass(output):
        items = [(field.name, getattr(output, field.name)) for field in dataclasses.fields(output)]
    else:
        items = list(getattr(output, "__dict__", {}).items())
    return ((str(name), value) for name, value in items if isinstance(value, Tensor))
