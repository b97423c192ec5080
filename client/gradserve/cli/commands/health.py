"""`gradserve health`: whether a server answers, for probes and scripts."""

from typing import Annotated

import typer

from gradserve.cli import options, output

DEFAULT_TIMEOUT = 5.0


@options.grouped
def health(
    *,
    connection: options.Connection,
    timeout: options.Timeout = DEFAULT_TIMEOUT,
    wait: Annotated[float, typer.Option(min=0, help="Wait so many seconds at most for the server to be ready.")] = 0,
    as_json: options.Json = False,
) -> None:
    """The server's state; the exit code is 0 when it serves and 1 when it does not.

    Example: `gradserve health --wait 60`
    """
    with connection.client(timeout) as client:
        if wait:
            client.wait_until_ready(wait)
        state = client.health()
    if as_json:
        output.print_json({"state": state})
    else:
        output.out().print(state)
    if state != "SERVING":
        raise typer.Exit(1)
