"""`gradserve attack`: adversarial pictures with their certificates."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer

from gradserve.cli import command_lines, marks, options, output, parse
from gradserve.cli.commands import attack_report
from gradserve.messages import fields
from gradserve.messages.attack import ATTACK_METHOD
from gradserve.messages.explain import EXPLAIN_METHOD
from gradserve.parameters.method import Method
from gradserve.results.attack import Attack, png_path
from gradserve.v1 import attack_pb2

METHODS = fields.names(ATTACK_METHOD)
NORMS = list(fields.choices(attack_pb2.Norm.DESCRIPTOR))
LOSSES = list(fields.choices(attack_pb2.Loss.DESCRIPTOR))
_BUDGET, _DEFENCE, _OUTPUT = "Budget and goal", "Defences and changes", "Output"


@dataclass(frozen=True)
class AttackMethod:
    """The method, and its parameters."""

    method: Annotated[str, options.one_of("--method", names=METHODS, text="One of {}.")] = "pgd"
    param: Annotated[list[str], typer.Option("--param", help="NAME=VALUE of the method. May be repeated.")] = field(
        default_factory=list
    )

    def chosen(self) -> Method:
        """The method as the client takes it."""
        return parse.methods([self.method], self.param, ATTACK_METHOD)[0]


@dataclass(frozen=True)
class Budget:
    """What the attack is to reach, and how far it may go."""

    target: Annotated[
        str | None,
        typer.Option(
            "--target",
            help="What it is to be taken for: a class's index or name, runner-up, least-likely or random. "
            "Left out: anything but what it is.",
            rich_help_panel=_BUDGET,
        ),
    ] = None
    label: Annotated[
        str | None,
        typer.Option("--label", help="True class: index or name; the prediction if left out.", rich_help_panel=_BUDGET),
    ] = None
    region: Annotated[str | None, typer.Option("--region", help=f"{parse.REGION}.", rich_help_panel=_BUDGET)] = None
    mask: Annotated[
        str | None,
        typer.Option(
            "--mask",
            help="Where pixels may change: box:x0,y0,x1,y1 in pixels of the photo, or a mask's file, white inside. "
            "Left out: everywhere.",
            rich_help_panel=_BUDGET,
        ),
    ] = None
    eps: Annotated[
        str | None,
        typer.Option(
            "--eps",
            help="Budget of pixels in [0, 1], as 4/255 or 0.015; left out: the model's.",
            rich_help_panel=_BUDGET,
        ),
    ] = None
    norm: Annotated[str, options.one_of("--norm", names=NORMS, text="{}.", rich_help_panel=_BUDGET)] = "linf"
    loss: Annotated[
        str | None,
        options.one_of("--loss", names=LOSSES, text="{}; left out: the method's.", rich_help_panel=_BUDGET),
    ] = None
    first_success: Annotated[
        bool | None,
        typer.Option(
            "--first-success/--all-steps",
            help="Stop at the first success; left out: as the method is published.",
            rich_help_panel=_BUDGET,
        ),
    ] = None

    def arguments(self) -> dict[str, Any]:
        """The options as the client's `attack` takes them."""
        return {
            **vars(self),
            "target": None if self.target is None else parse.attack_target(self.target),
            "label": None if self.label is None else parse.label(self.label),
            "region": parse.region(self.region),
            "mask": parse.region(self.mask, "--mask"),
        }


@dataclass(frozen=True)
class Defences:
    """What stands before the model, and which changes the picture is to survive."""

    defence: Annotated[
        str | None,
        typer.Option(
            "--defence",
            help="Put before the model: jpeg, bit_depth, blur or noise; jpeg:quality=50.",
            rich_help_panel=_DEFENCE,
        ),
    ] = None
    adaptive: Annotated[
        bool, typer.Option("--adaptive", help="Let the attack see through the defence.", rich_help_panel=_DEFENCE)
    ] = False
    eot: Annotated[
        str | None,
        typer.Option(
            "--eot",
            help="Seek what survives random changes: default, or rotation=20,samples=16.",
            rich_help_panel=_DEFENCE,
        ),
    ] = None

    def arguments(self) -> dict[str, Any]:
        """The options as the client's `attack` takes them."""
        return {
            "defence": None if self.defence is None else parse.defence(self.defence),
            "adaptive": self.adaptive,
            "eot": False if self.eot is None else parse.changes(self.eot),
        }


