"""`gradserve exemplars`: the pictures of a data set that excite the units of a layer most."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

import typer
from PIL import Image
from rich.table import Table

from gradserve.arguments import Unit
from gradserve.cli import drawing, options, output
from gradserve.client import Client
from gradserve.messages import pictures
from gradserve.results.exemplars import ChannelExemplars, Exemplars
from gradserve.results.pictures import MaximizedImage

ENDINGS = (".png", ".jpg", ".jpeg", ".webp")


@dataclass(frozen=True)
class Units:
    """The layer and its channels, and how much is shown of each."""

    layer: Annotated[str, typer.Option("--layer", help="An indexed layer; the last one if left out.")] = ""
    channel: options.Channels = field(default_factory=list)
    count: Annotated[
        int | None, typer.Option("--count", min=1, max=64, help="How many of the strongest channels; 8 if left out.")
    ] = None
    top: Annotated[
        int | None,
        typer.Option("--top", "-k", min=1, max=100, help="How many patches of each; all that are indexed if left out."),
    ] = None
    spectrum: Annotated[
        bool, typer.Option("--spectrum", help="Also pictures at even distances between the strongest and the weakest.")
    ] = False

    def arguments(self) -> dict[str, Any]:
        """The options that were given, as the client's `exemplars` takes them."""
        given = {"channels": self.channel, "count": self.count, "top": self.top, "spectrum": self.spectrum}
        return {name: value for name, value in given.items() if value}


@options.grouped
def exemplars(
    *,
    units: Units,
    model: options.Model = "",
    maximize: Annotated[
        bool, typer.Option("--maximize", help="Also make the picture that each channel answers to most.")
    ] = False,
    out: options.PictureOrNumbers = None,
    connection: options.Connection,
    timeout: options.Timeout = pictures.DEFAULT_TIMEOUT,
    as_json: options.Json = False,
) -> None:
    """The pictures of a data set that excite the units of a layer most, a row for each channel.

    The model must be served with an index of pictures: `gradserve index --kind pictures` builds one. With --maximize
    each row begins with what the unit looks for, a picture made by Maximize, before what it found.

    Example: `gradserve exemplars --model mine --layer layer3.2 --channel 3 --channel 7 --out sheet.png`

    Example: `gradserve exemplars --model mine --count 4 --spectrum --maximize --out sheet.png`
    """
    numbers = out is not None and out.suffix.lower() == ".npz"
    if out is not None and not numbers and out.suffix.lower() not in ENDINGS:
        raise ValueError(f"--out is for a picture ({', '.join(ENDINGS)}) or for the numbers (.npz), not {out.name}")
    if maximize and (out is None or numbers):
        raise ValueError("--maximize draws pictures: name a file for them by --out")
    with connection.client(timeout) as client, output.waiting("exemplars"):
        result = client.exemplars(units.layer, model=model, values=numbers, **units.arguments())
        maximized = _maximized(client, result, timeout) if maximize else []
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        result.save(out) if numbers else drawing.exemplars(result, maximized).save(out)
    output.warn(result.provenance.warnings)
    if as_json:
        output.print_json({**result.to_dict(), **({"saved": str(out)} if out else {})})
        return
    output.out().print(_table(result))
    if out is not None:
        output.out().print(f"saved as {out}")


def _maximized(client: Client, result: Exemplars, timeout: float) -> Sequence[Image.Image]:
    """The picture that each channel answers to most."""
    made = []
    for each in result:  # A request for all of them might have more goals than are allowed.
        image = client.maximize(Unit(result.layer, each.channel), model=result.provenance.model, timeout=timeout)
        assert isinstance(image, MaximizedImage), "there is one goal"
        made.append(image.display)
    return made


def _table(result: Exemplars) -> Table:
    title = f"{result.layer}  ({result.provenance.model}, {result.pictures} pictures)"
    table = Table(title=title, title_justify="left", box=None)
    for column in ("channel", "purity", "largest", "weakest shown"):
        table.add_column(column, justify="right")
    table.add_column("classes")
    table.add_column("pictures")
    for each in result:
        values = [patch.value for patch in each.exemplars]
        share = "" if each.purity is None else f"{each.purity:.0%}"
        names = ", ".join(patch.name for patch in each.exemplars[:3])
        table.add_row(str(each.channel), share, f"{values[0]:.4g}", f"{values[-1]:.4g}", _classes(each), names)
    return table


def _classes(each: ChannelExemplars) -> str:
    """The classes of the exemplars, the commonest first."""
    names = [patch.label_name for patch in each.exemplars if patch.label is not None]
    ordered = sorted(dict.fromkeys(names), key=names.count, reverse=True)
    return ", ".join(f"{names.count(name)} {name}" for name in ordered[:3])
