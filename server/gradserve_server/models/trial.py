"""Results about a model that are computed on the first request, in steps between which other work can run."""

from collections.abc import Callable, Generator
from typing import Generic, TypeVar

T = TypeVar("T")


class SharedTrial(Generic[T]):
    """A result that is computed once, step by step. If a caller stops halfway, the next caller goes on from there."""

    def __init__(self) -> None:
        self.result: T | None = None
        self._steps: Generator[None, None, T] | None = None

    def advance(self, begin: Callable[[], Generator[None, None, T]]) -> T | None:
        """Does the next step; the result, or None if steps are left. If a step raises, the next call starts anew.

        begin: makes the generator of the steps, which returns the result.
        """
        if self.result is not None:
            return self.result
        steps, self._steps = self._steps or begin(), None
        try:
            next(steps)
        except StopIteration as end:
            self.result = end.value
        else:
            self._steps = steps
        return self.result
