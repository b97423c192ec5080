"""`gradserve maximize` and `gradserve dream`: pictures that parts of a model answer to most."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from gradserve.cli import marks, options, output, parse
from gradserve.messages import fields, pictures
from gradserve.messages.goals import Goal, GoalLike
from gradserve.results.models import ModelCard
from gradserve.results.pictures import MaximizedImages, save
from gradserve.v1 import maximize_pb2

_SETTINGS: Any = maximize_pb2.MaximizeSettings.DESCRIPTOR

Out = Annotated[Path, typer.Option("--out", "-o", help="Picture file; of several pictures a sheet.")]


@dataclass(frozen=True)
class Goals:
    """What is to be maximised."""

    target: Annotated[
        list[str],
        typer.Option(
            "--target",
            "-t",
            help=f"{parse.TARGET}. Ranks are those of the picture to start from. Repeated: one picture each.",
        ),
    ] = field(default_factory=list)
    layer: Annotated[list[str], typer.Option("--layer", "-l", help="A layer, all of it. May be repeated.")] = field(
        default_factory=list
    )

    def parsed(self) -> list[GoalLike]:
        """The goals as the client takes them."""
        return [*map(parse.target, self.target), *map(Goal.layer, self.layer)]


@dataclass(frozen=True)
class Recipe:
    """How the picture is made."""

    size: options.Size = None
    steps: Annotated[int | None, typer.Option("--steps", min=1, help="Steps (of each octave).")] = None
    param: Annotated[
        list[str], typer.Option("--param", help=f"NAME=VALUE, of {parse.settings_of(_SETTINGS)}. May be repeated.")
    ] = field(default_factory=list)

    def arguments(self) -> dict[str, Any]:
        """The options as the client's `maximize` takes them."""
        return {"size": self.size, **parse.settings(_SETTINGS, self.param, self.steps)}


@dataclass(frozen=True)
class MaximizeRecipe(Recipe):
    """How the picture is made, from which start, and which of its steps are kept."""

    preset: Annotated[
        str, options.one_of("--preset", names=fields.choices(maximize_pb2.MaximizePreset.DESCRIPTOR), text="{}.")
    ] = ""
    image: Annotated[
        Path | None, typer.Option("--image", help="Picture to start from.", exists=True, dir_okay=False)
    ] = None
    snapshot: options.Snapshots = field(default_factory=list)

    def arguments(self) -> dict[str, Any]:
        """The options as the client's `maximize` takes them."""
        return {"preset": self.preset, "image": self.image, "snapshots": self.snapshot, **super().arguments()}


@options.grouped
def maximize(
    *,
    goals: Goals,
    model: options.Model = "",
    recipe: MaximizeRecipe,
    out: Out = Path("maximize.png"),
    request: options.PictureRequest,
    connection: options.Connection,
    timeout: options.Timeout = pictures.DEFAULT_TIMEOUT,
    as_json: options.Json = False,
) -> None:
    """Make pictures that classes, units or layers answer to most.

    Example: `gradserve maximize --target flamingo --target volcano --out sheet.png`

    Example: `gradserve maximize --target unit:blocks.9:7 --preset lucid --param rate=0.03 --steps 64 --snapshot 4`
    """
    parsed = goals.parsed()
    if not parsed:
        raise typer.BadParameter("say what to maximise: --target or --layer")
    arguments = {"model": model, **vars(request), **recipe.arguments()}
    with connection.client(timeout) as client:
        result = output.watched(client.maximize_stream(parsed, timeout=timeout, **arguments), "maximize")
    _deliver(result, out, as_json)


@options.grouped
def dream(
    photo: options.Photo,
    *,
    goals: Goals,
    model: options.Model = "",
    recipe: Recipe,
    out: Out = Path("dream.png"),
    seed: options.Seed = None,
    time_budget: options.TimeBudget = None,
    allow_partial: options.AllowPartial = False,
    alone: options.Alone = False,
    connection: options.Connection,
    timeout: options.Timeout = pictures.DEFAULT_TIMEOUT,
    as_json: options.Json = False,
) -> None:
    """DeepDream: more and more of what a layer sees in a photo.

    Without --layer or --target the layer is the last one whose map is twice as high as that of Grad-CAM's layer. It
    sees parts of things, such as eyes. `gradserve models NAME` lists all layers; early ones see lines and textures.

    Example: `gradserve dream photo.jpg --out dream.png`

    Example: `gradserve dream photo.jpg --layer blocks.9 --size 320 --steps 10`
    """
    arguments: dict[str, Any] = {"image": photo, "model": model, "preset": "dream", **recipe.arguments()}
    arguments |= {"seed": seed, "time_budget": time_budget, "allow_partial": allow_partial, "alone": alone}
    with connection.client(timeout) as client:
        parsed = goals.parsed() or [Goal.layer(dream_layer(client.model(model)))]
        result = output.watched(client.maximize_stream(parsed, timeout=timeout, **arguments), "dream")
    _deliver(result, out, as_json)


def dream_layer(card: ModelCard) -> str:
    """The last layer whose map is twice as high as that of Grad-CAM's layer; of layers in one another, the outermost.

    Where there is none, as in a ViT, it is Grad-CAM's layer itself.
    """
    last = max((each.height for each in card.layers if each.name == card.grad_cam_layer), default=0)
    height = min((each.height for each in card.layers if last and each.height >= 2 * last), default=0)
    names = [each.name for each in card.layers if height and each.height == height]
    depth = min((name.count(".") for name in names), default=0)
    return next((name for name in reversed(names) if name.count(".") == depth), card.grad_cam_layer)


def _deliver(result: MaximizedImages, out: Path, as_json: bool) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    saved = [result[0].save(out) if len(result) == 1 else result.save(out)]
    if len(result) == 1 and out.suffix.lower() == ".png":
        marks.save(result[0].png, out)  # "The model sees" was measured on exactly these pixels.
    for place, each in enumerate(result):
        number = f"-{place + 1}" if len(result) > 1 else ""
        extras = {f"step{step}": png for step, png in each.snapshots.items()}
        if each.stretched:
            extras["display"] = each.stretched
        for name, png in extras.items():
            saved.append(save(png, out.with_name(f"{out.stem}{number}-{name}{out.suffix}")))
    output.warn(text for each in result for text in (*each.warnings, *each.provenance.warnings))
    if as_json:
        output.print_json({**result.to_dict(), "saved": [str(path) for path in saved]})
        return
    table = Table(box=None)
    for column, justify in (("goal", "left"), ("value", "right"), ("the model sees", "left"), ("steps", "right")):
        table.add_column(column, justify=justify)  # type: ignore[arg-type]
    for each in result:
        classes = ", ".join(f"{score.class_name} {score.probability:.1%}" for score in each.top[:2])
        table.add_row(each.name, f"{each.value:.4g}", classes, f"{each.done}/{each.asked}")
    output.out().print(table)
    output.out().print("saved as " + ", ".join(map(str, saved)))
