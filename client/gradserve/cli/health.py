"""`gradserve health`: whether a server answers, for probes and scripts."""

import typer

from gradserve.cli import connection, report

SECONDS = 5.0


def health(
    server: connection.Server = connection.ADDRESS,
    tls: connection.Tls = False,
    ca: connection.Ca = None,
    token: connection.Token = None,
    timeout: connection.Timeout = SECONDS,
    as_json: connection.Json = False,
) -> None:
    """The server's state; the exit code is 0 when it serves and 1 when it does not.

    Example: `gradserve health --server 10.0.0.7:50051`
    """
    with connection.connect(server, tls, ca, token, timeout) as client:
        state = client.health()
    if as_json:
        report.print_json({"state": state})
    else:
        report.out().print(state)
    if state != "SERVING":
        raise typer.Exit(1)
