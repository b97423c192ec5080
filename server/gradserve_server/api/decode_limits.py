"""How much may be decoded: pixels of all pictures of a request, and bytes of all threads at once."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from ..models.preprocess import BadImage

# What decoding a pixel takes at most: RGB in 4 bytes as Pillow keeps it, beside 16-bit values, their copy, and 8 bits.
PIXEL_BYTES = 9
MAX_BYTES = 512 << 20  # Of pictures that are decoded at the same time; a larger one is decoded by itself.

_request_pixels: ContextVar[list[int] | None] = ContextVar("request_pixels", default=None)


@contextmanager
def counted_pixels() -> Iterator[None]:
    """Adds up the pixels of the pictures that are decoded meanwhile in this context, as those of one request."""
    token = _request_pixels.set([0])
    try:
        yield
    finally:
        _request_pixels.reset(token)


def count_pixels(pixels: int, most: int) -> None:
    """Counts a picture before it is decoded. Raises BadImage where the request's pictures have too many in all."""
    counted = _request_pixels.get()
    if counted is None:
        return
    counted[0] += pixels
    if counted[0] > most:
        raise BadImage(f"with this one the request's pictures have {counted[0]} pixels; at most {most} are allowed")


class DecodeMemory:
    """What pictures may take that are decoded at the same time; threads wait for it."""

    def __init__(self, most: int = MAX_BYTES) -> None:
        self._most, self._taken = most, 0
        self._changed = threading.Condition()

    @contextmanager
    def of(self, pixels: int) -> Iterator[None]:
        """Waits until there is room for a picture, which leaves at the end."""
        needed = min(pixels * PIXEL_BYTES, self._most)
        with self._changed:
            self._changed.wait_for(lambda: self._taken + needed <= self._most)
            self._taken += needed
        try:
            yield
        finally:
            with self._changed:
                self._taken -= needed
                self._changed.notify_all()
