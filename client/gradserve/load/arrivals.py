"""When the requests of an open loop are due: a Poisson process, as the requests of many independent callers are."""

import random
from collections.abc import Iterator


def poisson(rate: float, seconds: float, seed: int = 0) -> Iterator[float]:
    """Seconds after the start, rising and below `seconds`; on average `rate` of them lie in a second."""
    chance = random.Random(seed)
    due = chance.expovariate(rate)
    while due < seconds:
        yield due
        due += chance.expovariate(rate)
