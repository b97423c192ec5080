"""Deletion and insertion curves of a class's probability (RISE: Petsiuk et al. 2018), and random maps to beat."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import interpolate
from torchvision.transforms.functional import gaussian_blur

from gradserve_server.models.prepared import Prepared

Map = NDArray[np.floating]

STEPS = 28
COARSE = 7  # Cells per side of the random maps, as the last maps of an ImageNet network have.
BLUR, SIGMA = 11, 5.0


@dataclass(frozen=True)
class Areas:
    """Areas under both curves, 0 to 1. A good map's deletion is low and its insertion high."""

    deletion: float
    insertion: float

    @property
    def gap(self) -> float:
        """Insertion minus deletion."""
        return self.insertion - self.deletion


def judged(model: Prepared, image: Tensor, label: int, rankings: Mapping[str, Tensor], batch: int) -> dict[str, Areas]:
    """The areas of every ranking of the pixels of `image`, [1, 3, H, W] in [0, 1].

    Deletion fills pixels with the mean colour, grey after normalisation; insertion starts from a blurred image.
    """
    grey = model.mean.expand_as(image)
    blurred = gaussian_blur(image, [BLUR, BLUR], [SIGMA, SIGMA])
    whole, none, vague = probabilities(model, torch.cat([image, grey, blurred]), label, batch).tolist()
    found = {}
    for name, ranking in rankings.items():
        taken = taken_by_step(ranking)
        deleted = probabilities(model, torch.where(taken, grey, image), label, batch).tolist()
        inserted = probabilities(model, torch.where(taken, image, blurred), label, batch).tolist()
        found[name] = Areas(area([whole, *deleted, none]), area([vague, *inserted, whole]))
    return found


@torch.inference_mode()
def probabilities(model: Prepared, images: Tensor, label: int, batch: int) -> Tensor:
    """The class's probability in every image: [N, 3, H, W] -> [N]."""
    parts = images.contiguous(memory_format=torch.channels_last).split(batch)
    return torch.cat([model(part).softmax(1)[:, label] for part in parts])


def taken_by_step(ranking: Tensor) -> Tensor:
    """The pixels that each step between the ends has taken, best first: order [H * W] -> [STEPS - 1, 1, H, W]."""
    size = round(ranking.numel() ** 0.5)
    place = torch.empty_like(ranking)
    place[ranking] = torch.arange(ranking.numel())
    bounds = torch.arange(1, STEPS) * ranking.numel() // STEPS
    return (place < bounds[:, None]).view(-1, 1, size, size)


def ranked(values: Map, ties: Map) -> Tensor:
    """All pixels, the highest value first; where a map says nothing (Grad-CAM's zeros) `ties` decides."""
    return torch.from_numpy(np.lexsort((-ties.ravel(), -values.ravel())))


def random_map(size: int, seed: int) -> Map:
    """Noise as smooth as a map: a coarse grid, bilinear. Pixel-wise noise would destroy a picture faster than any."""
    noise = torch.randn(1, 1, COARSE, COARSE, generator=torch.Generator().manual_seed(seed))
    return interpolate(noise, (size, size), mode="bilinear", align_corners=False)[0, 0].numpy()


def area(curve: list[float]) -> float:
    """Trapezoid over [0, 1]."""
    return float(np.trapezoid(curve, dx=1 / (len(curve) - 1)))
