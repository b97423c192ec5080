"""`gradserve serve`: the server, if it is installed."""

from importlib import import_module

import typer


def serve(context: typer.Context) -> None:
    """Start a server; all arguments are its own, and `gradserve serve --help` lists them."""
    try:
        server = import_module("gradserve_server.__main__")
    except ModuleNotFoundError as missing:
        typer.echo(
            f"error: the server needs {missing.name}, which is not installed; install the server with\n"
            "  pip install 'gradserve[server]'",
            err=True,
        )
        raise typer.Exit(1) from None
    raise typer.Exit(server.main(context.args))
