"""What is found out about a model only when somebody asks for it, in steps between which others have their turns."""

from collections.abc import Callable, Generator
from typing import Generic, TypeVar

T = TypeVar("T")


class SharedTrial(Generic[T]):
    """A result that is worked out once. Who leaves in the middle of it leaves the rest to those who ask after that."""

    def __init__(self) -> None:
        self.result: T | None = None
        self._steps: Generator[None, None, T] | None = None

    def advance(self, begin: Callable[[], Generator[None, None, T]]) -> T | None:
        """Does the next step and returns the result, or None if there are more. A step that fails begins it anew."""
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
