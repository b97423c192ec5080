"""The expected share of its rows that an attack takes where its first success ends it; admission counts this share."""

from dataclasses import replace

from ...methods.attack import AttackArguments, Attacked
from ...pool.wire import Outcome, Task
from ..rpcs.attack import rows_at_most

FIRST_GUESS = 0.2  # The share assumed until an attack of that kind has ended on that model.
SMOOTHING = 0.1  # The newest attack's weight in the running mean.


class Expectations:
    """Shares by model and method, learned from the attacks that ended. Only the event loop's thread touches it."""

    def __init__(self) -> None:
        self._shares: dict[tuple[str, str], float] = {}

    def share(self, task: Task) -> float:
        """The share of its rows that an attack is expected to take; 1 where no success ends it."""
        arguments: AttackArguments = task.arguments
        return self._shares.get((task.model, arguments.method), FIRST_GUESS) if arguments.stop else 1.0

    def priced(self, task: Task) -> Task:
        """The task with the cost that is expected of it: that of an attack is multiplied by its expected share."""
        return replace(task, cost=task.cost * self.share(task)) if task.rpc == "attack" else task

    def learn(self, task: Task, *outcomes: Outcome) -> None:
        """Learns from the rows that an attack and its certificate took, unless its time ran out."""
        arguments: AttackArguments = task.arguments
        attacked: Attacked = outcomes[0].result
        if not arguments.stop or attacked.partial:
            return
        share = min(1.0, sum(outcome.rows for outcome in outcomes) / rows_at_most(arguments))
        self._shares[task.model, arguments.method] = (1 - SMOOTHING) * self.share(task) + SMOOTHING * share
