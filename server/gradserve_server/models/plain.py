"""Which modules do exactly what their class says, so that their weights may be read or replaced."""

from torch import nn


def is_plain(module: nn.Module, *kinds: type[nn.Module]) -> bool:
    """Whether the module is exactly of one of these classes, with nothing of its author's own around it.

    False for subclasses (their forward may do more), for modules with hooks or with a forward of their own on the
    instance, and where a parameter is computed anew in every pass (weight_norm, spectral_norm, pruning).
    """
    if type(module) not in kinds or "forward" in vars(module):
        return False
    hooks = (
        module._forward_hooks,
        module._forward_pre_hooks,
        module._backward_hooks,
        module._backward_pre_hooks,
    )
    if any(hooks):
        return False
    declared = {name for name in ("weight", "bias") if hasattr(module, name)}
    return declared <= set(module._parameters) and set(module._parameters) <= declared
