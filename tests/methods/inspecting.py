"""Running Inspect as a worker does, and plain references for it: hooks on networks that nobody has made ready."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from gradserve.v1 import inspect_pb2
from gradserve_server.api.errors import Violations
from gradserve_server.api.rpcs import inspect_views
from gradserve_server.config import LimitSettings
from gradserve_server.engine.engine import Engine
from gradserve_server.engine.events import Ended
from gradserve_server.engine.job import Job
from gradserve_server.methods.inspect import InspectArguments, ViewArguments, inspect
from gradserve_server.methods.inspect.receptive_field import Field
from gradserve_server.models.prepared import Prepared


def inspected(model: Prepared, view: ViewArguments, images: Tensor | None = None, **facts: Any) -> Any:
    """What a worker answers; raises what ended the job."""
    x = torch.zeros(1, 3, model.card.height, model.card.width) if images is None else images
    engine = Engine({"model": model})
    engine.submit(Job("job", "model", lambda job: inspect(job, x, InspectArguments(view)), **facts))
    events = []
    while not engine.idle:
        events += engine.step()
    (ended,) = [event for event in events if isinstance(event, Ended)]
    if ended.error is not None:
        raise ended.error
    return ended.result


def checked(view: Callable[[Violations], Any]) -> Any:
    """The arguments of a view of which nothing is wrong."""
    violations = Violations()
    arguments = view(violations)
    violations.check()
    return arguments


def field_of(model: Prepared, layer: str, **fields: Any) -> Field:
    """The receptive field of a layer's unit."""
    message = inspect_pb2.ReceptiveFieldView(layer=layer, **fields)
    view = checked(lambda wrong: inspect_views.receptive_field(message, model.card, LimitSettings(), wrong))
    return inspected(model, view)  # type: ignore[no-any-return]


def outputs(network: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """What each module gives, by name; of one that runs more than once the last output."""
    found: dict[str, Tensor] = {}

    def hook(name: str) -> Any:
        def keep(_: nn.Module, __: Any, out: Any) -> None:
            if isinstance(out, Tensor):
                found[name] = out.clone()  # A ReLU after it may work in place.

        return keep

    handles = [module.register_forward_hook(hook(name)) for name, module in network.named_modules()]
    with torch.no_grad():
        network(x)
    for handle in handles:
        handle.remove()
    return found


def multiply_adds(network: nn.Module, x: Tensor) -> int:
    """Those of convolutions, linear layers and attention for one image [1, 3, H, W], by their textbook formulas."""
    total = 0

    def count(module: Any, args: Any, out: Any) -> None:
        nonlocal total
        if isinstance(module, nn.Conv2d):
            total += out.numel() * module.weight[0].numel()
        elif isinstance(module, nn.Linear):
            total += out.numel() * module.in_features
        elif isinstance(module, nn.MultiheadAttention):
            tokens, width = args[0].shape[1:]
            total += 4 * tokens * width**2 + 2 * tokens**2 * width  # Projections in and out; scores and their sums.

    handles = [module.register_forward_hook(count) for module in network.modules()]
    with torch.no_grad():
        network(x)
    for handle in handles:
        handle.remove()
    return total
