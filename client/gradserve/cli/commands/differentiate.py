"""`gradserve differentiate`: the gradients themselves, as numbers."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.table import Table

from gradserve.cli import options, output, parse
from gradserve.messages import fields
from gradserve.messages.differentiate import FORMAT, RULE
from gradserve.messages.goals import Goal
from gradserve.results.common import npz_path, to_dict
from gradserve.results.differentiate import Gradients

Out = Annotated[Path, typer.Option("--out", "-o", help="File (.npz) for the numbers.", rich_help_panel="Output")]


@dataclass(frozen=True)
class Derivative:
    """The derivative: of what, by what, and how it is computed and sent."""

    target: Annotated[str, typer.Option("--target", help=f"{parse.TARGET}; the predicted class if left out.")] = ""
    vector: Annotated[
        Path | None,
        typer.Option("--vector", help="File (.npy) with a factor for each logit, in place of --target.", exists=True),
    ] = None
    layer: Annotated[str, typer.Option("--layer", help="A layer to differentiate by; left out: the pixels.")] = ""
    rule: Annotated[
        str, options.one_of("--rule", names=fields.choices(RULE), text="What operations hand back: {}.")
    ] = "plain"
    format: Annotated[
        str, options.one_of("--format", names=fields.choices(FORMAT), text="How gradients travel: {}.")
    ] = "float32"

    def arguments(self) -> dict[str, Any]:
        """The options as the client's `differentiate` takes them."""
        if self.vector is not None and self.target:
            raise ValueError("--vector and --target both say what is differentiated; give one of them")
        goal: Any = parse.target(self.target) if self.target else None
        if self.vector is not None:
            goal = Goal.logits(np.load(self.vector))
        return {"goals": goal, "layer": self.layer, "rule": self.rule, "format": self.format}


@dataclass(frozen=True)
class DifferentiateRequest(options.PhotoRequest):
    """What the request carries."""

    precision: options.Precision = "auto"


@options.grouped
def differentiate(
    photos: options.Photos,
    *,
    derivative: Derivative,
    model: options.Model = "",
    out: Out = Path("gradients.npz"),
    request: DifferentiateRequest,
    connection: options.Connection,
    timeout: options.Timeout = options.DEFAULT_TIMEOUT,
    as_json: options.Json = False,
) -> None:
    """The gradients of a score by the pixels of photos, or by a layer, as numbers.

    All photos are one batch. The file has `gradient` [N, H, W, 3] (by a layer [N, C, h, w] or [N, C]), `values` [N] and
    `logits` [N, classes] in the order of the photos, and their provenance as `metadata` (JSON); numpy.load reads it.

    Example: `gradserve differentiate cat.jpg dog.jpg --target "tabby - tiger cat" --out gradients.npz`

    Example: `gradserve differentiate cat.jpg --target tabby --layer blocks.9 --rule guided --format float16`
    """
    npz_path(out)
    arguments = {"model": model, **derivative.arguments(), **vars(request)}
    with connection.client(timeout) as client, output.waiting("differentiate"):
        result = client.differentiate(photos, **arguments)
    out.parent.mkdir(parents=True, exist_ok=True)
    result.save(out)
    _print(photos, result, out, as_json)


def _print(photos: list[Path], result: Gradients, out: Path, as_json: bool) -> None:
    output.warn(result.provenance.warnings)
    assert result.gradient is not None, "the request did not leave it out"
    largest = np.abs(result.gradient).reshape(len(result), -1).max(1).tolist()
    rows = list(zip(photos, result.values.tolist(), largest, strict=True))
    if as_json:
        gradients = [{"image": str(photo), "value": value, "largest": size} for photo, value, size in rows]
        facts = {"shape": list(result.gradient.shape), "saved": str(out)}
        provenance = to_dict(result.provenance)
        output.print_json({"gradients": gradients, **facts, "provenance": provenance})
        return
    table = Table(box=None)
    table.add_column("photo")
    for column in ("value", "largest derivative"):
        table.add_column(column, justify="right")
    for photo, value, size in rows:
        table.add_row(photo.name, f"{value:.4g}", f"{size:.3g}")
    output.out().print(table)
    output.out().print(f"saved as {out}")
