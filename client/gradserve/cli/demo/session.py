"""Chapters of the demo: their requests are sent to a server, and each answer becomes figures of the page."""

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from gradserve.cli.demo.page import Figure, Grid, Section
from gradserve.client import Client
from gradserve.errors import FailedPrecondition
from gradserve.results.pictures import Progress

_AT_ONCE = 2  # Requests that are under way together, so that a second core or worker is not idle.


@dataclass(frozen=True)
class DemoRequest:
    """A request, and what becomes of its answer.

    call: makes the request; what it gives is the answer, or an iterator of Progress that ends with the answer.
    draw: figures of the answer. weight: how long the request takes, in units of about a second.
    """

    model: str
    picture: str
    what: str
    call: Callable[[Client], Any]
    draw: Callable[[Any], Sequence[Figure]]
    weight: float = 0.5


@dataclass(frozen=True)
class Row:
    """Requests whose figures stand side by side, so many in a line on a wide screen."""

    requests: Sequence[DemoRequest]
    title: str = ""
    text: str = ""
    columns: int = 4


@dataclass(frozen=True)
class Chapter:
    """A question and the rows that answer it. legend: kinds of maps whose colours the chapter uses."""

    title: str
    lead: str
    rows: Sequence[Row]
    legend: Sequence[str] = ()


@dataclass(frozen=True)
class LogEntry:
    """One request to the server, its duration and the rows that the network computed for it."""

    model: str
    picture: str
    asked: str
    seconds: float
    rows: int
    answer: str


@dataclass
class Session:
    """A running demo. `report` gets the title of a request, and how much more of its weight is done."""

    client: Client
    report: Callable[[str, float], None]
    log: list[LogEntry] = field(default_factory=list)

    def run(self, chapters: Sequence[Chapter]) -> list[Section]:
        """The sections of all chapters; the longest requests are made first."""
        requests = [request for chapter in chapters for row in chapter.rows for request in row.requests]
        longest = sorted(requests, key=lambda request: -request.weight)
        with ThreadPoolExecutor(_AT_ONCE) as executor:
            drawn = dict(zip(map(id, longest), executor.map(self._figures, longest), strict=True))
        return [_section(chapter, drawn) for chapter in chapters]

    def _figures(self, request: DemoRequest) -> Sequence[Figure]:
        begin = time.perf_counter()
        try:
            answer = self._answer(request)
        except FailedPrecondition as refusal:
            self._note(request, begin, 0, f"does not apply: {refusal}")
            return [Figure(request.what, text=f"Does not apply to this model: {refusal}")]
        figures = request.draw(answer)
        first = answer[0] if isinstance(answer, Sequence) and len(answer) else answer
        origin = getattr(answer, "provenance", None) or first.provenance
        self._note(request, begin, origin.rows, "; ".join(figure.value for figure in figures if figure.value))
        return figures

    def _answer(self, request: DemoRequest) -> Any:
        """The answer, with the weight of the request reported as it goes on."""
        title, done = f"{request.what}: {request.picture}", 0.0
        self.report(title, 0.0)
        try:
            answer = request.call(self.client)
            if isinstance(answer, Iterator):
                for event in answer:
                    if isinstance(event, Progress):
                        part = request.weight * event.step / event.steps
                        self.report(title, part - done)
                        done = part
                answer = event
            return answer
        finally:
            self.report(title, request.weight - done)

    def _note(self, request: DemoRequest, begin: float, rows: int, answer: str) -> None:
        seconds = time.perf_counter() - begin
        self.log.append(LogEntry(request.model, request.picture, request.what, seconds, rows, answer))


def _section(chapter: Chapter, drawn: dict[int, Sequence[Figure]]) -> Section:
    grids = [
        Grid([figure for request in row.requests for figure in drawn[id(request)]], row.title, row.text, row.columns)
        for row in chapter.rows
        if row.requests
    ]
    return Section(chapter.title, chapter.lead, grids, chapter.legend)
