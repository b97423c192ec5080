"""`gradserve maximize` and `gradserve dream`: pictures that parts of a model answer to most."""

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from gradserve.cli import options, output, parse
from gradserve.messages import pictures
from gradserve.messages.goals import Goal, GoalLike
from gradserve.results.pictures import MaximizedImage, MaximizedImages, save
from gradserve.v1 import maximize_pb2

_SETTINGS: Any = maximize_pb2.MaximizeSettings.DESCRIPTOR

Targets = Annotated[
    list[str],
    typer.Option(
        "--target",
        "-t",
        help="A class's index or name, unit:LAYER:CHANNEL or unit:LAYER:CHANNEL:Y,X. Repeated: one picture each.",
    ),
]
Layers = Annotated[list[str], typer.Option("--layer", "-l", help="A layer, all of it. May be repeated.")]
Preset = Annotated[str, typer.Option("--preset", help="strong, lucid, lecture, dream or plain.")]
Start = Annotated[Path | None, typer.Option("--image", help="Picture to start from.", exists=True, dir_okay=False)]
Size = Annotated[int | None, typer.Option("--size", min=1, help="Longer side in pixels.")]
Steps = Annotated[int | None, typer.Option("--steps", min=1, help="Steps (of each octave).")]
Settings = Annotated[
    list[str], typer.Option("--param", help=f"NAME=VALUE, of {parse.settings_of(_SETTINGS)}. May be repeated.")
]
Snapshots = Annotated[list[int], typer.Option("--snapshot", min=0, help="Also save the picture after this step.")]
Photo = Annotated[Path, typer.Argument(help="Picture file.", exists=True, dir_okay=False)]
Out = Annotated[Path, typer.Option("--out", "-o", help="Picture file; of several pictures a sheet.")]


def maximize(
    target: Targets = [],  # noqa: B006  typer copies it
    layer: Layers = [],  # noqa: B006
    model: options.Model = "",
    preset: Preset = "",
    image: Start = None,
    size: Size = None,
    steps: Steps = None,
    param: Settings = [],  # noqa: B006
    snapshot: Snapshots = [],  # noqa: B006
    out: Out = Path("maximize.png"),
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
    """Make pictures that classes, units or layers answer to most.

    Example: `gradserve maximize --target flamingo --target volcano --model mobilenet_v2 --out sheet.png`

    Example: `gradserve maximize --target unit:features.14:7 --preset lucid --param rate=0.03 --snapshot 4`
    """
    goals: list[GoalLike] = [parse.target(text) for text in target] + [Goal.layer(name) for name in layer]
    if not goals:
        raise typer.BadParameter("say what to maximise: --target or --layer")
    arguments = {
        "model": model,
        "preset": preset,
        "image": image,
        "size": size,
        "snapshots": snapshot,
        "priority": priority,
        "precision": precision,
        "seed": seed,
        "time_budget": time_budget,
        "allow_partial": allow_partial,
        "alone": alone,
        **parse.settings(_SETTINGS, param, steps),
    }
    with options.connect(server, tls, ca, token, timeout) as client:
        found = output.watched(client.maximize_stream(goals, timeout=timeout, **arguments), "maximize")
    _deliver(found, out, as_json)


def dream(
    photo: Photo,
    layer: Layers = [],  # noqa: B006
    target: Targets = [],  # noqa: B006
    model: options.Model = "",
    size: Size = None,
    steps: Steps = None,
    param: Settings = [],  # noqa: B006
    out: Out = Path("dream.png"),
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
    """DeepDream: more and more of what a layer sees in a photo.

    Without --layer or --target the layer is the one that Grad-CAM takes, the last one with a map.

    Example: `gradserve dream photo.jpg --layer features.14 --model mobilenet_v2 --out dream.png`
    """
    with options.connect(server, tls, ca, token, timeout) as client:
        goals: list[GoalLike] = [parse.target(text) for text in target] + [Goal.layer(name) for name in layer]
        found = output.watched(
            client.maximize_stream(
                goals or [Goal.layer(client.model(model).grad_cam_layer)],
                timeout=timeout,
                image=photo,
                model=model,
                preset="dream",
                size=size,
                seed=seed,
                time_budget=time_budget,
                allow_partial=allow_partial,
                alone=alone,
                **parse.settings(_SETTINGS, param, steps),
            ),
            "dream",
        )
    _deliver(found, out, as_json)


def _deliver(found: MaximizedImages, out: Path, as_json: bool) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    found[0].save(out) if len(found) == 1 else found.save(out)
    saved = [out]
    for place, each in enumerate(found):
        number = f"-{place + 1}" if len(found) > 1 else ""
        extras = {f"step{step}": png for step, png in each.snapshots.items()}
        if each.stretched:
            extras["display"] = each.stretched
        for name, png in extras.items():
            saved.append(save(png, out.with_name(f"{out.stem}{number}-{name}{out.suffix}")))
    output.warn(text for each in found for text in (*each.warnings, *each.provenance.warnings))
    if as_json:
        output.print_json({"images": [_json(each) for each in found], "saved": [str(path) for path in saved]})
        return
    table = Table(box=None)
    for column, justify in (("goal", "left"), ("value", "right"), ("the model sees", "left"), ("steps", "right")):
        table.add_column(column, justify=justify)  # type: ignore[arg-type]
    for each in found:
        seen = ", ".join(f"{score.class_name} {score.probability:.1%}" for score in each.top[:2])
        table.add_row(each.name, f"{each.value:.4g}", seen, f"{each.done}/{each.asked}")
    output.out().print(table)
    output.out().print("saved as " + ", ".join(map(str, saved)))


def _json(each: MaximizedImage) -> dict[str, Any]:
    curves = {name: values.tolist() for name, values in each.curves.items()}
    return {**output.plain(each), "curves": curves}
