"""A server under load on a simulated clock: real admission, worker and engine; passes and decoding only take time.

Everything happens in one thread, in the order of the simulated clock, so that the same load always ends the same.
"""

import heapq
import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import count
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from gradserve_server.api.admission.admission import Admission
from gradserve_server.api.admission.callers import Caller
from gradserve_server.api.errors import Full
from gradserve_server.config import LimitSettings
from gradserve_server.engine import passes
from gradserve_server.engine.engine import Engine
from gradserve_server.engine.job import Job, Steps
from gradserve_server.engine.objective import logit
from gradserve_server.engine.query import Answer, Part, Query
from gradserve_server.metrics import Metrics
from gradserve_server.models.served import ServedModels
from gradserve_server.pool import worker
from gradserve_server.pool.forecast import Prospect
from gradserve_server.pool.lines import Received
from gradserve_server.pool.members import Member, Pending
from gradserve_server.pool.wire import Outcome, Ready, Stop, Task, Tick

GFLOP = 3.0  # Of a request, which asks for one gradient.
DECODERS = 2  # The number of threads that decode.
FRONT_END = 1  # Its line.
RETURN_SECONDS = 0.003  # From an answer to the same caller's next request.
CALLER = Caller("a")
PICTURE = np.zeros((4, 4, 3), np.uint8)


class Clock:
    """Seconds, which pass only where something waits for them; and what is to happen at which of them."""

    def __init__(self) -> None:
        self.now = 0.0
        self.happenings: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = count()

    def at(self, when: float, happening: Callable[[], None]) -> None:
        """Lets something happen then."""
        heapq.heappush(self.happenings, (when, next(self._numbers), happening))

    def advance(self, when: float) -> None:
        """Goes on to that second."""
        while self.happenings and self.happenings[0][0] <= when:
            self.now, _, happening = heapq.heappop(self.happenings)
            happening()
        self.now = when


class SimulatedLines:
    """A worker's lines to its keeper and one front-end. Who waits lets time pass; where nothing will come, it stops."""

    def __init__(self, clock: Clock, on_message: Callable[[Any], None]) -> None:
        self._clock, self._messages, self._on_message = clock, list[Any](), on_message
        self.come = self._messages.append

    def __len__(self) -> int:
        return 2

    def send(self, line: int, messages: Sequence[Any]) -> None:
        """Hands the front-end its messages at once."""
        for message in messages if line == FRONT_END else ():
            self._on_message(message)

    def arrived(self) -> Iterator[Received]:
        """What has arrived."""
        while self._messages:
            yield Received(FRONT_END, self._messages.pop(0))

    def wait(self, seconds: float | None) -> Iterator[Received]:
        """What arrives within so many seconds; None waits for ever."""
        clock = self._clock
        end = float("inf") if seconds is None else clock.now + seconds
        while not self._messages:
            if clock.happenings and clock.happenings[0][0] <= end:
                clock.advance(clock.happenings[0][0])
            elif seconds is None:
                self._messages.append(Stop())
            else:
                clock.advance(end)
                return
        yield from self.arrived()


@dataclass
class LoadOutcome:
    """How the requests of a load ended: as OK, late, or by which kind of refusal.

    The answers have the seconds that admission expected when they were asked for, and those that they took.
    """

    codes: Counter[str] = field(default_factory=Counter)
    answers: list[tuple[float, float]] = field(default_factory=list)

    def share(self, code: str) -> float:
        """Of all requests."""
        return self.codes[code] / self.codes.total()


def _gradient(job: Job, x: object, arguments: object) -> Steps:
    yield Query(torch.zeros(1, 3, 4, 4), logit(0), "image")


