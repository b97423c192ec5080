"""Small networks that give a score for each position, as for segmentation."""

from collections import OrderedDict
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Positions(nn.Module):
    """Scores [N, classes, h, w], at the input's size or, with `coarse`, at a quarter of it."""

    def __init__(self, *, coarse: bool = False, probabilities: bool = False) -> None:
        super().__init__()
        self.coarse, self.probabilities = coarse, probabilities
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU())
        self.body = nn.Sequential(nn.Conv2d(8, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU())
        self.scores = nn.Conv2d(16, 4, 1)

    def forward(self, x: Tensor) -> dict[str, Any]:
        small = self.scores(self.body(self.stem(x)))
        out = small if self.coarse else F.interpolate(small, x.shape[2:], mode="bilinear", align_corners=False)
        out = out.softmax(1) if self.probabilities else out
        return OrderedDict(out=out, aux=torch.zeros_like(out))


def fine() -> nn.Module:
    return Positions()


def coarse() -> nn.Module:
    return Positions(coarse=True)


def probabilities() -> nn.Module:
    return Positions(probabilities=True)


def single() -> nn.Module:
    network = Positions()
    network.scores = nn.Conv2d(16, 1, 1)
    return network


class Beside(nn.Module):
    """Features [N, 16, h, w], in a dict by the name `maps`, with what the heads make of their means [N, 16]."""

    def __init__(self, maps: str = "features", **heads: nn.Module) -> None:
        super().__init__()
        self.maps = maps
        self.body = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1), nn.ReLU())
        self.heads = nn.ModuleDict(heads)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        features = self.body(x)
        return {**{name: head(features.mean((2, 3))) for name, head in self.heads.items()}, self.maps: features}


def logit_and_features() -> nn.Module:
    return Beside(logits=nn.Linear(16, 1))


def probabilities_and_features() -> nn.Module:
    return Beside(probs=nn.Sequential(nn.Linear(16, 5), nn.Sigmoid(), nn.Hardtanh(0.01, 0.99)))


def two_scores_and_maps() -> nn.Module:
    return Beside("out", first=nn.Linear(16, 5), second=nn.Linear(16, 5))


def odd_logits_and_features() -> nn.Module:
    return Beside(logits=nn.Sequential(nn.Linear(16, 5), nn.Unflatten(1, (5, 1))))


def features() -> nn.Module:
    return Beside()


def picture() -> nn.Module:
    return nn.Conv2d(3, 3, 3, padding=1)
