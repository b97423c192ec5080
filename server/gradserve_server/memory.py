"""Memory that was freed and that the C library keeps."""

import ctypes
import os


def give_back() -> None:
    """Gives freed memory back to the system, where the C library can (glibc's malloc_trim)."""
    if os.name == "posix" and (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)):
        trim(0)
