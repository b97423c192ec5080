"""`gradserve concepts`, `gradserve directions`: what a layer knows of a concept, and the directions that are kept."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from gradserve import images, patterns
from gradserve.cli import options, output, parse
from gradserve.concepts import page, pictures
from gradserve.results.concepts import ClassSensitivity, ConceptDirection

DRAWN, TINTS = ", ".join(pictures.DRAWN), ", ".join(pictures.TINTS)
ENDINGS = (".npy", ".npz", ".html")


@dataclass(frozen=True)
class Pictures:
    """Which pictures show the concept, and which do not."""

    concept: Annotated[
        str,
        typer.Option(
            "--concept",
            help=f"{DRAWN}; a colour, in whose shades half of the negatives are sent ({TINTS}); or a folder.",
        ),
    ] = "stripes"
    negatives: Annotated[
        str,
        typer.Option(
            "--negatives", help=f"A folder of pictures of anything else, or {pictures.BLOBS}, which are drawn."
        ),
    ] = pictures.BLOBS
    colours: Annotated[
        str, options.one_of("--colours", names=patterns.PALETTES, text="Colours of what is drawn: {}.")
    ] = "random"
    orientation: Annotated[
        str,
        options.one_of(
            "--orientation", names=patterns.ORIENTATIONS, text="Which way stripes and other patterns run: {}."
        ),
    ] = "any"
    count: Annotated[
        int, typer.Option("--count", min=3, max=pictures.MAX_CONCEPT, help="How many pictures are drawn.")
    ] = 40


@dataclass(frozen=True)
class Question:
    """Where the direction is looked for, and which classes may depend on it."""

    layer: Annotated[str, typer.Option("--layer", help="A layer; left out: the last before the logits.")] = ""
    classes: Annotated[
        list[str], typer.Option("--class", help="A class's index or name, or rank:N. May be repeated; left out: all.")
    ] = field(default_factory=list)
    class_images: Annotated[
        Path | None,
        typer.Option("--class-images", help="Folder of 10 to 20 pictures of anything, for layers but the last."),
    ] = None
    random_directions: Annotated[
        int | None,
        typer.Option("--random-directions", min=20, max=500, help="Directions that z is measured by. Default: 20."),
    ] = None
    keep_as: Annotated[str, typer.Option("--keep-as", help="Keep the direction on the server by this name.")] = ""

    def arguments(self, seed: int) -> dict[str, Any]:
        """The options as the client's `concepts` takes them."""
        given: dict[str, Any] = {"layer": self.layer, "keep_as": self.keep_as}
        given["classes"] = [parse.target(each) for each in self.classes] or None
        given["random_directions"] = self.random_directions
        if self.class_images is not None:
            given["class_images"] = pictures.of_folder(self.class_images, pictures.MAX_CLASS_IMAGES, seed)
        return given


@dataclass(frozen=True)
class ConceptsRequest:
    """What the request carries; the seed also gives the pictures that are drawn."""

    priority: options.Priority = "interactive"
    seed: options.Seed = None
    time_budget: options.TimeBudget = None
    alone: options.Alone = False


@options.grouped
def concepts(
    *,
    chosen: Pictures,
    question: Question,
    model: options.Model = "",
    top: Annotated[int, typer.Option("--top", min=1, help="How many classes are listed.")] = 10,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", help="File: the direction (.npy, .npz) or a page (.html).", rich_help_panel="Output"
        ),
    ] = None,
    request: ConceptsRequest,
    connection: options.Connection,
    timeout: options.Timeout = 300.0,
    as_json: options.Json = False,
) -> None:
    """What a layer knows of a concept: its direction, and the classes that depend on it.

    The concept is drawn by code, or given by pictures. Photos above 384 pixels are sent smaller.

    Example: `gradserve concepts --concept stripes --colours black_white --negatives photos/`

    Example: `gradserve concepts --concept dots --class toaster --keep-as dots --json`
    """
    if out is not None and out.suffix.lower() not in ENDINGS:
        raise ValueError(f"--out {out}: the direction is saved as .npy or .npz, and a page as .html")
    seed = request.seed or 0
    drawing = chosen.count, chosen.colours, chosen.orientation, seed
    concept, negatives = pictures.chosen(chosen.concept, chosen.negatives, *drawing)
    arguments = {"model": model, **question.arguments(seed), **vars(request)}
    with connection.client(timeout) as client, output.waiting("concepts"):
        result = client.concepts(concept, negatives, **arguments)
    output.warn([*result.warnings, *result.provenance.warnings])
    rows = result.classes if question.classes else result.classes[:top]
    title = Path(chosen.concept).name or chosen.concept
    if out is not None:
        _save(out, title, result, rows, concept, negatives)
    saved = {} if out is None else {"saved": str(out)}
    if as_json:
        output.print_json({"concept": title, **result.to_dict(), **saved})
        return
    output.out().print(_table(title, result, rows))
    output.out().print(
        f"significant from |z| = {result.z_threshold:.2f} on, by {result.random_directions} random directions; "
        f"{result.accuracy:.0%} of the held-out pictures are told apart rightly"
    )
    if result.name:
        output.out().print(f"kept as {result.name} until {result.expires}: --target direction:{result.name}")
    if out is not None:
        output.out().print(f"saved as {out}")


def _save(
    out: Path,
    title: str,
    result: ConceptDirection,
    rows: Sequence[ClassSensitivity],
    concept: Sequence[bytes],
    negatives: Sequence[bytes],
) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    if out.suffix.lower() != ".html":
        result.save(out)
        return
    some, others = ([images.from_file(each) for each in kind[: page.SHOWN]] for kind in (concept, negatives))
    out.write_text(page.html(title, result, rows, some, others), encoding="utf-8")


def _table(title: str, result: ConceptDirection, rows: Sequence[ClassSensitivity]) -> Table:
    table = Table(title=f"{title} in {result.layer}  ({result.provenance.model})", title_justify="left", box=None)
    table.add_column("rank", justify="right")
    table.add_column("class")
    for column in ("derivative", "z"):
        table.add_column(column, justify="right")
    table.add_column("verdict")
    for row in rows:
        rank = "" if row.rank is None else str(row.rank)
        table.add_row(rank, row.name, f"{row.derivative:.3g}", f"{row.z:.1f}", row.verdict)
    return table


@options.grouped
def directions(
    *,
    delete: Annotated[
        list[str], typer.Option("--delete", help="Delete the direction of this name. May be repeated.")
    ] = [],  # noqa: B006
    connection: options.Connection,
    timeout: options.Timeout = options.DEFAULT_TIMEOUT,
    as_json: options.Json = False,
) -> None:
    """The directions that the server keeps for this caller, after those that are to be deleted are gone.

    Example: `gradserve directions`

    Example: `gradserve directions --delete stripes`
    """
    with connection.client(timeout) as client:
        for name in delete:
            client.delete_direction(name)
        kept = client.directions()
    if as_json:
        output.print_json({"directions": [each.to_dict() for each in kept]})
        return
    table = Table(box=None)
    for column in ("name", "model", "layer", "channels", "expires"):
        table.add_column(column, justify="right" if column == "channels" else "left")
    for each in kept:
        table.add_row(each.name, each.model, each.layer, str(each.channels), each.expires)
    output.out().print(table if kept else "none is kept")
