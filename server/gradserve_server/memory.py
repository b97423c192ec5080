"""Memory that was freed and that the interpreter or the C library keeps."""

import ctypes
import gc
import os


def give_back() -> None:
    """Gives freed memory back to the system, where the C library can (glibc's malloc_trim)."""
    if os.name == "posix" and (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)):
        trim(0)


def freeze() -> None:
    """Exempts the objects that are there from garbage collection, which else looks through all modules each time."""
    gc.collect()
    gc.freeze()


def collect_and_give_back() -> None:
    """Frees objects that only refer to each other, unless they were there at `freeze`, and gives their memory back."""
    gc.collect()
    give_back()
