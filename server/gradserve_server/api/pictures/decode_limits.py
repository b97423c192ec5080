"""How much may be decoded: pixels of all pictures of a request, and bytes of all threads at once."""

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar

from PIL import Image

from ...models.preprocess import BadImage

# What decoding takes at most, in bytes for each pixel, as measured with Pillow 12 by the peak of the process's memory:
# RGB in 4 bytes as Pillow keeps it, beside what the decoder and `to_rgb` need.
PIXEL_BYTES = 11
WEBP_BYTES, WIDE_BYTES = 18, 14
PROGRESSIVE_BYTES = 6  # For each pixel of the whole file, of which libjpeg keeps the coefficients.
WIDE_MODES = ("I", "F")
# Bytes for pictures that are decoded at the same time. Small pictures, up to SMALL_BYTES, have room of their own, so
# that they do not wait until a large one is done. A large one that needs more than MAX_LARGE_BYTES is decoded while no
# other large one is.
SMALL_BYTES, MAX_SMALL_BYTES, MAX_LARGE_BYTES = 64 << 20, 128 << 20, 384 << 20

_request_pixels: ContextVar[list[int] | None] = ContextVar("request_pixels", default=None)


@contextmanager
def counted_pixels() -> Iterator[None]:
    """Adds up the pixels of all pictures that are decoded inside the `with`, as those of one request."""
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


def decode_bytes(picture: Image.Image, whole: tuple[int, int]) -> int:
    """Bytes that it takes to decode an open picture; `whole`: the file's width and height, if it is decoded smaller."""
    each = WEBP_BYTES if picture.format == "WEBP" else WIDE_BYTES if picture.mode in WIDE_MODES else PIXEL_BYTES
    kept = PROGRESSIVE_BYTES * whole[0] * whole[1] if picture.info.get("progressive") else 0
    return each * picture.width * picture.height + kept


class DecodeMemory:
    """What pictures may take that are decoded at the same time."""

    def __init__(self, most_small: int = MAX_SMALL_BYTES, most_large: int = MAX_LARGE_BYTES) -> None:
        self._small, self._large = Room(most_small), Room(most_large)

    def of(self, size: int) -> AbstractContextManager[None]:
        """Waits until there is room for a picture of so many bytes, which are free again at the end."""
        return (self._small if size <= SMALL_BYTES else self._large).of(size)


class Room:
    """A number of bytes that threads share; they wait for them in the order in which they came."""

    def __init__(self, most: int) -> None:
        self._most, self._taken = most, 0
        self._changed = threading.Condition()
        self._waiting: deque[object] = deque()

    @contextmanager
    def of(self, size: int) -> Iterator[None]:
        """Takes so many bytes, or all if there are fewer, once they are free, until the end of the `with`."""
        needed, ticket = min(size, self._most), object()
        with self._changed:
            self._waiting.append(ticket)
            self._changed.wait_for(lambda: self._waiting[0] is ticket and self._taken + needed <= self._most)
            self._waiting.popleft()
            self._taken += needed
            self._changed.notify_all()
        try:
            yield
        finally:
            with self._changed:
                self._taken -= needed
                self._changed.notify_all()
