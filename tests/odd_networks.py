"""Networks that are served and have something odd, for the catalogue's `odd_networks:function`."""

import threading
import time

import torch
from kinds import Small, head_of_angles, settled, variant
from torch import Tensor, nn


@settled
def certain() -> nn.Module:
    """Its best logit is far above the others for every picture."""
    return variant(forward=lambda self, x: Small.forward(self, x) * 1e4)()


@settled
def probabilities() -> nn.Module:
    """A softmax written by hand."""

    def forward(self: Small, x: Tensor) -> Tensor:
        powers = Small.forward(self, x).exp()
        return powers / powers.sum(1, keepdim=True)

    return variant(forward=forward)()


@settled
def with_dead_layer() -> nn.Module:
    """A ReLU in it sees nothing above 0."""

    def maps(self: Small, x: Tensor) -> Tensor:
        y = Small.maps(self, x)
        return y + self.quiet(self.gate(y))

    network = variant(maps=maps)()
    network.gate, network.quiet = nn.Conv2d(20, 20, 1), nn.ReLU()
    nn.init.constant_(network.gate.bias, -1e3)
    return network


@settled
def with_unused_layers() -> nn.Module:
    """One layer never runs, and what another gives goes nowhere."""

    def forward(self: Small, x: Tensor) -> Tensor:
        maps = self.maps(x)
        self.aside(maps)
        return self.head(maps.mean((2, 3)))

    network = variant(forward=forward)()
    network.aside, network.never = nn.Conv2d(20, 4, 1), nn.Linear(20, 7)
    return network


@settled
def restless() -> nn.Module:
    """Its scores have noise for pictures whose first value is 128 of 255, so that nobody notices when it is loaded."""

    def forward(self: Small, x: Tensor) -> Tensor:
        scores = Small.forward(self, x)
        noisy = (x[:, 0, 0, :1] * 255 - 128).abs() < 1e-3
        return scores + noisy * 0.1 * torch.randn_like(scores)

    return variant(forward=forward)()


def constant() -> nn.Module:
    """The same logits for every picture."""
    network = settled(Small)()
    nn.init.zeros_(network.head.weight)
    return network


class NoSlope(torch.autograd.Function):
    """The identity, with a gradient that is not a number."""

    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: object, grad: Tensor) -> Tensor:
        return grad * torch.nan


@settled
def gradient_of_nan() -> nn.Module:
    return variant(forward=lambda self, x: Small.forward(self, NoSlope.apply(x)))()


def talkative() -> nn.Module:
    """Prints, and starts a thread that does not end."""
    print("a builder's own words")
    threading.Thread(target=time.sleep, args=(600,)).start()
    return head_of_angles()
