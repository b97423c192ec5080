"""Pictures cut into segments, of which some are shown and the others hidden."""

from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ...engine.job import MethodContext, Steps
from ...engine.objective import Objective
from ...engine.query import Query
from ..parameters import Baseline
from .averages import baseline_of
from .fits import Fit
from .maps import Map

MAX_SIDE = 320  # Larger pictures are cut at this longer side, since the time grows with the number of pixels.
MAX_CUTS = 4  # Most ways to cut the picture of a request, since a worker does nothing else meanwhile.
MIN_SHARE_FOUND = 0.5  # A map has a warning if SLIC finds no more than this share of the segments asked for.


class Segments:
    """The segments of one image, and what stands in place of those that are hidden."""

    def __init__(self, x: Tensor, count: int, compactness: float, baseline: Baseline, run: MethodContext) -> None:
        pixels = x[0].permute(1, 2, 0).float().cpu().numpy()
        labels = slic_labels(pixels.tobytes(), pixels.shape[:2], count, compactness)
        self.sizes = np.bincount(labels.ravel())  # Pixels of each segment.
        self.hidden = baseline_of(x, baseline, run)
        self._x, self._labels = x, torch.from_numpy(labels).to(x.device)
        if len(self.sizes) <= MIN_SHARE_FOUND * count:
            number = f"{len(self.sizes)} segments" if len(self.sizes) > 1 else "a single segment"
            run.warn(
                f"FEW_SEGMENTS: SLIC found {number} where {count} were asked for; "
                f"ask for more, or for more compactness than {compactness:g}"
            )

    def __len__(self) -> int:
        return len(self.sizes)

    def shown(self, choices: np.ndarray) -> Tensor:
        """The image with the chosen segments alone: bool [n, segments] -> [n, 3, H, W]."""
        mask = torch.from_numpy(choices).to(self._x.device)[:, self._labels]
        return torch.where(mask[:, None], self._x, self.hidden)

    def ends(self) -> Tensor:
        """The whole image, and the one of which nothing is shown: [2, 3, H, W]."""
        return torch.cat([self._x, self.hidden])

    def explained(self, fit: Fit, target_value: Tensor) -> Map:
        """The map whose pixels have the coefficients of their segments."""
        values = torch.from_numpy(fit.coefficients).to(self._labels.device)[self._labels]
        return Map(values, target_value, standard_error=fit.relative_error(self.sizes))

    def evaluate(
        self, choices: np.ndarray, target: Objective, run: MethodContext, values: list[float], part: range
    ) -> Steps:
        """Asks for the target under some of the choices [n, segments], and appends it to `values`."""
        answer = yield Query(self.shown(choices[part.start : part.stop]), target)
        values += answer.value.tolist()
        run.completed(part)


@lru_cache(MAX_CUTS)  # Several methods and targets of one request share an image, whose bytes are the key.
def slic_labels(pixels: bytes, size: tuple[int, int], count: int, compactness: float) -> np.ndarray:
    """The segment of each pixel of float32 [H, W, 3] in [0, 1], from 0 on (SLIC, Achanta et al. 2012)."""
    from skimage.segmentation import slic  # Where it is used, since the front-end reads this module too.

    image = np.frombuffer(pixels, np.float32).reshape(*size, 3)
    factor = min(1.0, MAX_SIDE / max(size))
    rows, columns = (max(1, round(side * factor)) for side in size)
    if factor < 1:
        channels = torch.from_numpy(image.copy()).permute(2, 0, 1)[None]
        image = F.interpolate(channels, (rows, columns), mode="area")[0].permute(1, 2, 0).numpy()
    count = min(count, rows * columns)
    labels = slic(image, n_segments=count, compactness=compactness, start_label=0, channel_axis=-1)
    labels = np.unique(labels, return_inverse=True)[1].reshape(rows, columns).astype(np.int64)
    return labels[np.ix_(np.arange(size[0]) * rows // size[0], np.arange(size[1]) * columns // size[1])]
