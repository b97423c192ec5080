"""`gradserve check`: tries the models of a settings file without a server, and says what is odd about them."""

import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, TypeVar

import typer
from pydantic import ValidationError
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from gradserve.cli import output

from ..config import Settings, StartError, devices, merged
from ..keeper.kept_worker import death_reason
from ..logs import LogSettings, configure
from ..methods.explain import METHODS
from ..models.catalogue import ModelSpec
from ..models.faults import faults_of
from ..models.served import not_served
from ..models.tables import mistakes
from ..pool import forking
from ..pool.wire import WorkerSettings
from .command import Config, console, run
from .model_check import ModelReport, built_otherwise, check_model

Document = dict[str, Any]
T = TypeVar("T")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    return run(check, "check", arguments)


def check(
    model: Annotated[
        list[str] | None,
        typer.Option(help="NAME or NAME=WEIGHTS, as for gradserve serve; repeat for several", show_default=False),
    ] = None,
    config: Config = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu or cuda; default: the file's")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="compute threads on a CPU; default: the file's")] = None,
    strict: Annotated[bool, typer.Option("--strict", help="exit with 1 where anything is odd, too")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON on standard output")] = False,
) -> None:
    """Load models as a server does, make a map of each by every method of Explain that applies, and say what is odd.

    Without --model all models of the file are tried, and without both the embedded ones. Each has a process of its own,
    so that one that crashes is told and its memory is given back.

    Exit codes: 0 if all models are served and all maps could be made, 1 if not (with --strict also if anything is odd),
    2 if the arguments or the file are at fault.

    Example: gradserve check --config models.toml

    Example: gradserve check --config models.toml --model mine --strict --json
    """
    forking.start(torchvision=True)  # This comes early, as it takes a while.
    configure(LogSettings(logging.ERROR))  # What else a worker would log is in the reports.
    try:
        settings = merged(config, model or [], {}, {"device": device, "threads": threads})
        workers = devices(settings.pool)
    except (OSError, ValueError) as error:
        text = mistakes(error, "settings", Settings) if isinstance(error, ValidationError) else str(error)
        console.print(text, style="red", markup=False, soft_wrap=True)
        raise typer.Exit(2) from error
    began, reports = time.monotonic(), list[ModelReport]()
    for report in watched(settings, workers):
        reports.append(report)
        if not as_json:
            tell(report)
    passed = all(report.passed and not (strict and report.odd) for report in reports)
    if as_json:
        output.print_json({"passed": passed, "models": [document(report) for report in reports]})
    else:
        sum_up(reports, time.monotonic() - began)
    raise typer.Exit(0 if passed else 1)


def watched(settings: Settings, workers: Sequence[str]) -> Iterator[ModelReport]:
    """The reports, model by model, with a bar on standard error while somebody watches."""
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    faults = forking.ask(faults_of, settings.models)  # The first question waits until torch is imported.
    for done, spec in enumerate(settings.models):
        bar = Progress(*columns, TimeElapsedColumn(), console=console, transient=True, disable=not console.is_terminal)
        with bar:
            bar.add_task(spec.name, total=len(settings.models), completed=done)
            report = reported(spec, settings, workers, faults)
        yield report


def reported(spec: ModelSpec, settings: Settings, workers: Sequence[str], faults: Mapping[str, str]) -> ModelReport:
    """The report of one model, which is tried in a process of its own."""
    if spec.name in faults:
        return ModelReport(spec.name, faults[spec.name])
    began = time.monotonic()
    worker = WorkerSettings((spec,), workers[0], settings.pool.threads, settings.pool.rows)
    try:
        report = forking.ask(printing_aside, check_model, worker)
        own = ":" in spec.source and not spec.is_embedded
        differs = forking.ask(printing_aside, built_otherwise, worker, report.card) if own and report.card else ""
    except StartError:
        return ModelReport(spec.name, death_reason(spec.name), time.monotonic() - began)
    if differs and len(workers) > 1:  # A server with one worker has nothing to compare it with.
        report = ModelReport(spec.name, differs)
    elif differs:
        report = replace(report, odd=(*report.odd, differs))
    return replace(report, seconds=time.monotonic() - began)


def printing_aside(function: Callable[..., T], *args: object) -> T:
    """Runs the function with standard error as standard output: what builders print is no part of the report."""
    os.dup2(2, 1)
    return function(*args)


def tell(report: ModelReport) -> None:
    """Prints what was found out about a model, a line for each finding, however long."""
    for text, style in lines(report):
        output.out().print(text, style=style, soft_wrap=True)


def lines(report: ModelReport) -> Iterator[tuple[str, str]]:
    """What was found out about a model, each line with its colour."""
    card = report.card
    if card is None:
        yield f"{not_served(report.name, report.refused)} ({report.seconds:.1f} s)", "red"
        return
    facts = f"{card.head}, {len(card.classes)} classes, {card.height}x{card.width}"
    rows = ", ".join(f"{precision} ({count} rows)" for precision, count in report.rows.items())
    count = len(METHODS) - len(report.refusals) - len(report.failures)
    maps = f"{count} map" if count == 1 else f"{count} maps"
    style = "red" if report.failures else "yellow" if report.odd else "green"
    yield f"{report.name}: {facts}; {rows}; {maps}, {report.seconds:.1f} s", style
    yield from ((f"    the map of {name} failed: {why}", "red") for name, why in report.failures.items())
    yield from ((f"    odd: {text}", "yellow") for text in report.odd)
    yield from ((f"    note: {text}", "dim") for text in report.notes)
    for why in dict.fromkeys(report.refusals.values()):
        names = [name for name in report.refusals if report.refusals[name] == why]
        yield f"    {', '.join(names)} {'does' if len(names) == 1 else 'do'} not apply: {why}", "dim"


def sum_up(reports: Sequence[ModelReport], seconds: float) -> None:
    """Prints how many models are served, how many maps failed and how much is odd."""
    refused = sum(bool(report.refused) for report in reports)
    failures = sum(len(report.failures) for report in reports)
    odd = sum(len(report.odd) for report in reports)
    style = "red" if refused or failures else "yellow" if odd else "green"
    counts = f"{len(reports) - refused} of {len(reports)} models served, {failures} maps failed, {odd} odd"
    output.out().print(f"{counts}, {seconds:.1f} s", style=style)


def document(report: ModelReport) -> Document:
    """A report as JSON takes it."""
    verdict: Document = {"name": report.name, "served": not report.refused, "reason": report.refused}
    if card := report.card:
        verdict |= {"builder": card.builder, "weights_digest": card.digest, "head": card.head}
        verdict |= {"classes": list(card.classes), "input_size": [card.height, card.width], "gflop": card.gflop}
        verdict |= {"rows": dict(report.rows), "absent": dict(card.absent), "methods": methods(report)}
    return verdict | {"odd": list(report.odd), "notes": list(report.notes), "seconds": round(report.seconds, 3)}


def methods(report: ModelReport) -> dict[str, Document]:
    """Whether each method applies and gave a map, and why not."""
    return {
        name: {
            "applies": name not in report.refusals,
            "map": name not in report.refusals and name not in report.failures,
            "reason": report.refusals.get(name, report.failures.get(name, "")),
        }
        for name in METHODS
    }
