"""Linear networks with every kind of head, for the catalogue's `linear_heads:network`: what an attack can do is known.

The score of a class is the mean brightness of its stripe of columns, from -STRENGTH / 2 to STRENGTH / 2.
"""

from typing import Any

import heads
import torch
from torch import Tensor, nn

STRIPE, STRIPES = 3, 5
SIDE = STRIPE * STRIPES
STRENGTH = 10.0
LEVELS = 255
GEOMETRY = {"height": SIDE, "width": SIDE, "resize": SIDE, "mean": (0.0,) * 3, "std": (1.0,) * 3}


class Stripes(nn.Module):
    """Scores [N, outputs] of pixels in [0, 1], [N, 3, SIDE, SIDE]."""

    def __init__(self, outputs: int, strength: float = STRENGTH) -> None:
        super().__init__()
        self.stripes = nn.Conv2d(3, outputs, SIDE)
        weight = torch.zeros(outputs, 3, SIDE, SIDE)
        for label in range(outputs):
            weight[label, :, :, STRIPE * label : STRIPE * (label + 1)] = strength / (3 * SIDE * STRIPE)
        self.stripes.weight.data = weight
        self.stripes.bias.data = torch.full((outputs,), -strength / 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.stripes(x).flatten(1)


def network(outputs: int, end: str, strength: float = STRENGTH) -> nn.Module:
    """The scores with one of the ends of `heads`."""
    return heads.Ended(Stripes(outputs, strength), heads.ENDS[end]).eval()


def entry(name: str, **arguments: float) -> dict[str, Any]:
    """The catalogue entry of one of heads.KINDS with linear scores."""
    facts = heads.KINDS[name].entry
    return {**facts, **GEOMETRY, "builder": "linear_heads:network", "arguments": {**facts["arguments"], **arguments}}


def logits(name: str, pixels: Tensor) -> Tensor:
    """The logits that are right for uint8 [N, SIDE, SIDE, 3]: [N, classes] float64."""
    scores = Stripes(heads.KINDS[name].outputs).double()(pixels.permute(0, 3, 1, 2).double() / LEVELS).detach()
    return torch.cat([-scores, scores], 1) if heads.KINDS[name].head == "binary" else scores


def margins(name: str, pixels: Tensor, labels: Tensor, eps: int = 0) -> Tensor:
    """The least margin of each picture's label that a change of at most `eps` levels leaves, in closed form: [N].

    Every logit is linear in the pixels, which stay far from 0 and 255, and no two depend on the same ones: a logit can
    be changed by STRENGTH * eps / 255, the difference of two by twice that, except for the two of a binary head.
    """
    found, change = logits(name, pixels), STRENGTH * eps / LEVELS
    own = found.gather(1, labels[:, None])[:, 0]
    if heads.KINDS[name].head != "softmax":
        return own - change
    others = found.scatter(1, labels[:, None], -torch.inf).amax(1)
    return own - others - 2 * change


def pictures(name: str, count: int, eps: int) -> tuple[Tensor, Tensor]:
    """uint8 [count, SIDE, SIDE, 3] and labels: in turn the class of the largest, second and third logit.

    None has a margin so small, as it is or changed by `eps` levels, that rounding could decide.
    """
    generator = torch.Generator().manual_seed(3)
    bright = 70 + 120 * torch.rand(20 * count, 1, STRIPES, generator=generator).repeat_interleave(STRIPE, 2)
    noise = 20 * torch.rand(20 * count, SIDE, SIDE, 3, generator=generator) - 10
    pixels = (bright[..., None] + noise).round().to(torch.uint8)
    order = logits(name, pixels).argsort(dim=1, descending=True)
    labels = order.gather(1, (torch.arange(len(pixels)) % 3 % order.shape[1])[:, None])[:, 0]
    clear = (margins(name, pixels, labels).abs() > 0.1) & (margins(name, pixels, labels, eps).abs() > 0.1)
    return pixels[clear][:count], labels[clear][:count]
