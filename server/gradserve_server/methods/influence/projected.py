"""Projected Gauss-Newton influence: the map from a network's gradients to k numbers, and how it is found.

Per layer a Kronecker basis from the second moments of inputs and output gradients (LoGra, Choe et al. 2024), the exact
softmax Gauss-Newton matrix G within it, and a PCA of (G + damping)^-1/2 g to k numbers.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from .gradients import Pass
from .indexing.bases import SecondMoment, thinned
from .layers import IndexedLayer, Projection


@dataclass(frozen=True, eq=False)
class Projected:
    """The bases of the layers, and the matrix that whitens."""

    projections: tuple[Projection, ...]
    whitening: Tensor  # [k, k0]
    damping: float

    def vectors(self, projected: Sequence[Tensor]) -> Tensor:
        """What the projections give, [n, s * r] each -> [n, k], whose inner products are g^T (G + damping)^-1 g'."""
        return torch.cat([*projected], 1) @ self.whitening.T

    def to(self, device: torch.device, dtype: torch.dtype) -> "Projected":
        """The same on a device."""
        moved = tuple(each.to(device, dtype) for each in self.projections)
        return Projected(moved, self.whitening.to(device, dtype), self.damping)

    def save(self, path: Path) -> None:
        """Writes a safetensors file."""
        tensors = {"whitening": self.whitening.float().contiguous()}
        for each in self.projections:
            tensors[f"left.{each.layer.name}"] = each.left.float().contiguous()
            tensors[f"right.{each.layer.name}"] = each.right.float().contiguous()
        facts = {"layers": [asdict(each.layer) for each in self.projections], "damping": self.damping}
        save_file(tensors, path, {"facts": json.dumps(facts)})


def read_projected(path: Path) -> Projected:
    """What `save` wrote."""
    with safe_open(path, "pt") as file:
        facts = json.loads(file.metadata()["facts"])
        layers = [IndexedLayer(**{**layer, "kernel": tuple(layer["kernel"])}) for layer in facts["layers"]]
        sides = [[file.get_tensor(f"{side}.{layer.name}") for side in ("left", "right")] for layer in layers]
        projections = tuple(Projection(layer, *pair) for layer, pair in zip(layers, sides, strict=True))
        return Projected(projections, file.get_tensor("whitening"), facts["damping"])


class Bases:
    """Streams passes and gives each layer's leading directions of inputs and of output gradients."""

    def __init__(self, layers: Sequence[IndexedLayer], rank: int, generator: torch.Generator) -> None:
        self.layers, self.generator = layers, generator
        self._right = [SecondMoment(layer.columns, rank, generator) for layer in layers]
        self._left = [SecondMoment(layer.outputs, rank, generator) for layer in layers]

    def add(self, forward: Pass) -> None:
        """The inputs, and the output gradients in expectation over the model's own labels."""
        for layer, moment, x in zip(self.layers, self._right, forward.inputs, strict=True):
            moment.add(thinned(layer.patches(x), self.generator))
        for weights, gradients in forward.class_expectation(self.generator):
            for layer, moment, gradient in zip(self.layers, self._left, gradients, strict=True):
                rows = layer.rows(gradient)
                whole = rows.transpose(1, 2).flatten(2)[:, None]  # Groups side by side: [N, 1, positions, outputs].
                moment.add(thinned(whole, self.generator) * weights.sqrt().view(-1, 1, 1, 1))

    def projections(self, like: Tensor) -> list[Projection]:
        """The projections, in the type and on the device of `like`."""
        sides = zip(self.layers, self._left, self._right, strict=True)
        return [Projection(layer, left.basis().to(like), right.basis().to(like)) for layer, left, right in sides]
