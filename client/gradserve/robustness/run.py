"""Asking a server about every picture, many at a time."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from gradserve.aio import AsyncClient
from gradserve.datasets import Dataset, Example
from gradserve.errors import ResourceExhausted
from gradserve.results.attack import Attack
from gradserve.robustness import heads
from gradserve.robustness.certified import ABSTAINS
from gradserve.robustness.journal import Journal, Outcome, State
from gradserve.robustness.plan import CLEAN, Plan, Trial
from gradserve.transport.retry import PICTURE_ERRORS, TRANSIENT, RetryPolicy, about_the_picture, reason

UNSATURATED_LOSS = "margin"  # Its gradient does not vanish where the model is sure.


@dataclass(frozen=True)
class Check:
    """A run of a plan through a client; `report` gets the number of questions that were settled since its last call."""

    client: AsyncClient
    plan: Plan
    journal: Journal
    report: Callable[[int], None] = lambda settled: None
    retry_policy: RetryPolicy = field(default_factory=RetryPolicy)

    async def run(self, dataset: Dataset, concurrency: int) -> None:
        """Ask everything that the journal does not know, so many pictures at a time.

        Raises the error of a request that makes no sense at all, and Unavailable when the server is gone for good.
        """
        waiting = iter(dataset)

        async def worker(examples: Iterator[Example]) -> None:
            for example in examples:  # All workers take from one iterator.
                await self._picture(example)

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(concurrency):
                    group.create_task(worker(waiting))
        except ExceptionGroup as several:
            raise several.exceptions[0] from None

    async def _picture(self, example: Example) -> None:
        clean = await self._settle(example, CLEAN, partial(self._predict, example))
        unread = clean.state == "unreadable"
        for trial in self.plan.trials:
            if unread or (clean.state != "right" and not trial.always):
                self.report(1)
                continue
            ask = self._certify if trial.certifies else self._disturb
            outcome = await self._settle(example, trial.key, partial(ask, example, trial))
            unread = outcome.state == "unreadable"

    async def _settle(self, example: Example, trial: str, ask: Callable[[], Awaitable[Outcome]]) -> Outcome:
        outcome = self.journal.get(example.id, trial)
        if outcome is None:
            try:
                outcome = await self.retry_policy.answered(ask)
            except TRANSIENT as error:
                outcome = Outcome(example.id, trial, "failed", detail=f"{error.code.name}: {error}")
            except PICTURE_ERRORS as error:
                if not about_the_picture(error):
                    raise
                outcome = Outcome(example.id, trial, "unreadable", detail=reason(error))
            # `answered` waits for a full queue; this is for instance too large a reply.
            except ResourceExhausted as error:
                outcome = Outcome(example.id, trial, "failed", detail=f"{error.code.name}: {error}")
            except heads.CannotJudge as error:
                outcome = Outcome(example.id, trial, "failed", detail=str(error))
            self.journal.add(outcome)
        self.report(1)
        return outcome

    async def _predict(self, example: Example) -> Outcome:
        plan, label = self.plan, _label(example)
        arguments = {"model": plan.model, "top_k": heads.classes_to_ask_for(plan.head), **self._options(example)}
        prediction = await self.client.predict(example.image, **arguments)
        judgement = heads.predicted(tuple(prediction), label, plan.head)
        return Outcome(
            id=example.id,
            trial=CLEAN,
            state="right" if judgement.right else "wrong",
            predicted=prediction[0].class_name,
            probability=prediction[0].probability,
            margin=judgement.margin,
            rows=prediction.provenance.rows,
            warnings=tuple(prediction.provenance.warnings),
        )

    async def _certify(self, example: Example, trial: Trial) -> Outcome:
        """What the smoothed classifier predicts. Every picture has a seed, and so noise, of its own."""
        arguments = {**trial.arguments, **self._options(example)}
        answer = await self.client.certify(example.image, model=trial.model, **arguments)
        right = answer.predicted is not None and answer.predicted.class_index == _label(example)
        return Outcome(
            id=example.id,
            trial=trial.key,
            state="right" if right else "wrong",
            predicted=answer.predicted.class_name if answer.predicted else "",
            probability=answer.lower_bound,
            detail=ABSTAINS if answer.abstains else "",
            rows=answer.provenance.rows,
            warnings=tuple(dict.fromkeys([*answer.warnings, *answer.provenance.warnings])),
            radius=answer.radius,
        )

    async def _disturb(self, example: Example, trial: Trial) -> Outcome:
        """One trial; where its attack had nothing to follow, once more with a loss that does not saturate."""
        attack = await self.answer(example, trial)
        outcome = self._judge(attack, example, trial)
        if attack.loss == UNSATURATED_LOSS or outcome.state != "not_measured":
            return outcome
        outcome = self._judge(await self.answer(example, trial, loss=UNSATURATED_LOSS), example, trial)
        return replace(outcome, rows=outcome.rows + attack.provenance.rows, loss=UNSATURATED_LOSS)

    def _judge(self, attack: Attack, example: Example, trial: Trial) -> Outcome:
        """What became of the picture. One that stands only because the attack had nothing to follow is not measured."""
        certificate = attack.certificate
        judgement = heads.judged(certificate.after, _label(example), self.plan.heads[trial.model])
        stands = judgement.right and certificate.verdict != "lost_in_encoding"
        unknown = stands and bool(certificate.obstacles)
        state: State = "not_measured" if unknown else "right" if stands else "wrong"
        reasons = certificate.obstacles if unknown else ()
        warnings = dict.fromkeys([*certificate.warnings, *attack.provenance.warnings])
        return Outcome(
            id=example.id,
            trial=trial.key,
            state=state,
            predicted=certificate.after.predicted.class_name,
            probability=certificate.after.predicted.probability,
            margin=judgement.margin,
            detail="not_measured" if unknown else certificate.verdict,
            rows=attack.provenance.rows,
            warnings=tuple(text for text in warnings if text not in reasons),
            reasons=reasons,
            felled_by=_felled_by(attack) if state == "wrong" else "",
        )

    async def answer(self, example: Example, trial: Trial, **extras: Any) -> Attack:
        """The server's whole answer to one trial of one picture."""
        arguments = {"label": example.label, **trial.arguments, **extras}
        return await self.client.attack(
            example.image, trial.method, model=trial.model, **arguments, **self._options(example)
        )

    def _options(self, example: Example) -> dict[str, Any]:
        return {
            "preprocess": self.plan.preprocess,
            "precision": self.plan.precision,
            "seed": self.plan.seed_for(example.id),
            "priority": "batch",
        }


def _felled_by(attack: Attack) -> str:
    """The stage of an ensemble that felled the picture: the first that reached the goal, or else the last that ran."""
    reached = [stage.method for stage in attack.stages if stage.reached]
    return next(iter([*reached, *(stage.method for stage in reversed(attack.stages))]), "")


def _label(example: Example) -> int:
    assert example.label is not None  # `labelled_for` gives every example a label.
    return example.label
