"""What the layers of a network hold: their parameters, and the weights that can be shown."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvTransposeNd

from .card import Layer


def parameter_count(network: nn.Module) -> int:
    """The number of all parameters; one that several modules share counts once."""
    return sum(parameter.numel() for parameter in network.parameters())


def with_contents(layers: Sequence[Layer], network: nn.Module) -> tuple[Layer, ...]:
    """The layers with what they hold in that network, which is the untouched one.

    Parameters of a module that is no layer are those of the nearest module around it that is one. Of a layer that runs
    more than once its plain name has them.
    """
    modules, names = dict(network.named_modules()), {layer.name for layer in layers}
    counts = Counter[str]()
    for name, parameter in network.named_parameters():
        owner = name.rpartition(".")[0]
        while owner and owner not in names:
            owner = owner.rpartition(".")[0]
        counts[owner] += parameter.numel()
    return tuple(
        replace(layer, parameters=counts[layer.name], weight=_shape(modules.get(layer.name))) for layer in layers
    )


def _shape(module: nn.Module | None) -> tuple[int, ...]:
    weight = None if module is None else weight_of(module)
    return () if weight is None else tuple(weight.shape)


def weight_of(module: nn.Module) -> Tensor | None:
    """The weights that a module multiplies by: [outputs, inputs of a group, kernel ...] or [outputs, inputs], or None.

    Of self-attention those of queries, keys and values, one after the other.
    """
    weight = getattr(module, "weight", None)
    weight = getattr(module, "in_proj_weight", None) if weight is None else weight
    if not isinstance(weight, Tensor) or weight.dim() not in (2, 3, 4) or isinstance(module, nn.Embedding):
        return None
    if isinstance(module, _ConvTransposeNd):  # Its inputs come first, and of its outputs those of a group.
        grouped: Tensor = weight.unflatten(0, (module.groups, -1))
        return grouped.transpose(1, 2).flatten(0, 1)
    return weight
