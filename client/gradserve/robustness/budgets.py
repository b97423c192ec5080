"""Budgets as people write them: 4/255, 0.015, and ranges such as 0:8/255:1/255."""

import math
from collections.abc import Iterable
from fractions import Fraction

from gradserve.messages.attack import amount

MAX_BUDGETS = 256  # The most budgets of one range; each is an attack on every picture.


def budgets(texts: Iterable[str]) -> list[float]:
    """All budgets, each once, in the order given; a range is start:stop:step with both ends. Raises ValueError."""
    each = (_range(text) if ":" in text else [amount("--eps", text)] for text in texts)
    return list(dict.fromkeys(budget for several in each for budget in several))


def _range(text: str) -> list[float]:
    parts = text.split(":")
    if len(parts) != 3:
        raise ValueError(f"--eps takes a range as start:stop:step, such as 0:8/255:1/255; not {text!r}")
    start, stop, step = map(_exact, parts)
    if step <= 0:
        raise ValueError(f"--eps {text}: the step, {parts[2]}, must be above 0")
    if start > stop:
        raise ValueError(f"--eps {text}: the range is the wrong way round, as {parts[0]} is above {parts[1]}")
    count = int((stop - start) / step) + 1
    if count > MAX_BUDGETS:
        raise ValueError(f"--eps {text} has {count} budgets; at most {MAX_BUDGETS} are allowed")
    return [float(start + place * step) for place in range(count)]


def _exact(text: str) -> Fraction:
    """A number or a fraction without rounding, so that 0.3 is three times 0.1."""
    if not math.isfinite(amount("--eps", text)):
        raise ValueError(f"--eps is a number or a fraction like 8/255, not {text!r}")
    over, _, under = text.partition("/")
    return Fraction(over.strip()) / Fraction(under.strip() or 1)
