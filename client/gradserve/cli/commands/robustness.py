"""`gradserve robustness`: a gate for deployments."""

import asyncio
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from gradserve.aio import AsyncClient
from gradserve.cli import options, output, parse
from gradserve.cli.commands import robustness_report
from gradserve.cli.commands.attack import LOSSES, METHODS, NORMS
from gradserve.datasets import Dataset, open_dataset
from gradserve.errors import GradserveError
from gradserve.messages import fields
from gradserve.messages.attack import ATTACK_METHOD, amount
from gradserve.robustness import junit, results
from gradserve.robustness.figures import Limits, counted
from gradserve.robustness.journal import Journal, JournalMismatch
from gradserve.robustness.plan import CheckSpec, Plan, check_labels
from gradserve.robustness.run import Check
from gradserve.v1 import attack_pb2

KINDS = fields.choices(attack_pb2.CorruptionKind.DESCRIPTOR)
REPORTS = ("results.json", "junit.xml", "report.html")
EXIT_CODES = {"passed": 0, "failed": 1, "not_measured": 2}
_THRESHOLDS, _TRIALS, _OUTPUT = "Thresholds", "Attacks and corruptions", "Output"

Data = Annotated[
    Path,
    typer.Option(
        "--data",
        "-d",
        exists=True,
        help="Labelled pictures: a folder of class folders, a folder with labels.csv (file, class_name) or an .npz.",
    ),
]
Concurrency = Annotated[
    int, typer.Option("--concurrency", min=1, max=1024, help="Pictures under way at once.", rich_help_panel="Request")
]


@dataclass(frozen=True)
class Trials:
    """What is done to the pictures."""

    attack: Annotated[
        list[str],
        options.one_of(
            "--attack", names=[*METHODS, "none"], text="One of {}. May be repeated.", rich_help_panel=_TRIALS
        ),
    ] = field(default_factory=lambda: ["pgd"])
    eps: Annotated[
        list[str],
        typer.Option(
            "--eps", help="Budget: 4/255, 0.015; the model's own if left out. May be repeated.", rich_help_panel=_TRIALS
        ),
    ] = field(default_factory=list)
    param: Annotated[
        list[str],
        typer.Option(
            "--param", help="NAME=VALUE, or ATTACK.NAME=VALUE with several. May be repeated.", rich_help_panel=_TRIALS
        ),
    ] = field(default_factory=list)
    norm: Annotated[str, options.one_of("--norm", names=NORMS, text="Of the budget: {}.", rich_help_panel=_TRIALS)] = (
        "linf"
    )
    loss: Annotated[
        str | None,
        options.one_of("--loss", names=LOSSES, text="{}; the attack's own if left out.", rich_help_panel=_TRIALS),
    ] = None
    defence: Annotated[
        str | None,
        typer.Option(
            "--defence",
            help="Put before the model: jpeg, bit_depth, blur or noise; jpeg:quality=50.",
            rich_help_panel=_TRIALS,
        ),
    ] = None
    adaptive: Annotated[
        bool, typer.Option("--adaptive", help="Let attacks see through the defence.", rich_help_panel=_TRIALS)
    ] = False
    corruption: Annotated[
        list[str],
        options.one_of(
            "--corruption",
            names=[*KINDS, "all"],
            text="A kind of ImageNet-C in its 5 severities, or all: {}. May be repeated.",
            rich_help_panel=_TRIALS,
        ),
    ] = field(default_factory=list)
    reference: Annotated[
        str,
        typer.Option("--reference", help="Served model that mCE is relative to.", rich_help_panel=_TRIALS),
    ] = ""

    def spec(self, seed: int, preprocess: str, precision: str) -> CheckSpec:
        """The check that is asked for."""
        arguments: dict[str, Any] = {"norm": self.norm, "loss": self.loss, "adaptive": self.adaptive}
        arguments["defence"] = parse.defence(self.defence) if self.defence else None
        return CheckSpec(
            methods=parse.methods([name for name in self.attack if name != "none"], self.param, ATTACK_METHOD),
            budgets=[amount("--eps", text) for text in self.eps],
            arguments={name: value for name, value in arguments.items() if value},
            kinds=_kinds(self.corruption),
            seed=seed,
            preprocess=preprocess,
            precision=precision,
        )


@dataclass(frozen=True)
class Thresholds:
    """What must hold for the check to pass."""

    min_robust_accuracy: Annotated[
        float | None,
        typer.Option(
            "--min-robust-accuracy",
            min=0,
            max=1,
            help="Least share that stands, at every eps.",
            rich_help_panel=_THRESHOLDS,
        ),
    ] = None
    min_clean_accuracy: Annotated[
        float | None,
        typer.Option(
            "--min-clean-accuracy",
            min=0,
            max=1,
            help="Least accuracy on the pictures as they are.",
            rich_help_panel=_THRESHOLDS,
        ),
    ] = None
    max_mce: Annotated[
        float | None,
        typer.Option("--max-mce", min=0, help="Largest mCE; the reference has 1.", rich_help_panel=_THRESHOLDS),
    ] = None

    def limits(self) -> Limits:
        """The thresholds as the check takes them."""
        return Limits(self.min_robust_accuracy, self.min_clean_accuracy, self.max_mce)


@dataclass(frozen=True)
class Reports:
    """Where the reports go, and what they show."""

    out: Annotated[
        Path,
        typer.Option("--out", "-o", file_okay=False, help="Folder for reports and journal.", rich_help_panel=_OUTPUT),
    ] = Path("robustness-out")
    restart: Annotated[
        bool, typer.Option("--restart", help="Forget the journal in --out.", rich_help_panel=_OUTPUT)
    ] = False
    worst: Annotated[
        int, typer.Option("--worst", min=0, max=100, help="Worst cases to show.", rich_help_panel=_OUTPUT)
    ] = 12


