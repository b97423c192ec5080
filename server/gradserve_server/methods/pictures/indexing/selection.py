"""Which pictures excite a channel: the strongest, and some from the strongest to the weakest."""

from collections.abc import Iterator

import numpy as np

from ...indexes.folder import Array
from ..index import PATCH

MAXIMUM = np.dtype([("value", "<f4"), ("y", "<u2"), ("x", "<u2")])  # A channel's largest value on a picture.
BUDGET = 16 << 20  # Bytes that the selection takes at once, unless a single channel needs more.
BYTES_EACH = 32  # Bytes that it takes for a picture and a channel: the record, its key, its place in the order.


def select(
    maxima: Array, count: int, channels: int, batch: int, places: tuple[Array, ...]
) -> Iterator[tuple[Array, ...]]:
    """For some channels at a time the PATCH at these places of their order: [c, len(places[i])] each.

    maxima: MAXIMUM [count * channels], batch by batch of so many pictures, channels first in each. The order is from
    the largest value to the smallest, where two are the same by the pictures' numbers.
    """
    step = max(1, BUDGET // (BYTES_EACH * count))
    for first in range(0, channels, step):
        part = _read(maxima, count, channels, batch, slice(first, min(first + step, channels)))
        order = np.argsort(-part["value"], axis=1, kind="stable")
        yield tuple(_patches(part, order[:, at]) for at in places)


def spectrum_places(count: int, size: int) -> Array:
    """Places at even distances in an order of `count`, from the first to the last."""
    return np.linspace(0, count - 1, size).round().astype(int)


def _read(maxima: Array, count: int, channels: int, batch: int, chosen: slice) -> Array:
    """These channels of all pictures: [c, count]."""
    parts = []
    for start in range(0, count, batch):
        rows = min(batch, count - start)
        whole = maxima[start * channels : (start + rows) * channels].reshape(channels, rows)
        parts.append(whole[chosen])
    return np.concatenate(parts, 1)


def _patches(maxima: Array, pictures: Array) -> Array:
    """The records of some pictures for each channel: MAXIMUM [c, N] and [c, k] -> PATCH [c, k]."""
    chosen = np.take_along_axis(maxima, pictures, 1)
    patches = np.zeros(pictures.shape, PATCH)
    for name in MAXIMUM.names or ():
        patches[name] = chosen[name]
    patches["picture"] = pictures
    return patches
