"""Which layers of a network can be indexed."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ...models.layouts import Call, watching
from ...models.plain import is_plain
from ...models.prepared import Prepared
from ...models.taps import first_input
from ...models.uses import Uses
from .gradients import Pass
from .layers import IndexedLayer

PROBE_ROWS = 5  # A batch size that few other dimensions have; those are often two or three.


def covered(model: Prepared) -> tuple[list[IndexedLayer], float]:
    """The layers that can be indexed, in execution order, and the share of all parameters that they hold.

    Left out: subclasses of Linear and Conv2d, modules with hooks or computed weights, modules that run more than once
    or with weights lent for a call, weights that something else uses too, padding that is not of zeros, layers whose
    first dimension is not the batch, and layers that do not reach the logits. The model must be unfolded.
    """
    card = model.card
    images = torch.rand(PROBE_ROWS, 3, card.height, card.width, generator=torch.Generator().manual_seed(0))
    images = images.to(model.device, model.dtype)
    by_image = _with_a_row(model, images[:1])
    layers = _reaching(model, images, [layer for layer in _usable(model, images) if layer.name in by_image])
    count = sum(layer.outputs * layer.columns for layer in layers)
    return layers, count / max(1, sum(p.numel() for p in model.network.parameters()))


def last_linear(layers: Sequence[IndexedLayer]) -> IndexedLayer | None:
    """The Linear whose output is the logits, if there is one."""
    last = layers[-1] if layers else None
    return last if last is not None and last.convolution is None and last.gives_logits else None


def _usable(model: Prepared, images: Tensor) -> list[IndexedLayer]:
    """The layers that run once, for the batch as a whole, as plain matrices whose weights nothing else uses."""
    uses, calls = Uses(), Counter[str]()
    layers: dict[str, IndexedLayer] = {}
    outputs: dict[str, Tensor] = {}  # In execution order.

    def hook(name: str, own: tuple[Tensor | None, ...]) -> Any:
        def on_output(module: nn.Module, args: Any, kwargs: Any, out: Any) -> None:
            calls[name] += 1
            # Weights are lent for a call by torch's functional_call.
            lent = any(w is not own_w for w, own_w in zip(_weights(module), own, strict=True))
            x = first_input(args, kwargs)
            if not lent and x is not None and len(x) == len(out) == PROBE_ROWS:
                outputs[name] = out.detach().clone()

        return on_output

    handles = []
    for name, module in model.network.named_modules():
        layer = _layer(name, module) if is_plain(module, nn.Linear, nn.Conv2d) else None
        if layer is not None:
            layers[name] = layer
            uses.watch(*_weights(module))
            handles.append(module.register_forward_hook(hook(name, _weights(module)), with_kwargs=True))
    try:
        with torch.no_grad(), uses:
            own = model.head.own_scores(model(images))
    finally:
        for handle in handles:
            handle.remove()
    return [
        replace(layers[name], gives_logits=torch.equal(out.reshape(len(out), -1), own))
        for name, out in outputs.items()
        if calls[name] == 1 and uses.once(*_weights(model.network.get_submodule(name)))
    ]


def _with_a_row(model: Prepared, image: Tensor) -> set[str]:
    """The modules that give one row for one image; that a batch has a row for each image may be chance."""
    names: set[str] = set()

    def see(x: Tensor, call: Call | None) -> None:
        if call is not None and x.dim() > 0 and len(x) == len(image):
            names.add(call[0])

    with torch.no_grad(), watching(model.network, see):
        model(image)
    return names


def _reaching(model: Prepared, images: Tensor, layers: list[IndexedLayer]) -> list[IndexedLayer]:
    """The layers by whose output the logits can be differentiated."""
    reached = Pass(model, images, layers).reached()
    return [layer for layer, is_reached in zip(layers, reached, strict=True) if is_reached]


def _weights(module: Any) -> tuple[Tensor | None, ...]:
    return (module.weight, module.bias)


def _layer(name: str, module: Any) -> IndexedLayer | None:
    """A plain Linear or Conv2d as a matrix; None for padding that a matrix of patches cannot have."""
    if isinstance(module, nn.Linear):
        return IndexedLayer(name, module.in_features, module.out_features, module.bias is not None)
    if module.padding_mode != "zeros" or isinstance(module.padding, str):
        return None
    facts = {"stride": module.stride, "padding": module.padding, "dilation": module.dilation, "groups": module.groups}
    inputs = module.weight[0].numel()
    return IndexedLayer(name, inputs, module.out_channels, module.bias is not None, facts, tuple(module.kernel_size))
