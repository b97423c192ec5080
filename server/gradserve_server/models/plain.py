"""Which modules do exactly what their class says, so that their weights may be read or replaced."""

from torch import nn


def is_plain(module: nn.Module, *kinds: type[nn.Module]) -> bool:
    """Whether the module is exactly of one of these classes, with nothing of its author's own around it.

    False for subclasses (their forward may do more), for modules with hooks or with methods of their own on the
    instance, and where a parameter is computed anew in every pass (weight_norm, spectral_norm, pruning).
    """
    if type(module) not in kinds or module._compiled_call_impl is not None:
        return False
    if module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks:
        return False
    if any(callable(getattr(type(module), name, None)) for name in vars(module)):
        return False
    declared = {name for name in ("weight", "bias") if hasattr(module, name)}
    return declared == set(module._parameters)
