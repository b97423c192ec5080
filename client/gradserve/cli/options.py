"""Options that many commands have: where the server is, and what every request carries."""

from pathlib import Path
from typing import Annotated

import typer

from gradserve.address import DEFAULT_ADDRESS as DEFAULT_ADDRESS
from gradserve.client import Client

_CONNECTION, _REQUEST = "Connection", "Request"

Server = Annotated[
    str,
    typer.Option(
        "--server",
        envvar="GRADSERVE_SERVER",
        metavar="ADDRESS",
        help="The server: HOST:PORT or unix:PATH.",
        rich_help_panel=_CONNECTION,
    ),
]
Tls = Annotated[
    bool,
    typer.Option("--tls", envvar="GRADSERVE_TLS", help="Use the system's certificates.", rich_help_panel=_CONNECTION),
]
Ca = Annotated[
    Path | None,
    typer.Option("--ca", envvar="GRADSERVE_CA", help="Trust this CA certificate (PEM).", rich_help_panel=_CONNECTION),
]
Token = Annotated[
    str | None,
    typer.Option("--token", envvar="GRADSERVE_TOKEN", help="Token that the server wants.", rich_help_panel=_CONNECTION),
]
Timeout = Annotated[float, typer.Option("--timeout", help="Seconds that a call may take.", rich_help_panel=_CONNECTION)]
Json = Annotated[bool, typer.Option("--json", help="Print JSON on standard output.", rich_help_panel="Output")]

Model = Annotated[str, typer.Option("--model", "-m", help="Name of the model; the server's default if left out.")]
Preprocess = Annotated[
    str,
    typer.Option(
        "--preprocess",
        help="model_default (resize and crop as the model's card says), whole_image (no crop) or as_is (no resize).",
        rich_help_panel=_REQUEST,
    ),
]
Priority = Annotated[str, typer.Option("--priority", help="interactive or batch.", rich_help_panel=_REQUEST)]
Precision = Annotated[str, typer.Option("--precision", help="auto, exact, balanced or fast.", rich_help_panel=_REQUEST)]
Seed = Annotated[
    int | None, typer.Option("--seed", help="Seed of everything random. Default: 0.", rich_help_panel=_REQUEST)
]
TimeBudget = Annotated[
    float | None,
    typer.Option("--time-budget", help="The most seconds that an answer may take.", rich_help_panel=_REQUEST),
]
AllowPartial = Annotated[
    bool,
    typer.Option("--allow-partial", help="When time runs out, take what there is.", rich_help_panel=_REQUEST),
]
QuickDecode = Annotated[
    bool,
    typer.Option(
        "--quick-decode",
        help="Decode large JPEG photos at a fraction of their size: faster, and maps change.",
        rich_help_panel=_REQUEST,
    ),
]
Alone = Annotated[
    bool,
    typer.Option("--alone", help="Share no pass with others: repeatable to the bit.", rich_help_panel=_REQUEST),
]
Concurrency = Annotated[
    int, typer.Option("--concurrency", min=1, help="Photos that are under way at once.", rich_help_panel=_REQUEST)
]

DEFAULT_TIMEOUT = 60.0


def connect(server: str, tls: bool, ca: Path | None, token: str | None, timeout: float = DEFAULT_TIMEOUT) -> Client:
    """The client that these options describe."""
    return Client(server, tls=ca or tls, token=token, timeout=timeout)
