"""`gradserve serve`, `check`, `index` and `finetune`: what the server package does, if it is installed."""

import typer

from gradserve.cli.commands.server_package import server_module

_CONTEXT_SETTINGS = {"allow_extra_args": True, "ignore_unknown_options": True}


def add(app: typer.Typer) -> None:
    """Adds the commands; their arguments, --help too, are the server package's own."""
    for command in (serve, check, index, finetune):
        app.command(add_help_option=False, context_settings=_CONTEXT_SETTINGS)(command)


def serve(context: typer.Context) -> None:
    """Start a server; all arguments are its own, and `gradserve serve --help` lists them."""
    _run("__main__", context)


def check(context: typer.Context) -> None:
    """Try the models of a settings file without a server, and say what is odd; see `gradserve check --help`."""
    _run("offline.check", context)


def index(context: typer.Context) -> None:
    """Build the index of a training set that Influence needs; see `gradserve index --help`."""
    _run("offline.index", context)


def finetune(context: typer.Context) -> None:
    """Train a new last layer, or all weights, on your own pictures; see `gradserve finetune --help`."""
    _run("offline.finetune", context)


def _run(module: str, context: typer.Context) -> None:
    raise typer.Exit(server_module(module).main(context.args))