@dataclass(frozen=True)
class OutputFiles:
    """What is saved where, and printed."""

    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="PNG file, or folder for several.", rich_help_panel=_OUTPUT)
    ] = None
    save_difference: Annotated[
        Path | None,
        typer.Option("--save-difference", help="PNG, or folder, for the magnified change.", rich_help_panel=_OUTPUT),
    ] = None
    trajectory: Annotated[
        bool,
        typer.Option(
            "--trajectory",
            help="Also print label and margin at each step; JSON always has them.",
            rich_help_panel=_OUTPUT,
        ),
    ] = False
    maps: Annotated[
        str | None,
        options.one_of(
            "--maps",
            names=fields.names(EXPLAIN_METHOD),
            text="A method of explain ({}): save its maps of both pictures beside.",
            rich_help_panel=_OUTPUT,
        ),
    ] = None
    maps_target: Annotated[
        str | None,
        typer.Option(
            "--maps-target",
            help="What those maps explain, as --target of explain: 'toaster - tabby'; left out: what is predicted.",
            rich_help_panel=_OUTPUT,
        ),
    ] = None

    def arguments(self, as_json: bool) -> dict[str, Any]:
        """What the client's `attack` is asked for beside the picture."""
        return {
            "trajectory": self.trajectory or as_json,
            "perturbation": self.save_difference is not None,
            "maps": None if self.maps is None else parse.methods([self.maps], [], EXPLAIN_METHOD)[0],
            "maps_target": None if self.maps_target is None else parse.target(self.maps_target),
        }


@options.grouped
def attack(
    photos: options.Photos,
    *,
    method: AttackMethod,
    model: options.Model = "",
    budget: Budget,
    defences: Defences,
    files: OutputFiles,
    request: options.GradientsRequest,
    connection: options.Connection,
    timeout: options.Timeout = options.DEFAULT_TIMEOUT,
    as_json: options.Json = False,
) -> None:
    """Pictures changed a little so that a model errs, each with a certificate measured on the very pixels saved.

    Adversarial pictures go to --out, or to the current folder as PHOTO-METHOD.png. They carry a mark that they are to
    be used as they are, which `gradserve predict` reads; other programs are to ask about them with preprocess as_is.

    Example: `gradserve attack photo.jpg --method pgd --target toaster --eps 2/255 --out adv.png`

    Example: `gradserve attack *.jpg --method square --param queries=2000 --out adversarial/`
    """
    arguments = {**budget.arguments(), **defences.arguments(), **files.arguments(as_json), **vars(request)}
    chosen = method.chosen()
    if files.out and files.out.suffix and not files.out.is_dir():
        png_path(files.out)
    pictures = output.OutputPaths(files.out, ".png", len(photos))
    differences = output.OutputPaths(files.save_difference, ".png", len(photos)) if files.save_difference else None
    with connection.client(timeout) as client:
        answers = zip(photos, client.attack_many(photos, chosen, model=model, **arguments), strict=True)
        saved = [
            _save(photo, result, pictures, differences)
            for photo, result in output.progress(answers, len(photos), "attack")
        ]
    attack_report.show(saved, files.trajectory, as_json)
    if not as_json:
        _print_judges(saved, connection)


def _save(
    photo: Path, result: Attack, pictures: output.OutputPaths, differences: output.OutputPaths | None
) -> attack_report.Saved:
    picture = pictures.place(f"{photo.stem}-{result.method}")
    marks.save(result.adversarial, result.save(picture))
    difference = differences.place(f"{photo.stem}-{result.method}-difference") if differences else None
    if difference:
        result.perturbation_image().save(difference)
    maps = {"before": result.map_before, "after": result.map_after}
    paths = [each.save(picture.with_stem(f"{picture.stem}-{which}")) for which, each in maps.items() if each]
    return attack_report.Saved(photo, result, picture, difference, tuple(paths))


def _print_judges(saved: list[attack_report.Saved], connection: options.Connection) -> None:
    """Print the command with which the model judges the saved pictures, which has no defence."""
    defended = any(each.result.certificate.undefended for each in saved)
    what = "judge it without the defence" if defended else "judge it"
    command = command_lines.judge([each.picture for each in saved], saved[0].result.provenance.model, connection)
    output.out().print(f"{what}: {command}", soft_wrap=True)
