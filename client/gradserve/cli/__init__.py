"""The command `gradserve`."""

import sys
from collections.abc import Sequence

import typer

from gradserve.cli import serve
from gradserve.cli.attack import attack
from gradserve.cli.bench import bench
from gradserve.cli.demo import demo
from gradserve.cli.explain import explain
from gradserve.cli.health import health
from gradserve.cli.influence import influence, suspects
from gradserve.cli.maximize import dream, maximize
from gradserve.cli.models import models
from gradserve.cli.predict import predict
from gradserve.cli.robustness import robustness
from gradserve.cli.stylize import stylize
from gradserve.cli.surrogate import surrogate
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
    if isinstance(down, Unavailable) and not down.reason:  # a server that is starting says so itself
        notes += "\nis a server running there? `gradserve serve` starts one; --server says where it is"
    print(f"error: {error}{notes}", file=sys.stderr)
    sys.exit(code)
