"""`gradserve stylize`: a photo in the style of other pictures."""

from pathlib import Path
from typing import Annotated, Any

import typer

from gradserve.cli import options, output, parse
from gradserve.messages import pictures
from gradserve.results.pictures import StylizedImage, save
from gradserve.v1 import stylize_pb2

_SETTINGS: Any = stylize_pb2.StylizeSettings.DESCRIPTOR

Photo = Annotated[Path | None, typer.Argument(help="The content; none for a texture.", exists=True, dir_okay=False)]
Styles = Annotated[
    list[Path],
    typer.Option("--style", "-s", help="Picture whose style to take. May be repeated.", exists=True, dir_okay=False),
]
Weights = Annotated[list[float], typer.Option("--weight", help="Share of each style, in their order.")]
StyleLayers = Annotated[list[str], typer.Option("--style-layer", help="LAYER, LAYER=WEIGHT or pixels. Repeatable.")]
ContentLayers = Annotated[list[str], typer.Option("--content-layer", help="LAYER or LAYER=WEIGHT. Repeatable.")]
Size = Annotated[int | None, typer.Option("--size", min=1, help="Longer side in pixels.")]
Steps = Annotated[int | None, typer.Option("--steps", min=1, help="Steps.")]
Keep = Annotated[bool, typer.Option("--keep-colours", help="Stylize the luminance only.")]
Param = Annotated[
    list[str], typer.Option("--param", help=f"NAME=VALUE, of {parse.settings_of(_SETTINGS)}. May be repeated.")
]
Snapshots = Annotated[list[int], typer.Option("--snapshot", min=0, help="Also save the picture after this step.")]
Out = Annotated[Path, typer.Option("--out", "-o", help="Picture file.")]


def stylize(
    photo: Photo = None,
    style: Styles = [],  # noqa: B006  typer copies it
    weight: Weights = [],  # noqa: B006
    model: options.Model = "",
    size: Size = None,
    steps: Steps = None,
    keep_colours: Keep = False,
    style_layer: StyleLayers = [],  # noqa: B006
    content_layer: ContentLayers = [],  # noqa: B006
    param: Param = [],  # noqa: B006
    snapshot: Snapshots = [],  # noqa: B006
    out: Out = Path("stylize.png"),
    priority: options.Priority = "interactive",
    precision: options.Precision = "auto",
    seed: options.Seed = None,
    time_budget: options.TimeBudget = None,
    allow_partial: options.AllowPartial = False,
    alone: options.Alone = False,
    server: options.Server = options.DEFAULT_ADDRESS,
    tls: options.Tls = False,
    ca: options.Ca = None,
    token: options.Token = None,
    timeout: options.Timeout = pictures.LONG,
    as_json: options.Json = False,
) -> None:
    """Give a photo the style of other pictures.

    Without --style the photo is reconstructed from its content layers; without a photo the styles give a texture.

    Example: `gradserve stylize photo.jpg --style starry.jpg --model squeezenet1_0 --out out.png`
    """
    if weight and len(weight) != len(style):
        raise typer.BadParameter(f"{len(weight)} weights for {len(style)} styles", param_hint="--weight")
    arguments: dict[str, Any] = {
        "model": model,
        "size": size,
        "style_layers": _weighted(style_layer),
        "content_layers": _weighted(content_layer),
        "snapshots": snapshot,
        "keep_colours": keep_colours,
        "priority": priority,
        "precision": precision,
        "seed": seed,
        "time_budget": time_budget,
        "allow_partial": allow_partial,
        "alone": alone,
        **parse.settings(_SETTINGS, param, steps),
    }
    styles = list(zip(style, weight or [1.0] * len(style), strict=True))
    with options.connect(server, tls, ca, token, timeout) as client:
        found = output.watched(client.stylize_stream(photo, styles, timeout=timeout, **arguments), "stylize")
    _deliver(found, out, as_json)


def _weighted(texts: list[str]) -> dict[str, float]:
    weights = {}
    for text in texts:
        layer, equals, weight = text.rpartition("=")
        try:
            weights[layer if equals else text] = float(weight) if equals else 1.0
        except ValueError:
            raise ValueError(f"{text}: write LAYER or LAYER=WEIGHT") from None
    return weights


def _deliver(found: StylizedImage, out: Path, as_json: bool) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    saved = [found.save(out)]
    for step, png in found.snapshots.items():
        saved.append(save(png, out.with_name(f"{out.stem}-step{step}{out.suffix}")))
    output.warn((*found.warnings, *found.provenance.warnings))
    if as_json:
        curves = {name: values.tolist() for name, values in found.curves.items()}
        output.print_json({**output.plain(found), "curves": curves, "saved": [str(path) for path in saved]})
        return
    for name, value in found.losses.items():
        output.out().print(f"{name:16} {found.initial_losses[name]:.4g} -> {value:.4g}")
    output.out().print(f"{found.done} of {found.asked} steps, saved as " + ", ".join(map(str, saved)))
