"""The command `gradserve`."""

import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from gradserve import __version__
from gradserve.cli import command_lines
from gradserve.cli.commands import serve
from gradserve.cli.commands.attack import attack
from gradserve.cli.commands.augment import augment
from gradserve.cli.commands.bench import bench
from gradserve.cli.commands.bias import bias
from gradserve.cli.commands.certify import certify
from gradserve.cli.commands.concepts import concepts, directions
from gradserve.cli.commands.dense import dense
from gradserve.cli.commands.differentiate import differentiate
from gradserve.cli.commands.exemplars import exemplars
from gradserve.cli.commands.explain import explain
from gradserve.cli.commands.health import health
from gradserve.cli.commands.influence import influence, suspects
from gradserve.cli.commands.inspect import inspect
from gradserve.cli.commands.management import load, reload, unload
from gradserve.cli.commands.maximize import dream, maximize
from gradserve.cli.commands.models import models
from gradserve.cli.commands.predict import predict
from gradserve.cli.commands.project import project
from gradserve.cli.commands.replay import replay_command
from gradserve.cli.commands.robustness import robustness
from gradserve.cli.commands.shape_bias import shape_bias
from gradserve.cli.commands.stylize import stylize
from gradserve.cli.commands.surrogate import surrogate
from gradserve.cli.demo.command import demo
from gradserve.errors import GradserveError

app = typer.Typer(
    name="gradserve",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"gradserve {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Predict, explain, attack and inspect with the vision models of a gradserve server, or start one."""


app.command()(predict)
app.command()(explain)
app.command("replay")(replay_command)
app.command()(attack)
app.command()(certify)
app.command()(bias)
app.command("shape-bias")(shape_bias)
app.command()(robustness)
app.command()(surrogate)
app.command()(maximize)
app.command()(dream)
app.command()(influence)
app.command()(suspects)
app.command()(inspect)
app.command()(concepts)
app.command()(directions)
app.command()(exemplars)
app.command()(project)
app.command()(dense)
app.command()(stylize)
app.command()(augment)
app.command()(differentiate)
app.command()(models)
app.command()(load)
app.command()(unload)
app.command()(reload)
app.command()(health)
app.command()(bench)
app.command()(demo)
serve.add(app)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command; exit with 0, with 1 after an error, with 2 if the arguments make no sense."""
    command_lines.ARGUMENTS.set(sys.argv[1:] if arguments is None else arguments)
    try:
        app(args=arguments, prog_name="gradserve")
    except (GradserveError, OSError) as error:
        _fail(error, 1)
    except ValueError as error:
        _fail(error, 2)


def _fail(error: Exception, code: int) -> None:
    notes = "".join(f"\n{note}" for note in getattr(error, "__notes__", ()))
    print(f"error: {error}{notes}", file=sys.stderr)
    sys.exit(code)
