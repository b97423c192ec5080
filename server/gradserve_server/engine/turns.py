"""Whose turn it is among callers, and among the kinds of passes of one caller."""

from collections import defaultdict
from collections.abc import Hashable

from .take import Key

MAX_NAMES = 1000  # Most callers, and most kinds of a caller, that are remembered.


class Turns:
    """The seconds that each name had. The one with the fewest is next, and an idle one accumulates no credit."""

    def __init__(self) -> None:
        self._had: dict[Hashable, float] = {}
        self._last = (0.0, 0.0)  # What the name that was served last had, before and after.

    def had(self, name: Hashable) -> float:
        """Seconds; a new name starts at the count of the one that was served last."""
        return self._had.setdefault(name, self._last[1])

    def charge(self, name: Hashable, seconds: float) -> None:
        """Adds seconds to a name."""
        had = max(self.had(name), self._last[0])
        if len(self._had) > MAX_NAMES:  # Callers may send images of any size.
            self._had.clear()
        self._had[name] = had + seconds
        self._last = (had, had + seconds)


class CallerTurns:
    """Seconds by caller, divided by its weight, and by the kinds of passes of each caller."""

    def __init__(self) -> None:
        self._callers = Turns()
        self._kinds: defaultdict[str, Turns] = defaultdict(Turns)

    def had(self, caller: str) -> float:
        """The caller's weighted seconds."""
        return self._callers.had(caller)

    def had_kind(self, caller: str, key: Key) -> float:
        """The caller's seconds in passes of that kind."""
        return self._kinds[caller].had(key.kind)

    def charge_caller(self, caller: str, weight: float, seconds: float) -> None:
        """Notes a caller's seconds of what is no pass."""
        self._callers.charge(caller, seconds / weight)

    def charge(self, caller: str, weight: float, key: Key, seconds: float) -> None:
        """Notes a caller's seconds of a pass."""
        if len(self._kinds) > MAX_NAMES:
            self._kinds.clear()
        self.charge_caller(caller, weight, seconds)
        self._kinds[caller].charge(key.kind, seconds)
