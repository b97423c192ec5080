"""Networks on which attacks by gradient are blind, and one on which they are not; all decide by the same logits.

The catalogue names them as `blind_networks:function`. A picture is of the class whose quarter of the
columns is brightest, so that what an attack can do to it is known: see `stands`.
"""

import torch
from torch import Tensor, nn

SIDE = 12
CLASSES = 4  # The fewest that the DLR loss with a target, and so the ensemble, takes.


class Brightest(nn.Module):
    """Logits: the mean brightness of four stripes, times `scale`."""

    def __init__(self, scale: float = 10.0) -> None:
        super().__init__()
        self.stripes = nn.Conv2d(3, CLASSES, SIDE, bias=False)
        weight = torch.zeros(CLASSES, 3, SIDE, SIDE)
        for label in range(CLASSES):
            weight[label, :, :, 3 * label : 3 * label + 3] = scale / (3 * SIDE * 3)
        self.stripes.weight.data = weight

    def forward(self, x: Tensor) -> Tensor:
        return self.stripes(x).flatten(1)


class After(nn.Module):
    """Something that is done to the logits by hand, in no module that could be found."""

    def __init__(self, scale: float, how: str) -> None:
        super().__init__()
        self.logits, self.how = Brightest(scale), how

    def forward(self, x: Tensor) -> Tensor:
        if self.how == "closed":
            with torch.no_grad():
                return self.logits(x) + 0
        if self.how == "rounded":
            return self.logits((x * 64).round() / 64)
        z = self.logits(x)
        powers = (z - z.amax(1, keepdim=True)).exp()
        return powers / powers.sum(1, keepdim=True)


def sighted() -> nn.Module:
    """Moderate logits: every loss has its gradient."""
    return Brightest().eval()


def loud() -> nn.Module:
    """Logits so far apart that the softmax rounds to 1, while the margin has its gradient."""
    return Brightest(700.0).eval()


def probabilities() -> nn.Module:
    """A softmax written by hand, whose largest value rounds to 1; their logarithms keep a gradient."""
    return After(400.0, "softmax").eval()


def underflown() -> nn.Module:
    """A softmax written by hand, all of whose values but one are too small for a float."""
    return After(1e5, "softmax").eval()


def rounded() -> nn.Module:
    """Rounds its input: its gradient exists and is zero everywhere."""
    return After(10.0, "rounded").eval()


def closed() -> nn.Module:
    """Its logits cannot be differentiated by the image."""
    return After(10.0, "closed").eval()


def pictures(count: int, gap: float, seed: int = 0) -> tuple[Tensor, Tensor]:
    """uint8 [count, SIDE, SIDE, 3] and labels; the right stripe is brighter than the others by `gap` levels."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % CLASSES
    pixels = 90 + 20 * torch.rand(count, SIDE, SIDE, 3, generator=generator)
    pixels -= pixels.unflatten(2, (CLASSES, 3)).mean((1, 3, 4)).repeat_interleave(3, 1)[:, None, :, None] - 100
    for i, label in enumerate(labels.tolist()):
        pixels[i, :, 3 * label : 3 * label + 3] += gap
    return pixels.round().to(torch.uint8), labels


def stands(pixels: Tensor, labels: Tensor, eps: int) -> Tensor:
    """Whether any change of at most `eps` levels leaves the class as it is, in closed form: [n].

    The logits are linear in the pixels, which stay far from 0 and 255: an attack moves two stripes by `eps` each.
    """
    means = pixels.double().unflatten(2, (CLASSES, 3)).mean((1, 3, 4))
    own = means.gather(1, labels[:, None])[:, 0]
    others = means.scatter(1, labels[:, None], -torch.inf).amax(1)
    return own - others > 2 * eps
