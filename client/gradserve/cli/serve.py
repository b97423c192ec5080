"""`gradserve serve`, `gradserve index` and `gradserve finetune`: what the server package does, if it is installed."""

from importlib import import_module

import typer

_OWN = {"allow_extra_args": True, "ignore_unknown_options": True}


def add(app: typer.Typer) -> None:
    """Adds the commands; their arguments, --help too, are the server package's own."""
    for command in (serve, index, finetune):
        app.command(add_help_option=False, context_settings=_OWN)(command)


def serve(context: typer.Context) -> None:
    """Start a server; all arguments are its own, and `gradserve serve --help` lists them."""
    _run("gradserve_server.__main__", context)


def index(context: typer.Context) -> None:
    """Build the index of a training set that Influence needs; see `gradserve index --help`."""
    _run("gradserve_server.offline.index", context)


def finetune(context: typer.Context) -> None:
    """Train a new last layer, or all weights, on your own pictures; see `gradserve finetune --help`."""
    _run("gradserve_server.offline.finetune", context)


def _run(module: str, context: typer.Context) -> None:
    try:
        server = import_module(module)
    except ModuleNotFoundError as missing:
        typer.echo(
            f"error: the server needs {missing.name}, which is not installed; install the server with\n"
            "  pip install 'gradserve[server]'",
            err=True,
        )
        raise typer.Exit(1) from None
    raise typer.Exit(server.main(context.args))
