"""What a caller may aim at: a class, a predicted rank, a unit or a channel."""

from collections.abc import Sequence
from dataclasses import dataclass

from ..engine.objective import Objective, channel, logit, unit


@dataclass(frozen=True, slots=True)
class Target:
    """A class by index or by predicted rank (1 is the top), or a unit or channel of a layer."""

    label: int | None = None
    rank: int | None = None
    layer: str = ""
    channel: int = 0
    position: tuple[int, int] | None = None

    def objective(self, classes: Sequence[int]) -> Objective:
        """The number to differentiate, given the classes by falling logit."""
        if self.layer:
            return (
                unit(self.layer, self.channel, *self.position) if self.position else channel(self.layer, self.channel)
            )
        return logit(classes[self.rank - 1] if self.rank else self.label or 0)
