"""What torch puts around networks or makes of them: taken away, or refused where the network itself is not there."""

import os
import sys

import torch
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.nn.parallel import DataParallel, DistributedDataParallel
from torch.optim.swa_utils import AveragedModel
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

# The wrappers whose forward does nothing but call what they wrap, and the attribute that holds it. The wrapper of
# torch.compile is recognised by its name, since importing its class takes as long as importing the rest of torch.
WRAPPERS: dict[type[nn.Module], str] = {
    DataParallel: "module",
    DistributedDataParallel: "module",
    AveragedModel: "module",
}
COMPILED = ("torch._dynamo.eval_frame", "OptimizedModule")

QUANTISED = ("torch.ao.nn.quantized", "torch.ao.nn.intrinsic.quantized")  # Packages of torch's quantised layers.
QUANTISED_TEXT = (
    "{what}, not made of plain floating numbers, so that it has no gradient by the image; let the builder return the "
    "network as it was before its weights were quantised"
)


class NotServable(ValueError):
    """A network that cannot be served as it is; the text says why and what to give instead."""


def run_uncompiled() -> None:
    """From now on this process runs what is given to torch.compile as it is written."""
    if "torch._dynamo" in sys.modules:
        torch.compiler.set_stance("force_eager")
    else:
        os.environ["TORCH_COMPILE_DISABLE"] = "1"  # Which torch._dynamo reads when it is imported, and that takes long.


def is_compiled(network: nn.Module) -> bool:
    """Whether this is the wrapper that torch.compile puts around a module."""
    return (type(network).__module__, type(network).__name__) == COMPILED


def unwrap(network: nn.Module) -> nn.Module:
    """The network inside all wrappers around it, run without torch.compile. Raises NotServable."""
    while is_compiled(network) or type(network) in WRAPPERS:
        if any((network._forward_hooks, network._forward_pre_hooks, network._backward_hooks)):
            raise NotServable(f"its {type(network).__name__} has hooks of its own; put them on the network inside")
        network = getattr(network, "_orig_mod" if is_compiled(network) else WRAPPERS[type(network)])
    refuse_programs(network)
    return network


def unwrap_children(network: nn.Module, *kinds: type[nn.Module]) -> None:
    """Takes torch.compile and wrappers of these kinds away wherever they stand in the network. Raises NotServable."""
    for module in list(network.modules()):
        if module._compiled_call_impl is not None:  # `module.compile()` sets it
            module._compiled_call_impl = None
        for name, child in module._modules.items():
            if child is not None and (is_compiled(child) or type(child) in kinds):
                module._modules[name] = unwrap(child)


def refuse_programs(network: nn.Module) -> None:
    """Raises NotServable for what TorchScript and torch.export make, whose layers can be neither watched nor ruled."""
    for name, module in network.named_modules():
        scripted = isinstance(module, torch.jit.ScriptModule)
        if scripted or _is_exported(module):
            what = f"its layer {name}" if name else "the network"
            kind = "a TorchScript module (of torch.jit.script or trace)" if scripted else "a program of torch.export"
            raise NotServable(
                f"{what} is {kind}, whose layers cannot be watched; "
                "let the builder return the torch.nn.Module that it was made from"
            )


def _is_exported(module: nn.Module) -> bool:
    """Whether it is what ExportedProgram.module() or torch.export.unflatten gives."""
    graph = isinstance(module, GraphModule) and "range_constraints" in vars(module)
    return graph or type(module).__module__.startswith("torch.export.")


def refuse_quantised(network: nn.Module) -> None:
    """Raises NotServable for weights of whole numbers, or of a kind of tensor whose values cannot be read as they are.

    Such layers have no gradient by the image, and dynamically quantised ones round each image by its whole batch.
    """
    for name, module in network.named_modules():
        if type(module).__module__.startswith(QUANTISED):
            raise NotServable(QUANTISED_TEXT.format(what=f"its layer {name} is a quantised {type(module).__name__}"))
    for name, value in network.state_dict().items():
        if isinstance(value, Tensor) and (value.is_quantized or is_traceable_wrapper_subclass(value)):
            kind = "quantised" if value.is_quantized else f"a {type(value).__name__}"
            raise NotServable(QUANTISED_TEXT.format(what=f"its weight {name} is {kind}"))
