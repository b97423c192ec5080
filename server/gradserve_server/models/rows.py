"""Whether each row of a layer belongs to the image in that row: some networks reorder, repeat or mix rows inside."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from .layouts import Call, watching

MAX_SAMPLED_NUMBERS = 4096  # Most numbers of a row that are compared.
ROUNDING_SHARE = 1e-5  # Largest change by rounding, as a share of the largest row's norm.
# Largest distance of a row from its image's own, as a share of the distance to the nearest row of another image.
MAX_DISTANCE_SHARE = 0.1


class LayerRows:
    """Compares each layer's rows in a batch with what the layer gives for the single images.

    `apart`: module calls that do not give one row for each image. `mixed`: calls that do, but not always the right one.
    """

    def __init__(self, network: nn.Module) -> None:
        self.apart: set[Call] = set()
        self.mixed: set[Call] = set()
        self._network = network
        self._own: dict[Call, dict[int, Tensor]] = {}  # Sampled rows of single images, by image.

    @contextmanager
    def watching(self, images: Sequence[int]) -> Iterator[None]:
        """Watches a pass over these images, given by index. Passes over single images must come before batches."""
        seen: dict[Call, Tensor] = {}

        def see(x: Tensor, call: Call | None) -> None:
            if call is not None:
                seen[call] = _sample(x)

        with watching(self._network, see):
            yield
        for call, rows in seen.items():
            if len(rows) != len(images):
                self.apart.add(call)
            elif len(images) == 1:
                self._own.setdefault(call, {})[images[0]] = rows
            elif not self._own.get(call, {}).keys() >= set(images):
                self.apart.add(call)
            elif not _are_own(rows, self._own[call], images):
                self.mixed.add(call)

    @property
    def first_mixed(self) -> str:
        """The name of the first layer whose rows are mixed; empty if there is none."""
        return next((call[0] for call in self._own if call in self.mixed - self.apart), "")


def _sample(x: Tensor) -> Tensor:
    """Numbers of each row, [n, ...] -> [n, at most MAX_SAMPLED_NUMBERS]; [0, 1] for a tensor without rows."""
    x = torch.view_as_real(x.detach()) if x.is_complex() else x.detach()
    if x.dim() == 0:
        return x.new_zeros(0, 1)
    flat = x.reshape(len(x), -1)
    return flat[:, :: -(-flat.shape[1] // MAX_SAMPLED_NUMBERS) or 1].clone()


def _are_own(rows: Tensor, single: dict[int, Tensor], images: Sequence[int]) -> bool:
    """Whether the rows are those of the single images, up to rounding; `single` has [1, k] for each image."""
    numbers = sorted(single)
    own = torch.cat([single[i] for i in numbers]).double()
    place = torch.tensor([numbers.index(i) for i in images], device=own.device)
    if own.shape[1:] != rows.shape[1:]:
        return False
    nearest = torch.cdist(own, own).fill_diagonal_(torch.inf).amin(1)[place]
    off = (rows.double() - own[place]).norm(dim=1)
    eps = 2 * torch.finfo(rows.dtype).eps if rows.is_floating_point() else 0.0
    allowed = torch.maximum(max(ROUNDING_SHARE, eps) * own.norm(dim=1).amax(), MAX_DISTANCE_SHARE * nearest)
    return not bool((off > allowed).any())
