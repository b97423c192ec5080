"""`gradserve index`: builds the index that Influence needs, or that of the pictures of a data set."""

from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.filesize import decimal

from gradserve.datasets import open_dataset

from ..methods.indexes.folder import preprocessing
from ..methods.indexes.sources import Examples, IndexOrigin
from ..methods.indexes.writer import check_replaceable
from ..methods.influence.audit import audited
from ..methods.influence.index import Index
from ..methods.influence.indexing.build import Builder
from ..methods.influence.indexing.plan import IndexPlan
from ..methods.influence.serving import training_set
from ..methods.pictures.index import MAX_TOP
from ..methods.pictures.indexing.plan import TOP, PicturesPlan
from ..models.preparation import prepare
from ..models.prepared import Prepared
from .command import Config, Device, Model, Threads, console, device_of, reporting, run, spec_of
from .examples import DatasetExamples
from .pictures import build_pictures, split

SIZE = IndexPlan.size


class IndexKind(StrEnum):
    """What is indexed."""

    influence = "influence"
    pictures = "pictures"


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
    label_smoothing: Annotated[
        float, typer.Option(min=0, max=0.99, help="label smoothing that the model was trained with")
    ] = 0.0,
    last_layer_only: Annotated[
        bool, typer.Option(help="index the last layer alone: the others were not trained on these data")
    ] = False,
    size: Annotated[int, typer.Option(min=1, max=4096, help="numbers kept of each example's gradient")] = SIZE,
    rank: Annotated[
        int | None, typer.Option(min=1, max=4096, help="directions kept of each side of a layer; default: by layers")
    ] = None,
    seed: Annotated[int, typer.Option(help="seed of the samples that bases and curvature are taken from")] = 0,
    audit: Annotated[
        int, typer.Option(min=0, max=1000, help="afterwards compare so many examples with exact influence (slow)")
    ] = 0,
    kind: Annotated[
        IndexKind,
        typer.Option(help="influence (gradients of a training set) or pictures (what they excite in each layer)"),
    ] = IndexKind.influence,
    layers: Annotated[
        str, typer.Option(help="with --kind pictures: layers A,B,...; default: at most 12 from the first to the last")
    ] = "",
    top: Annotated[
        int, typer.Option(min=1, max=MAX_TOP, help="with --kind pictures: patches kept of each channel")
    ] = TOP,
    tsne: Annotated[
        list[str] | None,
        typer.Option(help="with --kind pictures: also a t-SNE of this layer; needs the extra tsne; repeatable"),
    ] = None,
    device: Device = "cpu",
    threads: Threads = None,
) -> None:
    """Build the index of a data set: of a training set, which Influence and Suspects are answered from, or of pictures.

    The index of kind pictures tells which pictures excite each channel of some layers. They may have no labels, or
    classes that the model does not know. A build that was interrupted goes on where it was when the same command is
    given again.

    Example: gradserve index --model tiny --config models.toml --data train/ --weight-decay 1e-4 --out tiny-index
    """
    influences = {
        "--weight-decay": weight_decay is not None,
        "--label-smoothing": label_smoothing > 0,
        "--last-layer-only": last_layer_only,
        "--size": size != SIZE,
        "--rank": rank is not None,
        "--seed": seed != 0,
        "--audit": audit > 0,
    }
    check_options(
        {
            IndexKind.influence: influences,
            IndexKind.pictures: {"--layers": layers != "", "--top": top != TOP, "--tsne": bool(tsne)},
        },
        kind,
    )
    check_replaceable(out)
    if kind is IndexKind.pictures:
        plan_of_pictures = PicturesPlan(split(layers), top, tsne=tuple(tsne or ()))
        build_pictures(model, config, data, out, plan_of_pictures, device_of(device, threads))
        return
    prepared = prepare(spec_of(model, config), device_of(device, threads), fold=False)
    plan = IndexPlan(weight_decay, label_smoothing, last_layer_only, size, rank, seed)
    index_influence(prepared, training_examples(prepared, data), out, plan, audit)


def index_influence(model: Prepared, examples: Examples, out: Path, plan: IndexPlan, audit: int) -> None:
    """Builds the index of Influence, says how it is served, and compares so many examples with exact influence."""
    build(model, examples, out, plan)
    console.print(f'serve it:  \\[models.{model.card.name}]  index = "{out}"')
    if audit:
        with reporting() as report:
            correlation = audited(model, examples, Index(out), audit, report)
        console.print(
            f"rank correlation with exact Gauss-Newton influence: {correlation:.3f} (mean of {audit} examples)"
        )


def check_options(given: Mapping[IndexKind, Mapping[str, bool]], kind: IndexKind) -> None:
    """Raises ValueError for an option that is given and is one of another kind's."""
    for other, options in given.items():
        wrong = [name for name, is_given in options.items() if is_given]
        if other is not kind and wrong:
            raise ValueError(f"{', '.join(wrong)}: for --kind {other.value} alone; leave it out")


def training_examples(model: Prepared, data: Path | None) -> Examples:
    """The data set, labelled by the model's classes. Raises ValueError, OSError."""
    if data is not None:
        return DatasetExamples(open_dataset(data).labelled_for(model.card.classes), model.card)
    if model.card.name != "digits" or model.card.builder != "embedded":
        raise ValueError("--data is needed: class folders, a folder with labels.csv, or an .npz with images and labels")
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
