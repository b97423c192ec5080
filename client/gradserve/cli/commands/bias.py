"""`gradserve bias`: does a network decide by the object, or by what stands around it?"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from gradserve.bias import report
from gradserve.bias.run import Measured, measure
from gradserve.cli import options, output, parse
from gradserve.datasets import open_dataset
from gradserve.messages import fields
from gradserve.messages.explain import EXPLAIN_METHOD

_METHODS = fields.names(EXPLAIN_METHOD)
_SHOWN = 10  # The most classes and pictures that are printed.

Data = Annotated[
    Path,
    typer.Option(
        "--data",
        "-d",
        exists=True,
        help="Labelled pictures: a folder of class folders, a folder with labels.csv (file, class_name) or an .npz.",
    ),
]


@dataclass(frozen=True)
class Question:
    """The map that the evidence is measured by, and the masks that it is measured in."""

    masks: Annotated[
        Path | None,
        typer.Option(
            "--masks",
            exists=True,
            file_okay=False,
            help="Folder of masks: for each picture a PNG at its own path, white where the object is. Default: what "
            "another map of the same network cuts out.",
        ),
    ] = None
    method: Annotated[str, options.one_of("--method", names=_METHODS, text="One of {}.")] = "grad_cam"
    param: Annotated[list[str], typer.Option("--param", help="NAME=VALUE of the method. May be repeated.")] = field(
        default_factory=list
    )
    min_inside: Annotated[
        float | None,
        typer.Option("--min-inside", min=0, max=1, help="Least mean share of the evidence in the object, else exit 1."),
    ] = None


@dataclass(frozen=True)
class Reports:
    """Where the report goes, and what it shows."""

    out: Annotated[
        Path, typer.Option("--out", "-o", file_okay=False, help="Folder of the report.", rich_help_panel="Output")
    ] = Path("bias-out")
    worst: Annotated[
        int, typer.Option("--worst", min=0, max=100, help="Worst pictures on the page.", rich_help_panel="Output")
    ] = 24


@options.grouped
def bias(
    data: Data,
    *,
    question: Question,
    model: options.Model = "",
    limit: options.Limit = None,
    seed: options.Seed = None,
    concurrency: options.Concurrency = 32,
    reports: Reports,
    connection: options.Connection,
    timeout: options.Timeout = 300.0,
    as_json: options.Json = False,
) -> None:
    """How much of the evidence for its label lies in the object of each picture, and how much around it.

    Writes results.json and a page, index.html, with the classes and the pictures that have least in the object: a wolf
    that is known by the snow. The evidence is the positive part of the map of the label. The exit code is 1 below
    --min-inside, or where a picture could not be measured, and 2 where none could.

    Example: `gradserve bias --data animals/ --masks masks/ --method grad_cam --out bias-out`
    """
    method = parse.methods([question.method], question.param)[0]
    with connection.client(timeout) as client:
        card = client.model(model)
        dataset = open_dataset(data).labelled_for(card.classes).take(limit, seed or 0)
        arguments: dict[str, Any] = {"seed": seed, "priority": "batch"}
        settings = {
            "model": card.name,
            "weights_digest": card.weights_digest,
            "method": method.name,
            "parameters": dict(method.parameters),
            "masks": str(question.masks) if question.masks else None,
            "seed": seed or 0,
        }
        answers = measure(
            client, dataset, method, question.masks, model=card.name, concurrency=concurrency, arguments=arguments
        )
        collected, result = report.Collected(reports.worst), dict[str, Any]()
        try:
            for each in output.progress(answers, len(dataset), "bias"):
                collected.add(each)
        finally:
            if collected:  # After an error, and after Ctrl-C, this is what was measured before it.
                result = report.write(reports.out, collected, settings, len(dataset))
    if as_json:
        output.print_json(result)
    else:
        _print(collected.worst[:_SHOWN], result, reports.out / report.PAGE)
    _check(result, question.min_inside)


def _check(result: dict[str, Any], least: float | None) -> None:
    """Ends with 1 where there is too little in the objects or a picture failed, with 2 where nothing was measured."""
    if result["inside"] is None:
        raise ValueError("no picture could be measured; results.json has the reasons")
    too_little = least is not None and result["inside"] < least
    if too_little:
        output.err().print(f"{result['inside']:.1%} of the evidence lies in the object; {least:.1%} are asked for")
    if too_little or result["failed"]:
        raise typer.Exit(1)


def _print(worst: list[Measured], result: dict[str, Any], path: Path) -> None:
    if result["inside"] is not None:
        shares = (
            f"{result['inside']:.1%} of the evidence lies in the object, which has {result['area']:.1%} of the area"
        )
        output.out().print(f"{shares}; see {path}")
    table = Table(box=None)
    table.add_column("class, or picture", overflow="fold")
    for name in ("pictures", "in the object", "its area"):
        table.add_column(name, justify="right")
    for each in result["classes"][:_SHOWN]:
        table.add_row(each["class_name"], str(each["pictures"]), f"{each['inside']:.1%}", f"{each['area']:.1%}")
    for evidence in (each.evidence for each in worst):
        table.add_row(evidence.id, "", f"{evidence.inside or 0:.1%}", f"{evidence.area:.1%}")
    output.out().print(table)
    output.warn(f"{name}: {reason}" for name, reason in result["failed"].items())
