"""`gradserve explain`: maps of what a model's score depends on."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, cast, get_args

import typer
from rich.table import Table

from gradserve.arguments import RegionLike
from gradserve.cli import options, output, parse
from gradserve.cli.commands import explain_folder
from gradserve.colours import Colormap
from gradserve.folders.run import FolderPlan
from gradserve.messages import fields
from gradserve.messages.explain import EXPLAIN_METHOD
from gradserve.results.explain import Explanation

_METHODS = fields.names(EXPLAIN_METHOD)
_CUTOUT_ENDINGS = (".png", ".webp", ".tif", ".tiff", ".npy", ".npz")  # Pictures that hold alpha, and maps as numbers.
PhotosOrFolder = Annotated[list[Path], typer.Argument(help="Picture files, or one folder of them.", exists=True)]


@dataclass(frozen=True)
class Selection:
    """Which methods, with which parameters, for which targets."""

    method: Annotated[list[str], options.one_of("--method", names=_METHODS, text="One of {}. May be repeated.")] = (
        field(default_factory=lambda: ["grad_cam"])
    )
    target: Annotated[
        list[str],
        typer.Option(
            "--target",
            help=f"{parse.TARGET}; the predicted class if left out. May be repeated.",
        ),
    ] = field(default_factory=list)
    region: Annotated[str | None, typer.Option("--region", help=f"{parse.REGION}.")] = None
    param: Annotated[
        list[str],
        typer.Option("--param", help="NAME=VALUE, or METHOD.NAME=VALUE with several methods. May be repeated."),
    ] = field(default_factory=list)
    until_stable: Annotated[
        float | None,
        typer.Option(
            "--until-stable",
            help="Relative standard error, above 0 to 1, at which methods that draw samples stop.",
        ),
    ] = None


@dataclass(frozen=True)
class Judging:
    """What is measured of each map."""

    trust: Annotated[
        bool, typer.Option("--trust", help="Judge each map beside chance and the middle of the picture (50 rows).")
    ] = False
    curves: Annotated[
        bool, typer.Option("--curves", help="--trust, and the curves of insertion and deletion (29 more rows a map).")
    ] = False


@dataclass(frozen=True)
class OutputFiles:
    """What is saved where."""

    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", help="Picture file; a folder for several, or for a folder's maps.", rich_help_panel="Output"
        ),
    ] = None
    save_map: Annotated[
        Path | None,
        typer.Option(
            "--save-map",
            help="File (.npy, or .npz with provenance), or folder, for maps as numbers.",
            rich_help_panel="Output",
        ),
    ] = None
    picture: Annotated[
        str,
        options.one_of(
            "--picture",
            names=("overlay", "heatmap", "cutout"),
            text="{}. cutout is the object that the map lies on.",
            rich_help_panel="Output",
        ),
    ] = "overlay"
    colormap: Annotated[
        str | None,
        options.one_of(
            "--colormap",
            names=get_args(Colormap),
            text="{}. Default: inferno, or RdBu_r for maps with negative values.",
            rich_help_panel="Output",
        ),
    ] = None
    restart: Annotated[
        bool,
        typer.Option("--restart", help="Of a folder: compute the maps in --out anew.", rich_help_panel="Output"),
    ] = False


@dataclass(frozen=True)
class MapsRequest:
    """What requests for maps carry. Requests for the pictures of a folder give way to others by default."""

    preprocess: options.Preprocess = "model_default"
    priority: Annotated[
        str | None,
        options.one_of(
            "--priority",
            names=options.PRIORITIES,
            text="{}. Default: interactive; batch for a folder.",
            rich_help_panel="Request",
        ),
    ] = None
    concurrency: Annotated[
        int | None,
        typer.Option(
            "--concurrency",
            min=1,
            help="Photos that are under way at once. Default: 8; 32 for a folder.",
            rich_help_panel="Request",
        ),
    ] = None
    segment: Annotated[
        bool,
        typer.Option(
            "--segment",
            help="Also cut out the object that each map lies on, which --json prints.",
            rich_help_panel="Request",
        ),
    ] = False
    precision: options.Precision = "auto"
    seed: options.Seed = None
    time_budget: options.TimeBudget = None
    allow_partial: options.AllowPartial = False
    quick_decode: options.QuickDecode = False
    alone: options.Alone = False

    def arguments(self, region: RegionLike | None, *, folder: bool = False) -> dict[str, Any]:
        """The arguments of `explain_many`, but for the model, methods and targets."""
        given = {name: value for name, value in vars(self).items() if value is not None}
        defaults = {"priority": "batch", "concurrency": 32} if folder else {"priority": "interactive", "concurrency": 8}
        return {**defaults, **given, "region": region}


@dataclass(frozen=True)
class Saved:
    """An explanation and where it went."""

    photo: Path
    result: Explanation
    picture: Path | None  # None where there is no object to cut out.
    map: Path | None


@options.grouped
def explain(
    photos: PhotosOrFolder,
    *,
    selection: Selection,
    judging: Judging,
    model: options.Model = "",
    files: OutputFiles,
    request: MapsRequest,
    connection: options.Connection,
    timeout: options.Timeout = options.DEFAULT_TIMEOUT,
    as_json: options.Json = False,
) -> None:
    """Maps that show which pixels a model's score depends on.

    Pictures go to --out, or to the current folder as PHOTO-METHOD.png. What the model's crop left out of a photo is
    dark and grey. The score is the target's: a class's logit, or a unit's value.

    Of a folder, all pictures are explained into the folder --out: for each its maps as .npz, its overlays, and a page,
    index.html. A run that was ended goes on when it is started again.

    Example: `gradserve explain photo.jpg --method smooth_grad --param samples=25 --out heat.png --save-map map.npy`

    Example: `gradserve explain photo.jpg --method grad_cam --trust`

    Example: `gradserve explain *.jpg --method grad_cam --method gradient --target tabby --target rank:2 --out maps/`

    Example: `gradserve explain photos/ --method grad_cam --method smooth_grad --out maps/`
    """
    targets = [parse.target(text) for text in selection.target]
    methods = parse.methods(selection.method, selection.param)
    region = parse.region(selection.region)
    of_folder = any(photo.is_dir() for photo in photos)
    arguments = vars(judging) | request.arguments(region, folder=of_folder) | {"until_stable": selection.until_stable}
    if of_folder:
        folder, out = only_folder(photos, files), files.out or Path("maps")
        plan = FolderPlan(folder, out, methods, targets, model, arguments, cast(Colormap | None, files.colormap))
        explain_folder.run(plan, connection, timeout, restart=files.restart, as_json=as_json)
        return
    check_files(files)
    arguments |= {"segment": True} if files.picture == "cutout" else {}
    total, saved = output.expected(photos, methods, targets), list[Saved]()
    with connection.client(timeout) as client:
        answers = client.explain_many(photos, methods, target=targets, model=model, **arguments)
        try:
            saved.extend(_saved(photos, answers, files, total, several_targets=len(targets) > 1))
        finally:
            if saved:  # After an error, this is what was saved before it.
                _print(saved, as_json)


def _saved(
    photos: list[Path], answers: Iterator[Any], files: OutputFiles, total: int, *, several_targets: bool
) -> Iterator[Saved]:
    """Saves the pictures and maps of each answer as it comes. Raises ValueError where one file is named for several."""
    pictures = output.OutputPaths(files.out, ".png", total)
    maps = output.OutputPaths(files.save_map, ".npy", total) if files.save_map else None
    colormap = cast(Colormap | None, files.colormap)
    for photo, results in output.progress(zip(photos, answers, strict=True), len(photos), "explain"):
        for each in results:
            path = output.save(each, pictures.path(photo, each, several_targets), files.picture, colormap)
            yield Saved(photo, each, path, each.save(maps.path(photo, each, several_targets)) if maps else None)


def only_folder(photos: list[Path], files: OutputFiles) -> Path:
    """The folder that was given. Raises ValueError for more arguments, and for options that are about files."""
    if len(photos) > 1:
        raise ValueError(
            "give one folder, or files; of a folder all pictures are explained, those of folders in it too"
        )
    if files.save_map or files.picture != "overlay":
        raise ValueError(
            "--save-map and --picture are for files; of a folder, maps (.npz) and overlays are saved in --out"
        )
    if files.out and files.out.exists() and not files.out.is_dir():
        raise ValueError(f"--out {files.out}: for a folder of pictures it must be a folder too")
    return photos[0]


def check_files(files: OutputFiles) -> None:
    """Raises ValueError for what only a folder takes, and where objects are to be cut out into a file without alpha."""
    if files.restart:
        raise ValueError("--restart is for a folder of pictures; maps of files are always computed")
    ending = files.out.suffix.lower() if files.out and not files.out.is_dir() else ""
    if files.picture == "cutout" and ending and ending not in _CUTOUT_ENDINGS:
        allowed = ", ".join(_CUTOUT_ENDINGS[:4])
        raise ValueError(f"--out {files.out}: the object of --picture cutout has alpha; give a file in {allowed}")


def _print(saved: list[Saved], as_json: bool) -> None:
    output.warn(_warnings(saved))
    if as_json:
        output.print_json({"explanations": [_json(each) for each in saved]})
        return
    table = Table(box=None)
    for column in ("photo", "method", "target"):
        table.add_column(column)
    partial = any(each.result.completed_fraction < 1 for each in saved)
    for column in ("score", *(["done"] if partial else [])):
        table.add_column(column, justify="right")
    table.add_column("saved as", overflow="fold")
    for each in saved:
        result = each.result
        numbers = [f"{result.target_value:.4g}", *([f"{result.completed_fraction:.0%}"] if partial else [])]
        picture = str(each.picture) if each.picture else "no object to cut out"
        paths = f"{picture}, {each.map}" if each.map else picture
        table.add_row(
            each.photo.name, result.method, result.target_name, *numbers, "\n".join([paths, *_judged(result)])
        )
    output.out().print(table)


def _judged(result: Explanation) -> Iterator[str]:
    """The lines that say how far to trust a map."""
    if result.trust is None:
        return
    yield result.trust.sentence
    if curves := result.trust.curves:
        yield f"insertion {curves.insertion_area:.3f}, deletion {curves.deletion_area:.3f}"


def _warnings(saved: list[Saved]) -> Iterator[str]:
    """What a careful reader should know, with the map that it is about where there are several."""
    for each in saved:
        about = f"{each.photo.name}, {each.result.method} of {each.result.target_name}: " if len(saved) > 1 else ""
        yield from (f"{about}{text}" for text in each.result.warnings)
        yield from each.result.provenance.warnings


def _json(each: Saved) -> dict[str, Any]:
    paths = {"picture": str(each.picture) if each.picture else None, "map": str(each.map) if each.map else None}
    return {"image": str(each.photo), **each.result.to_dict(), **paths}
