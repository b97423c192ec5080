"""`gradserve inspect`: what is inside a network."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from gradserve.cli import options, output
from gradserve.messages import fields
from gradserve.messages.inspect import ORDER, VIEWS
from gradserve.results.common import slug
from gradserve.results.inspect import Activations, LayerRow, LayerTable, ReceptiveField, Weights

NAMES = [view.replace("_", "-") for view in VIEWS]
View = Annotated[
    str,
    typer.Argument(
        help=f"What to look at: {', '.join(NAMES)}.",
        metavar="VIEW",
        autocompletion=lambda incomplete: [name for name in NAMES if name.startswith(incomplete)],
    ),
]
Photos = Annotated[
    list[Path] | None,
    typer.Argument(help="Picture files: one for activations, any number for table.", exists=True, dir_okay=False),
]


@dataclass(frozen=True)
class Subject:
    """The layer and its channels, and which channels come first."""

    layer: Annotated[str, typer.Option("--layer", help="A layer; `gradserve inspect table` lists them.")] = ""
    channel: options.Channels = field(default_factory=list)
    count: Annotated[
        int | None, typer.Option("--count", min=1, max=256, help="How many of the strongest channels.")
    ] = None
    order: Annotated[
        str,
        options.one_of(
            "--order", names=fields.choices(ORDER), text="For activations: what makes a channel strong, {}."
        ),
    ] = ""
    inputs: Annotated[
        int | None,
        typer.Option("--inputs", min=1, max=64, help="For weights: how many input channels of each."),
    ] = None
    common_scale: Annotated[
        bool, typer.Option("--common-scale", help="For weights: draw all channels by one scale.")
    ] = False
    label: Annotated[
        list[int],
        typer.Option(
            "--label", min=0, help="For table: the class of each photo, which the loss is of. May be repeated."
        ),
    ] = field(default_factory=list)

    def arguments(self, view: str) -> dict[str, Any]:
        """The options that were given, as the client's `inspect` takes them."""
        if view == "receptive_field" and len(self.channel) > 1:
            raise ValueError("a receptive field takes one --channel, or none for several channels together")
        channels: dict[str, Any] = {"channel": self.channel[0]} if view == "receptive_field" and self.channel else {}
        if view != "receptive_field" and self.channel:
            channels = {"channels": self.channel}
        others = {name: getattr(self, name) for name in ("count", "order", "inputs", "common_scale")}
        given = {**others, "layer": self.layer, "labels": self.label}
        return {**channels, **{name: value for name, value in given.items() if value}}


@dataclass(frozen=True)
class InspectRequest:
    """What the request carries."""

    preprocess: Annotated[
        str,
        options.one_of(
            "--preprocess",
            names=options.PREPROCESS_NAMES,
            text=f"{options.PREPROCESS_TEXT}.",
            rich_help_panel="Request",
        ),
    ] = ""
    priority: options.Priority = "interactive"
    time_budget: options.TimeBudget = None
    alone: options.Alone = False


@options.grouped
def inspect(
    view: View,
    photos: Photos = None,
    *,
    subject: Subject,
    model: options.Model = "",
    out: options.PictureOrNumbers = None,
    request: InspectRequest,
    connection: options.Connection,
    timeout: options.Timeout = options.DEFAULT_TIMEOUT,
    as_json: options.Json = False,
) -> None:
    """What is inside a network: filters, activation maps, its layers, how far its units see.

    Pictures of weights and activation maps are saved as VIEW-LAYER.png if --out names no other file.

    Example: `gradserve inspect weights --layer conv1 --out filters.png`

    Example: `gradserve inspect activations cat.jpg --layer blocks.3`

    Example: `gradserve inspect table cat.jpg dog.jpg`

    Example: `gradserve inspect receptive-field --layer blocks.9`
    """
    name, pictures = view.replace("-", "_"), photos or []
    arguments = {"model": model, **subject.arguments(name), **{k: v for k, v in vars(request).items() if v}}
    if name == "activations":
        if len(pictures) != 1:
            raise ValueError(f"activations are those of one photo, and {len(pictures)} were given")
        arguments["image"] = pictures[0]
    elif pictures and name != "table":
        raise ValueError(f"{view} takes no photo, and {len(pictures)} were given")
    elif pictures:
        arguments["images"] = pictures
    if out is not None and name in ("table", "receptive_field"):
        raise ValueError(f"--out is for pictures, and {view} gives none; --json prints it")
    if out is not None and out.suffix.lower() == ".npz":
        arguments["values"] = True
    with connection.client(timeout) as client, output.waiting("inspect"):
        ask: Any = client.inspect
        result = ask(name, **arguments)
    saved = _save(result, name, out)
    output.warn(result.provenance.warnings)
    if as_json:
        output.print_json({**result.to_dict(), **({"saved": str(saved)} if saved else {})})
        return
    output.out().print(_table(result))
    if remark := _remark(result):
        output.out().print(remark)
    if saved:
        output.out().print(f"saved as {saved}")


