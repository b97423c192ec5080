"""`gradserve stylize`: a photo in the style of other pictures."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer

from gradserve.cli import options, output, parse
from gradserve.messages import pictures
from gradserve.results.pictures import StylizedImage, save
from gradserve.v1 import stylize_pb2

_SETTINGS: Any = stylize_pb2.StylizeSettings.DESCRIPTOR

Photo = Annotated[Path | None, typer.Argument(help="The content; none for a texture.", exists=True, dir_okay=False)]
Out = Annotated[Path, typer.Option("--out", "-o", help="Picture file.")]


@dataclass(frozen=True)
class Styles:
    """The pictures whose style is taken, and the layers that it is taken from."""

    style: Annotated[
        list[Path],
        typer.Option(
            "--style", "-s", help="Picture whose style to take. May be repeated.", exists=True, dir_okay=False
        ),
    ] = field(default_factory=list)
    weight: Annotated[list[float], typer.Option("--weight", help="Share of each style, in their order.")] = field(
        default_factory=list
    )
    style_layer: Annotated[
        list[str], typer.Option("--style-layer", help="LAYER, LAYER=WEIGHT or pixels. Repeatable.")
    ] = field(default_factory=list)
    content_layer: Annotated[list[str], typer.Option("--content-layer", help="LAYER or LAYER=WEIGHT. Repeatable.")] = (
        field(default_factory=list)
    )

    def weighted(self) -> list[tuple[Path, float]]:
        """The pictures with their weights."""
        if self.weight and len(self.weight) != len(self.style):
            text = f"{len(self.weight)} weights for {len(self.style)} styles"
            raise typer.BadParameter(text, param_hint="--weight")
        return list(zip(self.style, self.weight or [1.0] * len(self.style), strict=True))


@dataclass(frozen=True)
class Recipe:
    """How the picture is made, and which of its steps are kept."""

    size: options.Size = None
    steps: Annotated[int | None, typer.Option("--steps", min=1, help="Steps.")] = None
    keep_colours: Annotated[bool, typer.Option("--keep-colours", help="Stylize the luminance only.")] = False
    param: Annotated[
        list[str], typer.Option("--param", help=f"NAME=VALUE, of {parse.settings_of(_SETTINGS)}. May be repeated.")
    ] = field(default_factory=list)
    snapshot: options.Snapshots = field(default_factory=list)

    def arguments(self) -> dict[str, Any]:
        """The options as the client's `stylize` takes them."""
        return {
            "size": self.size,
            "keep_colours": self.keep_colours,
            "snapshots": self.snapshot,
            **parse.settings(_SETTINGS, self.param, self.steps),
        }


@options.grouped
def stylize(
    photo: Photo = None,
    *,
    styles: Styles,
    model: options.Model = "",
    recipe: Recipe,
    out: Out = Path("stylize.png"),
    request: options.PictureRequest,
    connection: options.Connection,
    timeout: options.Timeout = pictures.DEFAULT_TIMEOUT,
    as_json: options.Json = False,
) -> None:
    """Give a photo the style of other pictures.

    Without --style the photo is reconstructed from its content layers; without a photo the styles give a texture.

    Example: `gradserve stylize photo.jpg --style painting.jpg --steps 50 --out styled.png`
    """
    weighted = styles.weighted()
    arguments: dict[str, Any] = {
        "model": model,
        "style_layers": _layer_weights(styles.style_layer),
        "content_layers": _layer_weights(styles.content_layer),
        **vars(request),
        **recipe.arguments(),
    }
    with connection.client(timeout) as client:
        result = output.watched(client.stylize_stream(photo, weighted, timeout=timeout, **arguments), "stylize")
    _deliver(result, out, as_json)


def _layer_weights(texts: list[str]) -> dict[str, float]:
    weights = {}
    for text in texts:
        layer, equals, weight = text.rpartition("=")
        try:
            weights[layer if equals else text] = float(weight) if equals else 1.0
        except ValueError:
            raise ValueError(f"{text}: write LAYER or LAYER=WEIGHT") from None
    return weights


def _deliver(result: StylizedImage, out: Path, as_json: bool) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    saved = [result.save(out)]
    for step, png in result.snapshots.items():
        saved.append(save(png, out.with_name(f"{out.stem}-step{step}{out.suffix}")))
    output.warn((*result.warnings, *result.provenance.warnings))
    if as_json:
        output.print_json({**result.to_dict(), "saved": [str(path) for path in saved]})
        return
    for name, value in result.losses.items():
        output.out().print(f"{name:16} {result.initial_losses[name]:.4g} -> {value:.4g}")
    output.out().print(f"{result.done} of {result.asked} steps, saved as " + ", ".join(map(str, saved)))