class SimulatedServer:
    """One worker, whose passes take `pass_seconds` and `row_seconds` for each row; decoders take `decode_seconds`."""

    def __init__(
        self,
        monkeypatch: pytest.MonkeyPatch,
        *,
        row_seconds: float,
        pass_seconds: float,
        decode_seconds: float,
        rows: int = 8,
    ) -> None:
        self.clock = Clock()
        self._row_seconds, self._pass_seconds, self._decode_seconds = row_seconds, pass_seconds, decode_seconds
        self._free, self._undecoded = DECODERS, list[Callable[[], None]]()
        self._waiting: dict[str, Callable[[Outcome], None]] = {}
        self._numbers = count()
        monkeypatch.setattr("time.monotonic", lambda: self.clock.now)
        monkeypatch.setattr(passes, "differentiate", self._differentiate)
        monkeypatch.setattr(worker, "tensor", lambda task, model: None)
        monkeypatch.setitem(worker.TASKS, "explain", _gradient)
        card: Any = SimpleNamespace(name="m", gflop=1.0, height=4, width=4, auto={}, rows={}, unbatched=False)
        model = SimpleNamespace(device=torch.device("cpu"), card=card)
        model.at = lambda precision: model
        models: Any = {"m": model}
        simulated = Engine(models, rows=rows, clock=lambda: self.clock.now)
        self._lines = SimulatedLines(self.clock, self._hear)
        speeds: Any = {("m", "exact"): GFLOP / (row_seconds + pass_seconds / rows)}
        ready = Ready((card,), "cpu", speeds, {("m", "exact"): rows})
        self._worker = worker.Worker(self._lines, simulated, ready)  # type: ignore[arg-type]
        self._member = member = Member(ready, lambda message: None)
        self.cards, self.members, self.queue_seconds = ServedModels([card], default="m"), [member], None
        self._admission = Admission(self, LimitSettings(), Metrics())  # type: ignore[arg-type]

    @property
    def outstanding(self) -> float:
        """As the pool tells it."""
        return self._member.cost

    def _hear(self, message: Any) -> None:
        """What the pool does with a worker's message."""
        if isinstance(message, Tick):
            self._member.learn(message)
        else:
            self._member.reply(message)
            self._waiting.pop(message.id)(message)

    def closed_loop(self, callers: int, seconds: float, warm_up: float = 2.0) -> float:
        """Answers in a second of callers that wait for theirs, once warm."""
        begin = self.clock.now + warm_up
        end, answers = begin + seconds, Counter[bool]()

        def ask() -> None:
            def then(code: str, expected: float) -> None:
                answers[begin <= self.clock.now < end] += 1
                if self.clock.now < end:
                    self.clock.at(self.clock.now + RETURN_SECONDS, ask)

            self._ask(60.0, then)

        for _ in range(callers):
            self.clock.at(self.clock.now, ask)
        self._run()
        return answers[True] / seconds

    def open_loop(self, rate: float, seconds: float, deadline: float) -> LoadOutcome:
        """Requests at random times, so many in a second on average."""
        draw, at, found = random.Random(3), self.clock.now, LoadOutcome()
        end = at + seconds

        def ask() -> None:
            begun = self.clock.now

            def then(code: str, expected: float) -> None:
                found.codes[code] += 1
                if code == "OK":
                    found.answers.append((expected, self.clock.now - begun))

            self._ask(deadline, then)

        while (at := at + draw.expovariate(rate)) < end:
            self.clock.at(at, ask)
        self._run()
        return found

    def _ask(self, deadline: float, then: Callable[[str, float], None]) -> None:
        """What the servicer does of a request. `then` gets the code and the seconds that admission expected."""
        arrived, name = self.clock.now, str(next(self._numbers))
        facts: Any = {"arrived": arrived, "caller": CALLER.name, "cost": GFLOP, "least_cost": GFLOP}
        task = Task(name, "explain", "m", PICTURE, deadline=arrived + 0.9 * deadline, **facts)
        busy = self._admission.busy(deadline)
        expected = self._admission.expect(Prospect(*CALLER, True, "m", "exact", GFLOP))
        assert expected is not None
        if busy:
            try:
                self._admission.check(task)
            except Full as refusal:
                then(refusal.refused, expected.end)
                return
        decoding = ExitStack()
        decoding.enter_context(self._admission.decoding(CALLER, "Explain", "m", task if busy else None))

        def decoded() -> None:
            decoding.close()
            self._admission.note("Explain", "m", task, self._decode_seconds)
            self._free += 1
            self._decode_next()
            self._member.pending[name] = Pending(task)
            in_time = arrived + deadline
            self._waiting[name] = lambda outcome: then(
                "OK" if outcome.failure is None and self.clock.now <= in_time else "late", expected.end
            )
            self._lines.come(task)

        self._undecoded.append(decoded)
        self._decode_next()

    def _decode_next(self) -> None:
        if self._free and self._undecoded:
            self._free -= 1
            self.clock.at(self.clock.now + self._decode_seconds, self._undecoded.pop(0))

    def _differentiate(self, model: Any, parts: Sequence[Part]) -> list[Answer]:
        rows = sum(len(part.rows) for part in parts)
        self.clock.advance(self.clock.now + self._pass_seconds + rows * self._row_seconds)
        return [Answer(None, None, None, (), ()) for _ in parts]

    def _run(self) -> None:
        self._worker._stopping = False
        self._worker.serve()
