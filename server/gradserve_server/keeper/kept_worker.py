"""What the keeper knows of one worker."""

import time
from collections.abc import Mapping
from dataclasses import replace

from ..models.card import ModelCard
from ..pool.wire import Ready, WorkerSettings
from .kept import Kept
from .watchdog import WorkerState

DEATH_CAUSES = "(out of memory? a crash in its builder?)"
SHORT_PASS = 1e-9  # Stands for the estimate of a pass so short that the worker does not tell of it.


def death_reason(name: str) -> str:
    """Why a model is not served that its process died of."""
    return f"the worker died while loading it {DEATH_CAUSES}; leave it out, or try it alone: --model {name}"


class KeptWorker(Kept):
    """One worker's place."""

    def __init__(self, settings: WorkerSettings) -> None:
        super().__init__(f"the worker on {settings.device}")
        self.settings = settings
        self.state: WorkerState = "down"
        self.lost_seconds = 0.0  # Since its connection was lost.
        self.pass_seconds = 0.0  # Since it told that a pass began; 0 while it has none.
        self.in_pass = False
        self.memory = 0  # Bytes in use.
        self.expected = 0.0  # Estimated seconds of that pass, 0 where it is not known.
        self.loading = ""  # Name of the model that it loads now.
        self.cards: Mapping[str, ModelCard] = {}
        self.unavailable: Mapping[str, str] = {}  # Reasons by the models that it could not load.
        self.died: dict[str, str] = {}  # Reasons by the models that killed its process at the start.

    def begin(self, ready: Ready) -> None:
        """Notes that its process takes tasks."""
        self.state, self.loading = "ready", ""
        self.ready_since = self.ready_since or time.monotonic()
        self.cards = {card.name: card for card in ready.cards}
        self.unavailable = {**ready.unavailable, **self.died}

    def note_pass(self, expected: float | None) -> None:
        """Notes that a pass began, with its estimate, or that none runs."""
        self.in_pass, self.pass_seconds, self.expected = expected is not None, 0.0, expected or 0.0

    def leave_out(self) -> str:
        """Leaves out the model that its process died of while loading; returns why that model is not served."""
        name, self.loading = self.loading, ""
        self.settings = replace(self.settings, models=tuple(m for m in self.settings.models if m.name != name))
        self.died[name] = death_reason(name)
        return self.died[name]
