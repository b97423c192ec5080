"""What torch puts around networks for training: taken away, since a server runs the network itself."""

import os
import sys

import torch
from torch import nn
from torch.nn.parallel import DataParallel, DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

# The wrappers whose forward does nothing but call what they wrap, and the attribute that holds it. The wrapper of
# torch.compile is recognised by its name, since importing its class takes as long as importing the rest of torch.
INNER: dict[type[nn.Module], str] = {
    DataParallel: "module",
    DistributedDataParallel: "module",
    AveragedModel: "module",
}
COMPILED = ("torch._dynamo.eval_frame", "OptimizedModule")


class NotServable(ValueError):
    """A network that cannot be served as it is; the text says why and what to give instead."""


def run_uncompiled() -> None:
    """From now on this process runs what is given to torch.compile as it is written."""
    if "torch._dynamo" in sys.modules:
        torch.compiler.set_stance("force_eager")
    else:
        os.environ["TORCH_COMPILE_DISABLE"] = "1"  # which torch._dynamo reads when it is imported, and that takes long


def is_compiled(network: nn.Module) -> bool:
    """Whether this is the wrapper that torch.compile puts around a module."""
    return (type(network).__module__, type(network).__name__) == COMPILED


def unwrap(network: nn.Module) -> nn.Module:
    """The network inside all wrappers around it, run without torch.compile. Raises NotServable."""
    while is_compiled(network) or type(network) in INNER:
        if any((network._forward_hooks, network._forward_pre_hooks, network._backward_hooks)):
            raise NotServable(f"its {type(network).__name__} has hooks of its own; put them on the network inside")
        network = getattr(network, "_orig_mod" if is_compiled(network) else INNER[type(network)])
    refuse_scripts(network)
    return network


def unwrap_children(network: nn.Module, *kinds: type[nn.Module]) -> None:
    """Takes torch.compile and wrappers of these kinds away wherever they stand in the network. Raises NotServable."""
    for module in list(network.modules()):
        if module._compiled_call_impl is not None:  # set by `module.compile()`
            module._compiled_call_impl = None
        for name, child in module._modules.items():
            if child is not None and (is_compiled(child) or type(child) in kinds):
                module._modules[name] = unwrap(child)


def refuse_scripts(network: nn.Module) -> None:
    """Raises NotServable for a TorchScript module, whose layers can be neither watched nor ruled."""
    for name, module in network.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            what = f"its layer {name}" if name else "the network"
            raise NotServable(
                f"{what} is a TorchScript module (of torch.jit.script or trace), whose layers cannot be watched; "
                "let the builder return the torch.nn.Module that it was made from"
            )
