"""`gradserve robustness`: a gate for deployments."""

import asyncio
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from gradserve.aio import AsyncClient
from gradserve.cli import options, output, parse
from gradserve.cli.commands import robustness_report
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
Attacks = Annotated[
    list[str],
    typer.Option("--attack", help="Name of an attack, or none. May be repeated.", rich_help_panel=_TRIALS),
]
Budgets = Annotated[
    list[str],
    typer.Option(
        "--eps", help="Budget: 4/255, 0.015; the model's own if left out. May be repeated.", rich_help_panel=_TRIALS
    ),
]
Parameters = Annotated[
    list[str],
    typer.Option(
        "--param", help="NAME=VALUE, or ATTACK.NAME=VALUE with several. May be repeated.", rich_help_panel=_TRIALS
    ),
]
Norm = Annotated[str, typer.Option("--norm", help="Of the budget: linf or l2.", rich_help_panel=_TRIALS)]
Loss = Annotated[
    str | None,
    typer.Option("--loss", help="cross_entropy, margin or dlr; the attack's own if left out.", rich_help_panel=_TRIALS),
]
Defence = Annotated[
    str | None,
    typer.Option(
        "--defence", help="Put before the model: jpeg, bit_depth, blur or noise; jpeg:quality=50.",
        rich_help_panel=_TRIALS,
    ),
]  # fmt: skip
Adaptive = Annotated[
    bool, typer.Option("--adaptive", help="Let attacks see through the defence.", rich_help_panel=_TRIALS)
]
Corruptions = Annotated[
    list[str],
    typer.Option(
        "--corruption",
        help="A kind of ImageNet-C in its 5 severities, or all. May be repeated.",
        rich_help_panel=_TRIALS,
    ),
]
Reference = Annotated[
    str,
    typer.Option("--reference", help="Served model that mCE is relative to.", rich_help_panel=_TRIALS),
]
MinRobust = Annotated[
    float | None,
    typer.Option(
        "--min-robust-accuracy", min=0, max=1, help="Least share that stands, at every eps.",
        rich_help_panel=_THRESHOLDS,
    ),
]  # fmt: skip
MinClean = Annotated[
    float | None,
    typer.Option(
        "--min-clean-accuracy", min=0, max=1, help="Least accuracy on the pictures as they are.",
        rich_help_panel=_THRESHOLDS,
    ),
]  # fmt: skip
MaxMce = Annotated[
    float | None,
    typer.Option("--max-mce", min=0, help="Largest mCE; the reference has 1.", rich_help_panel=_THRESHOLDS),
]
Limit = Annotated[int | None, typer.Option("--limit", min=1, help="Only so many pictures, drawn by the seed.")]
InFlight = Annotated[
    int, typer.Option("--concurrency", min=1, max=1024, help="Pictures under way at once.", rich_help_panel="Request")
]
Out = Annotated[
    Path,
    typer.Option("--out", "-o", file_okay=False, help="Folder for reports and journal.", rich_help_panel=_OUTPUT),
]
Restart = Annotated[bool, typer.Option("--restart", help="Forget the journal in --out.", rich_help_panel=_OUTPUT)]
Worst = Annotated[int, typer.Option("--worst", min=0, max=100, help="Worst cases to show.", rich_help_panel=_OUTPUT)]
Seconds = Annotated[
    float, typer.Option("--timeout", help="Seconds that a call may take.", rich_help_panel="Connection")
]


class NotMeasured(ValueError):
    """The check could not be made, which is neither passed nor failed."""


@dataclass(frozen=True)
class Setting:
    """What is measured, against what, and where it goes."""

    model: str
    reference: str
    dataset: Dataset
    wish: CheckSpec
    limits: Limits
    limit: int | None
    concurrency: int
    out: Path
    restart: bool
    worst: int


