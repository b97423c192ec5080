"""The command `gradserve`."""

import sys
from collections.abc import Sequence

import typer

from gradserve.cli.commands import serve
from gradserve.cli.commands.attack import attack
from gradserve.cli.commands.bench import bench
from gradserve.cli.commands.explain import explain
from gradserve.cli.commands.health import health
from gradserve.cli.commands.influence import influence, suspects
from gradserve.cli.commands.maximize import dream, maximize
from gradserve.cli.commands.models import models
from gradserve.cli.commands.predict import predict
from gradserve.cli.commands.robustness import robustness
from gradserve.cli.commands.stylize import stylize
from gradserve.cli.commands.surrogate import surrogate
from gradserve.cli.demo.command import demo
from gradserve.errors import GradserveError, Unavailable

app = typer.Typer(
    name="gradserve",
    help="Ask a gradserve server for what the gradients of vision models tell, or start one.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(predict)
app.command()(explain)
app.command()(attack)
app.command()(robustness)
app.command()(surrogate)
app.command()(maximize)
app.command()(dream)
app.command()(influence)
app.command()(suspects)
app.command()(stylize)
app.command()(models)
app.command()(health)
app.command()(bench)
app.command()(demo)
serve.add(app)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command; exit with 0, with 1 after an error, with 2 if the arguments make no sense."""
    try:
        app(args=arguments, prog_name="gradserve")
    except (GradserveError, OSError) as error:
        _fail(error, 1)
    except ValueError as error:
        _fail(error, 2)


def _fail(error: Exception, code: int) -> None:
    notes = "".join(f"\n{note}" for note in getattr(error, "__notes__", ()))
    down = error if isinstance(error, Unavailable) else error.__cause__
    if isinstance(down, Unavailable) and not down.reason:  # A server that is starting gives its own reason.
        notes += "\nis a server running there? `gradserve serve` starts one; --server says where it is"
    print(f"error: {error}{notes}", file=sys.stderr)
    sys.exit(code)
