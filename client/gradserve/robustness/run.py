"""Asking a server about every picture, many at a time."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from gradserve.aio import AsyncClient
from gradserve.attacks import Attack
from gradserve.dataset import Dataset, Example
from gradserve.errors import ResourceExhausted
from gradserve.patience import FALTERING, UNREADABLE, Patience, about_the_picture, reason
from gradserve.robustness.journal import Journal, Outcome, State
from gradserve.robustness.plan import CLEAN, Plan, Trial

SURE_LOSS = "margin"  # does not saturate


@dataclass(frozen=True)
class Check:
    """A run: who is asked, about what, where answers go. `told` hears how many questions were settled."""

    client: AsyncClient
    plan: Plan
    journal: Journal
    told: Callable[[int], None] = lambda settled: None
    patience: Patience = field(default_factory=Patience)

    async def run(self, dataset: Dataset, concurrency: int) -> None:
        """Ask everything that the journal does not know, so many pictures at a time.

        Raises the error of a request that makes no sense at all, and Unavailable when the server is gone for good.
        """
        waiting = iter(dataset)

        async def worker(examples: Iterator[Example]) -> None:
            for example in examples:  # all workers draw from one iterator
                await self._picture(example)

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(concurrency):
                    group.create_task(worker(waiting))
        except ExceptionGroup as several:
            raise several.exceptions[0] from None

    async def _picture(self, example: Example) -> None:
        clean = await self._settled(example, CLEAN, partial(self._predict, example))
        unread = clean.state == "unreadable"
        for trial in self.plan.trials:
            if unread or (clean.state != "right" and not trial.always):
                self.told(1)
                continue
            outcome = await self._settled(example, trial.key, partial(self._disturb, example, trial))
            unread = outcome.state == "unreadable"

    async def _settled(self, example: Example, trial: str, ask: Callable[[], Awaitable[Outcome]]) -> Outcome:
        outcome = self.journal.get(example.id, trial)
        if outcome is None:
            try:
                outcome = await self.patience.answered(ask)
            except FALTERING as error:
                outcome = Outcome(example.id, trial, "failed", detail=f"{error.code.name}: {error}")
            except UNREADABLE as error:
                if not about_the_picture(error):
                    raise
                outcome = Outcome(example.id, trial, "unreadable", detail=reason(error))
            except ResourceExhausted as error:  # not a full queue: the answer is too large, or so
                outcome = Outcome(example.id, trial, "failed", detail=f"{error.code.name}: {error}")
            self.journal.add(outcome)
        self.told(1)
        return outcome

    async def _predict(self, example: Example) -> Outcome:
        found = await self.client.predict(example.image, model=self.plan.model, top_k=2, **self._options(example))
        top = found[0]
        state: State = "right" if top.class_index == example.label else "wrong"
        margin = top.logit - found[1].logit if len(found) > 1 and state == "right" else None
        return Outcome(
            id=example.id,
            trial=CLEAN,
            state=state,
            predicted=top.class_name,
            probability=top.probability,
            margin=margin,
            rows=found.provenance.rows,
            warnings=tuple(found.provenance.warnings),
        )

    async def _disturb(self, example: Example, trial: Trial) -> Outcome:
        """One trial; where its attack had nothing to follow, once more with a loss that does not saturate."""
        found = await self.answer(example, trial)
        if found.loss == SURE_LOSS or not _proves_nothing(found, example):
            return _outcome(found, example, trial)
        again = await self.answer(example, trial, loss=SURE_LOSS)
        outcome = _outcome(again, example, trial)
        return replace(outcome, rows=outcome.rows + found.provenance.rows, loss=SURE_LOSS)

    async def answer(self, example: Example, trial: Trial, **extras: Any) -> Attack:
        """The server's whole answer to one trial of one picture."""
        asked = {"label": example.label, **trial.arguments, **extras}
        return await self.client.attack(
            example.image, trial.method, model=trial.model, **asked, **self._options(example)
        )

    def _options(self, example: Example) -> dict[str, Any]:
        return {
            "preprocess": self.plan.preprocess,
            "precision": self.plan.precision,
            "seed": self.plan.seed_for(example.id),
            "priority": "batch",
        }


def _stands(found: Attack, example: Example) -> bool:
    certificate = found.certificate
    return certificate.after.predicted.class_index == example.label and certificate.verdict != "lost_in_encoding"


def _proves_nothing(found: Attack, example: Example) -> bool:
    """Whether the picture stands for no other reason than that the attack had nothing to follow."""
    return _stands(found, example) and bool(found.certificate.obstacles)


def _outcome(found: Attack, example: Example, trial: Trial) -> Outcome:
    certificate, unknown = found.certificate, _proves_nothing(found, example)
    after, reasons = certificate.after, certificate.obstacles if unknown else ()
    state: State = "not_measured" if unknown else "right" if _stands(found, example) else "wrong"
    warnings = dict.fromkeys([*certificate.warnings, *found.provenance.warnings])
    return Outcome(
        id=example.id,
        trial=trial.key,
        state=state,
        predicted=after.predicted.class_name,
        probability=after.predicted.probability,
        margin=after.margin,
        detail="not_measured" if unknown else certificate.verdict,
        rows=found.provenance.rows,
        warnings=tuple(text for text in warnings if text not in reasons),
        reasons=reasons,
    )