class NotMeasured(ValueError):
    """The check could not be made, which is neither passed nor failed."""


@dataclass(frozen=True)
class Setting:
    """What is measured, against what, and where it goes."""

    model: str
    reference: str
    dataset: Dataset
    spec: CheckSpec
    limits: Limits
    limit: int | None
    concurrency: int
    reports: Reports
    server: str


@options.grouped
def robustness(
    data: Data,
    *,
    model: options.Model = "",
    limit: options.Limit = None,
    trials: Trials,
    thresholds: Thresholds,
    seed: options.Seed = None,
    preprocess: options.Preprocess = "model_default",
    precision: options.Precision = "auto",
    concurrency: Concurrency = 32,
    reports: Reports,
    connection: options.Connection,
    timeout: options.Timeout = 300.0,
    as_json: options.Json = False,
) -> None:
    """Clean, robust and corrupted accuracy of a served model: a gate for deployments.

    Exit code 0: every threshold holds. 1: one does not. 2: it could not be measured.

    A picture is right where its label is predicted. Where labels are independent (the model's head is multilabel) it is
    right where its label is present, whatever other labels are.

    A picture whose attack had nothing to follow is tried again with the margin loss. Where that has nothing to follow
    either the picture is not measured, and the exit code is 2 if it could change the verdict.

    A run that was stopped goes on when the same command is given again. A failed request is sent again, and what
    fails for good counts as fallen. Unreadable pictures are counted apart.

    Example: `gradserve robustness --data photos/ --model cifar10-robust --eps 4/255 --min-robust-accuracy 0.40`

    Example: `gradserve robustness --data cifar.npz --model cifar10-robust --attack none --corruption all --out noisy/`
    """
    spec, limits = trials.spec(seed or 0, preprocess, precision), thresholds.limits()
    _check(spec, limits, trials.reference)
    dataset = open_dataset(data)
    setting = Setting(model, trials.reference, dataset, spec, limits, limit, concurrency, reports, connection.address)
    document = _document(partial(connection.async_client, timeout), setting)
    if as_json:
        output.print_json(document)
    raise typer.Exit(EXIT_CODES[document["verdict"]])


def _document(connect: Callable[[], AsyncClient], setting: Setting) -> dict[str, Any]:
    """The document of results.json. Raises NotMeasured where the check could not be made."""
    try:
        return asyncio.run(_measure(connect, setting))
    except KeyboardInterrupt:
        output.err().print("interrupted; the same command goes on from here")
        raise typer.Exit(130) from None
    except JournalMismatch as error:
        error.add_note("--restart forgets it, another --out keeps it")
        raise
    except (GradserveError, OSError) as error:
        raise NotMeasured(str(error)) from error


def _kinds(texts: list[str]) -> list[str]:
    return [kind for kind in KINDS if kind in texts or "all" in texts]


def _check(spec: CheckSpec, limits: Limits, reference: str) -> None:
    """Raises ValueError for thresholds on what is not measured."""
    if not spec.methods and not spec.kinds and limits.clean is None:
        raise ValueError("nothing to measure: name an --attack, a --corruption or a --min-clean-accuracy")
    if limits.robust is not None and not spec.methods:
        raise ValueError("--min-robust-accuracy needs an --attack")
    if limits.mce is not None and not (reference and spec.kinds):
        raise ValueError("--max-mce needs --corruption all (or some kinds) and a --reference")
    if reference and not spec.kinds:
        raise ValueError("--reference needs --corruption all, or some kinds")


async def _measure(connect: Callable[[], AsyncClient], setting: Setting) -> dict[str, Any]:
    """Ask, count, write the reports; the document of results.json."""
    out = setting.reports.out
    async with connect() as client:  # The client belongs to the running event loop.
        card = await client.model(setting.model)
        plan = setting.spec.plan(card, await client.model(setting.reference) if setting.reference else None)
        pictures = setting.dataset.labelled_for(card.classes)
        check_labels(pictures)
        dataset = pictures.take(setting.limit, plan.seed)
        path = out / "journal.jsonl"
        if setting.reports.restart:
            path.unlink(missing_ok=True)
        with Journal(path, plan.described(pictures)) as journal:
            for name in REPORTS:  # If this run ends early, no reports of an earlier one remain.
                (out / name).unlink(missing_ok=True)
            seconds = await _run(client, plan, journal, dataset, setting.concurrency)
            figures = counted(plan, dataset, journal, setting.limits)
            effort = results.RunStats(len(dataset), journal.found, journal.rows, seconds)
            cases = await robustness_report.worst(Check(client, plan, journal), dataset, setting.reports.worst)
    document = results.document(plan, figures, effort)
    (out / "results.json").write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n")
    junit.write(out / "junit.xml", figures, plan.model, seconds)
    origin = robustness_report.origin(plan, setting.server)
    (out / "report.html").write_text(robustness_report.html(plan, figures, effort, cases, origin), encoding="utf-8")
    robustness_report.show(plan, figures, effort, out)
    return document


async def _run(client: AsyncClient, plan: Plan, journal: Journal, dataset: Dataset, concurrency: int) -> float:
    """Ask everything that is open, with a progress bar; returns seconds."""
    begin = time.perf_counter()
    with output.counter(f"robustness of {plan.model}, requests", len(dataset) * (1 + len(plan.trials))) as report:
        await Check(client, plan, journal, report).run(dataset, concurrency)
    return time.perf_counter() - begin
