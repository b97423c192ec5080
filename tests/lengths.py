"""The length of soaks, overload and fuzz runs: short among all tests, long in `make load`."""

import os


def length(short: int, long: int) -> int:
    """`long` where the variable GRADSERVE_LOAD is set, else `short`."""
    return long if os.environ.get("GRADSERVE_LOAD") else short