def _save(result: Weights | Activations | LayerTable | ReceptiveField, view: str, out: Path | None) -> Path | None:
    """Saves what is a picture; returns where."""
    if isinstance(result, (LayerTable, ReceptiveField)):
        return None
    path = out or Path(f"{view}-{slug(result.layer)}.png")
    path.parent.mkdir(parents=True, exist_ok=True)
    return result.save(path)


def _table(result: Weights | Activations | LayerTable | ReceptiveField) -> Table:
    if isinstance(result, LayerTable):
        return _layers(result)
    return _field(result) if isinstance(result, ReceptiveField) else _channels(result)


def _remark(result: Weights | Activations | LayerTable | ReceptiveField) -> str:
    """What is to be said below the table."""
    if isinstance(result, Weights) and result.folded:
        return f"without {result.folded}, which the server computes as a part of {result.layer}"
    if isinstance(result, LayerTable) and result.pictures:
        loss = "" if result.loss is None else f", mean loss {result.loss:.4g}"
        return f"over {result.pictures} pictures{loss}"
    return ""


def _channels(result: Weights | Activations) -> Table:
    table = Table(title=f"{result.layer}  ({result.provenance.model})", title_justify="left", box=None)
    figures = ["norm"] if isinstance(result, Weights) else ["mean", "largest"]
    figures += ["strongest inputs"] if isinstance(result, Weights) and result.inputs else []
    for column in ("channel", *figures):
        table.add_column(column, justify="left" if column == "strongest inputs" else "right")
    for i, channel in enumerate(result.channels):
        if isinstance(result, Activations):
            table.add_row(str(channel), f"{result.means[i]:.4g}", f"{result.maxima[i]:.4g}")
        else:
            inputs = [", ".join(map(str, result.inputs[i]))] if result.inputs else []
            table.add_row(str(channel), f"{result.norms[i]:.4g}", *inputs)
    return table


def _layers(result: LayerTable) -> Table:
    sums = f"{result.parameters:,} parameters, {result.multiply_adds:,} multiply-adds"
    memory = f"{result.values:,} values ({result.bytes / 1e6:.1f} MB)"
    table = Table(title=f"{result.provenance.model}: {sums}, {memory}", title_justify="left", box=None)
    table.add_column("layer")
    table.add_column("kind")
    columns = ["output", "parameters", "multiply-adds", "kB"]
    columns += ["dead", "mean", "std", "gradient"] if result.pictures else []
    for column in columns:
        table.add_column(column, justify="right")
    for row in result:
        shape = " x ".join(map(str, row.shape))
        held = (shape, _count(row.parameters), _count(row.multiply_adds))
        does = _statistics(row) if result.pictures else ()
        table.add_row(row.name, row.kind, *held, _kilobytes(row.bytes), *does)
    return table


def _kilobytes(number: int) -> str:
    return f"{number / 1e3:,.1f}" if number >= 1000 else f"{number / 1e3:.2g}"


def _count(number: int) -> str:
    return f"{number:,}" if number else ""


def _statistics(row: LayerRow) -> tuple[str, ...]:
    dead = "" if row.dead_share is None else f"{row.dead_share:.1%}"
    figures = ("" if each is None else f"{each:.3g}" for each in (row.mean, row.std, row.gradient_norm))
    return dead, *figures


def _field(result: ReceptiveField) -> Table:
    table = Table(title=f"{result.layer}  ({result.provenance.model})", title_justify="left", box=None)
    table.show_header = False
    least = "at least " if result.at_least else ""
    whole = ": the whole picture, at every size that was tried" if result.whole_picture else ""
    (height, width), (y, x) = result.picture, result.unit
    table.add_row("receptive field", f"{least}{result.height} x {result.width} pixels{whole}")
    table.add_row("effective size", f"{result.effective_size:.1f} pixels hold 90 % of the gradient")
    for name, pair in (("stride", result.stride), ("offset", result.offset)):
        if None not in pair:
            table.add_row(name, f"{pair[0]} down, {pair[1]} to the right")
    table.add_row("measured", f"at unit ({y}, {x}) on {height} x {width} pixels")
    return table
