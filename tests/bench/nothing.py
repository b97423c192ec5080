"""A network that costs next to nothing, so that what is left is the service."""

import torch
from torch import Tensor, nn

SIDE = 224
ENTRY = {"builder": "tests.bench.nothing:nothing", "weights": "random", "height": SIDE, "width": SIDE, "resize": SIDE}
CATALOGUE = "[models.nothing]\n" + "".join(f"{name} = {value!r}\n" for name, value in ENTRY.items())


class Nothing(nn.Module):
    """The gradient of a class is the image times a number: as hard to encode as a real map."""

    def __init__(self) -> None:
        """Ten classes."""
        super().__init__()
        self.classes = nn.Linear(3, 10)

    def forward(self, x: Tensor) -> Tensor:
        """[n, 3, H, W] -> [n, 10]."""
        scores: Tensor = self.classes((x * x).mean((2, 3)))
        return scores


def nothing() -> nn.Module:
    """The builder."""
    torch.manual_seed(0)
    return Nothing()
