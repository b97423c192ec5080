"""`gradserve index`: builds the index that Influence needs."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.filesize import decimal

from gradserve.datasets import open_dataset

from ..methods.influence.audit import audited
from ..methods.influence.index import Index
from ..methods.influence.indexing.build import Builder
from ..methods.influence.indexing.plan import Examples, IndexOrigin, IndexPlan
from ..methods.influence.serving import preprocessing, training_set
from ..models.preparation import prepare
from ..models.prepared import Prepared
from .command import Config, Device, Model, Threads, console, device_of, reporting, run, spec_of
from .examples import DatasetExamples


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    return run(index, "index", arguments)


def index(
    model: Model,
    out: Annotated[Path, typer.Option(help="folder of the index; an older one there is replaced")],
    data: Annotated[
        Path | None, typer.Option(help="training set: class folders, labels.csv or .npz; digits has its own")
    ] = None,
    config: Config = None,
    weight_decay: Annotated[
        float | None, typer.Option(min=0, help="L2 that the model was trained with, lambda of lambda/2 |theta|^2")
    ] = None,
    label_smoothing: Annotated[float, typer.Option(min=0, max=0.99, help="that the model was trained with")] = 0.0,
    last_layer_only: Annotated[bool, typer.Option(help="the other layers were not trained on these data")] = False,
    size: Annotated[int, typer.Option(min=1, max=4096, help="numbers kept of each example's gradient")] = 256,
    rank: Annotated[
        int | None, typer.Option(min=1, max=4096, help="directions kept of each side of a layer; default: by layers")
    ] = None,
    seed: Annotated[int, typer.Option(help="of the samples that bases and curvature are taken from")] = 0,
    audit: Annotated[
        int, typer.Option(min=0, max=1000, help="afterwards compare so many examples with exact influence (slow)")
    ] = 0,
    device: Device = "cpu",
    threads: Threads = None,
) -> None:
    """Build the index of a model's training set, which Influence and Suspects are answered from.

    A build that was interrupted goes on where it was when the same command is given again.

    Example: gradserve index --model tiny --config models.toml --data train/ --weight-decay 1e-4 --out tiny-index
    """
    prepared = prepare(spec_of(model, config), device_of(device, threads), fold=False)
    examples = training_examples(prepared, data)
    plan = IndexPlan(weight_decay, label_smoothing, last_layer_only, size, rank, seed)
    build(prepared, examples, out, plan)
    console.print(f'serve it:  \\[models.{prepared.card.name}]  index = "{out}"')
    if audit:
        with reporting() as report:
            correlation = audited(prepared, examples, Index(out), audit, report)
        console.print(
            f"rank correlation with exact Gauss-Newton influence: {correlation:.3f} (mean of {audit} examples)"
        )


def training_examples(model: Prepared, data: Path | None) -> Examples:
    """The data set, labelled by the model's classes. Raises ValueError, OSError."""
    if data is not None:
        return DatasetExamples(open_dataset(data).labelled_for(model.card.classes), model.card)
    if model.card.name != "digits" or model.card.builder != "embedded":
        raise ValueError("--data is needed: a folder of class folders, or an .npz with images and labels")
    return training_set()


def build(model: Prepared, examples: Examples, out: Path, plan: IndexPlan) -> None:
    """Builds the index with progress bars and prints its size, coverage and warnings."""
    origin = IndexOrigin(preprocessing(model.card), examples.digest())
    with reporting() as report:
        builder = Builder(model, examples, origin, plan, report)
        disk = builder.bytes_per_example * len(examples)
        each = f"{builder.bytes_per_example} bytes each and small pictures"
        console.print(f"{len(examples)} examples, {each}: about {decimal(disk)}; methods {', '.join(builder.methods)}")
        builder.run(out)
    manifest = Index(out).manifest
    size = sum(file.bytes for file in manifest.files.values())
    console.print(f"{out}: {decimal(size)}, coverage {manifest.coverage:.1%}, stationarity {manifest.stationarity:.2g}")
    for warning in manifest.warnings:
        console.print(f"warning: {warning}", style="yellow")
