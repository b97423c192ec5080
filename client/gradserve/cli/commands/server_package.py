"""Imports of the server package, which may not be installed."""

from importlib import import_module
from typing import Any

import typer


def server_module(name: str) -> Any:
    """A module of the server. Where it is not installed, prints how to install it and exits with 1."""
    try:
        return import_module(f"gradserve_server.{name}")
    except ModuleNotFoundError as missing:
        package = str(missing.name).partition(".")[0]
        what = "the server" if package == "gradserve_server" else package
        text = f"this needs {what}, which is not installed; install the server with\n  pip install 'gradserve[server]'"
        typer.echo(f"error: {text}", err=True)
        raise typer.Exit(1) from None