def robustness(
    data: Data,
    model: options.Model = "",
    attack: Attacks = ["pgd"],  # noqa: B006  typer copies it
    eps: Budgets = [],  # noqa: B006
    param: Parameters = [],  # noqa: B006
    norm: Norm = "linf",
    loss: Loss = None,
    defence: Defence = None,
    adaptive: Adaptive = False,
    corruption: Corruptions = [],  # noqa: B006
    reference: Reference = "",
    min_robust_accuracy: MinRobust = None,
    min_clean_accuracy: MinClean = None,
    max_mce: MaxMce = None,
    limit: Limit = None,
    seed: options.Seed = None,
    preprocess: options.Preprocess = "model_default",
    precision: options.Precision = "auto",
    concurrency: InFlight = 32,
    out: Out = Path("robustness-out"),
    restart: Restart = False,
    worst: Worst = 12,
    server: options.Server = options.DEFAULT_ADDRESS,
    tls: options.Tls = False,
    ca: options.Ca = None,
    token: options.Token = None,
    timeout: Seconds = 300.0,
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

    Example: `gradserve robustness --data photos/ --model resnet50 --eps 4/255 --min-robust-accuracy 0.40`

    Example: `gradserve robustness --data cifar.npz --attack none --corruption all --reference alexnet --max-mce 1`
    """
    arguments: dict[str, Any] = {"norm": norm, "loss": loss, "adaptive": adaptive}
    arguments["defence"] = parse.defence(defence) if defence else None
    wish = CheckSpec(
        methods=parse.methods([name for name in attack if name != "none"], param, ATTACK_METHOD),
        budgets=[amount("--eps", text) for text in eps],
        arguments={name: value for name, value in arguments.items() if value},
        kinds=_kinds(corruption),
        seed=seed or 0,
        preprocess=preprocess,
        precision=precision,
    )
    limits = Limits(min_robust_accuracy, min_clean_accuracy, max_mce)
    _check(wish, limits, reference)
    setting = Setting(model, reference, open_dataset(data), wish, limits, limit, concurrency, out, restart, worst)
    connect = partial(AsyncClient, server, tls=ca or tls, token=token, timeout=timeout)
    try:
        document = asyncio.run(_measured(connect, setting))
    except KeyboardInterrupt:
        output.err().print("interrupted; the same command goes on from here")
        raise typer.Exit(130) from None
    except JournalMismatch as error:
        error.add_note("--restart forgets it, another --out keeps it")
        raise
    except (GradserveError, OSError) as error:
        raise NotMeasured(str(error)) from error
    if as_json:
        output.print_json(document)
    raise typer.Exit(EXIT_CODES[document["verdict"]])


def _kinds(texts: list[str]) -> list[str]:
    for text in texts:
        if text not in [*KINDS, "all"]:
            raise fields.unknown("corruption", text, KINDS)
    return [kind for kind in KINDS if kind in texts or "all" in texts]


def _check(wish: CheckSpec, limits: Limits, reference: str) -> None:
    """Raises ValueError for thresholds on what is not measured."""
    if not wish.methods and not wish.kinds and limits.clean is None:
        raise ValueError("nothing to measure: name an --attack, a --corruption or a --min-clean-accuracy")
    if limits.robust is not None and not wish.methods:
        raise ValueError("--min-robust-accuracy needs an --attack")
    if limits.mce is not None and not (reference and wish.kinds):
        raise ValueError("--max-mce needs --corruption all (or some kinds) and a --reference")
    if reference and not wish.kinds:
        raise ValueError("--reference needs --corruption all, or some kinds")


async def _measured(connect: Callable[[], AsyncClient], setting: Setting) -> dict[str, Any]:
    """Ask, count, write the reports; the document of results.json."""
    async with connect() as client:  # within the loop that it belongs to
        card = await client.model(setting.model)
        plan = setting.wish.plan(card, await client.model(setting.reference) if setting.reference else None)
        pictures = setting.dataset.labelled_for(card.classes)
        check_labels(pictures)
        dataset = pictures.take(setting.limit, plan.seed)
        path = setting.out / "journal.jsonl"
        if setting.restart:
            path.unlink(missing_ok=True)
        with Journal(path, plan.described(pictures)) as journal:
            for name in REPORTS:  # or those of an earlier run would be taken for this one's, if it ends early
                (setting.out / name).unlink(missing_ok=True)
            seconds = await _run(client, plan, journal, dataset, setting.concurrency)
            figures = counted(plan, dataset, journal, setting.limits)
            effort = results.RunStats(len(dataset), journal.found, journal.rows, seconds)
            cases = await robustness_report.worst(Check(client, plan, journal), dataset, setting.worst)
    document = results.document(plan, figures, effort)
    (setting.out / "results.json").write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n")
    junit.write(setting.out / "junit.xml", figures, plan.model, seconds)
    (setting.out / "report.html").write_text(robustness_report.html(plan, figures, effort, cases))
    robustness_report.show(plan, figures, effort, setting.out)
    return document


async def _run(client: AsyncClient, plan: Plan, journal: Journal, dataset: Dataset, concurrency: int) -> float:
    """Ask everything that is open, with a progress bar; returns seconds."""
    begin = time.perf_counter()
    with output.counter(f"robustness of {plan.model}", len(dataset) * (1 + len(plan.trials))) as told:
        await Check(client, plan, journal, told).run(dataset, concurrency)
    return time.perf_counter() - begin
