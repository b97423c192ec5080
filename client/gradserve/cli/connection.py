"""The options by which every command finds its server."""

from pathlib import Path
from typing import Annotated

import typer

from gradserve.client import Client
from gradserve.connection import ADDRESS as ADDRESS

_PANEL = "Connection"

Server = Annotated[
    str,
    typer.Option(
        "--server",
        envvar="GRADSERVE_SERVER",
        metavar="ADDRESS",
        help="The server: HOST:PORT or unix:PATH.",
        rich_help_panel=_PANEL,
    ),
]
Tls = Annotated[
    bool,
    typer.Option("--tls", envvar="GRADSERVE_TLS", help="Use the system's certificates.", rich_help_panel=_PANEL),
]
Ca = Annotated[
    Path | None,
    typer.Option("--ca", envvar="GRADSERVE_CA", help="Trust this CA certificate (PEM).", rich_help_panel=_PANEL),
]
Token = Annotated[
    str | None,
    typer.Option("--token", envvar="GRADSERVE_TOKEN", help="Token that the server wants.", rich_help_panel=_PANEL),
]
Timeout = Annotated[float, typer.Option("--timeout", help="Seconds that a call may take.", rich_help_panel=_PANEL)]
Json = Annotated[bool, typer.Option("--json", help="Print JSON on standard output.", rich_help_panel="Output")]

SECONDS = 60.0


def connect(server: str, tls: bool, ca: Path | None, token: str | None, timeout: float = SECONDS) -> Client:
    """The client that these options describe."""
    return Client(server, tls=ca or tls, token=token, timeout=timeout)
