"""The journal: one line of JSON for each answer, written at once, so that a run that was killed can go on."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

State = Literal["right", "wrong", "not_measured", "failed", "unreadable"]
VERSION = 2  # The version of the rules that judge outcomes. A journal of another version is not continued.


class JournalMismatch(ValueError):
    """The journal is one of other settings, weights or pictures."""


@dataclass(frozen=True)
class Outcome:
    """What became of one picture in one trial. `margin` is that of its label in logits, as the model's head has it.

    "not_measured": the attack had nothing to follow, so that nobody knows whether the picture stands.
    """

    id: str
    trial: str
    state: State
    predicted: str = ""
    probability: float = 0.0
    margin: float | None = None
    detail: str = ""  # The certificate's verdict, or why there is none.
    rows: int = 0
    loss: str = ""  # The loss of a second attempt, if there was one.
    warnings: tuple[str, ...] = ()
    reasons: tuple[str, ...] = ()  # Why the attack measured nothing.
    felled_by: str = ""  # The stage of an ensemble that it fell to.
    radius: float | None = None  # In L2, of a certificate.


class Journal:
    """The outcomes so far, by picture and trial; those that failed are asked for again by the next run."""

    def __init__(self, path: Path, head: Mapping[str, Any]) -> None:
        self.path, self._head = path, {"version": VERSION, **head}
        self._outcomes: dict[tuple[str, str], Outcome] = {}
        if path.exists():
            self._read()
        self.found = len(self._outcomes)  # Outcomes in the file before this run.
        self.rows = 0  # Rows that this run's answers cost.

    def __enter__(self) -> Self:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("w", encoding="utf-8") as file:  # This drops the line that a kill may have cut in half.
            lines = [self._head, *map(asdict, self._outcomes.values())]
            file.writelines(json.dumps(line) + "\n" for line in lines)
        self._file = self.path.open("a", encoding="utf-8", buffering=1)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def __iter__(self) -> Iterator[Outcome]:
        return iter(self._outcomes.values())

    def get(self, id: str, trial: str) -> Outcome | None:
        """The outcome of one picture in one trial, if there is one."""
        return self._outcomes.get((id, trial))

    def add(self, outcome: Outcome) -> None:
        """Keep an outcome and write it down; one that failed is kept for this run alone."""
        self._outcomes[outcome.id, outcome.trial] = outcome
        self.rows += outcome.rows
        if outcome.state != "failed":
            self._file.write(json.dumps(asdict(outcome)) + "\n")

    def _read(self) -> None:
        head, *lines = self.path.read_text(encoding="utf-8").split("\n")
        for line in lines:
            try:
                values = json.loads(line)
                texts = {name: tuple(values.get(name, ())) for name in ("warnings", "reasons")}
                outcome = Outcome(**{**values, **texts})
            except (json.JSONDecodeError, TypeError, AttributeError):
                continue  # A kill cut the line in half; its question is asked again.
            self._outcomes[outcome.id, outcome.trial] = outcome
        try:
            before = json.loads(head)
        except json.JSONDecodeError:
            raise JournalMismatch(f"{self.path} is not a journal of a robustness check") from None
        differing = [name for name in self._head if before.get(name) != self._head[name]]
        if self._outcomes and differing:
            raise JournalMismatch(f"{self.path} is the journal of a run with other {', '.join(differing)}")
