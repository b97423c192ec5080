"""The server's command line, `python -m gradserve_server`."""

import asyncio
import logging
import sys
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError
from rich.console import Console

from .config import Settings, StartError, catalogue, plan, read_sections
from .keeper.folder import own_folder
from .logs import LogFormat, LogSettings, configure
from .models.tables import mistakes
from .pool import forking
from .without_torch import without_torch

console = Console(stderr=True)


def main(argv: list[str] | None = None) -> int:
    """The `gradserve serve` command; returns its exit code."""
    app = typer.Typer(add_completion=False, rich_markup_mode="rich")
    app.command()(serve)
    try:
        return int(
            app(argv if argv is not None else sys.argv[1:], prog_name="gradserve serve", standalone_mode=True) or 0
        )
    except SystemExit as exit_:
        return int(exit_.code or 0)


def complain(text: str) -> None:
    """Says on stderr why the server does not start."""
    console.print(text, style="red", markup=False, highlight=False, soft_wrap=True)


def serve(
    model: Annotated[
        list[str] | None, typer.Option(help="NAME[=WEIGHTS], timm:NAME, hf:FOLDER; repeatable", show_default=False)
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="TOML file with \\[server], \\[pool], \\[limits] and \\[models.NAME]")
    ] = None,
    host: Annotated[
        str | None, typer.Option(help="address to listen on, or unix:PATH for a socket; default: 127.0.0.1")
    ] = None,
    port: Annotated[int | None, typer.Option(help="gRPC port, 0 for a free one; default: 50051")] = None,
    metrics_host: Annotated[str | None, typer.Option(help="address of the Prometheus port; default: 127.0.0.1")] = None,
    metrics_port: Annotated[int | None, typer.Option(help="Prometheus port, 0 for a free one; default: 9464")] = None,
    front_ends: Annotated[int | None, typer.Option(help="processes that answer on the port; default: 1")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu or cuda; default: auto")] = None,
    workers: Annotated[int | None, typer.Option(help="worker processes; default: one per GPU, or one per core")] = None,
    threads: Annotated[int | None, typer.Option(help="compute threads of each worker on a CPU; default: 1")] = None,
    tls_certificate: Annotated[Path | None, typer.Option(help="PEM file; with --tls-key, serve TLS")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="PEM file with the private key")] = None,
    token_file: Annotated[
        Path | None, typer.Option(help="bearer tokens of which callers must send one: a line each, or TOML with rights")
    ] = None,
    traces: Annotated[
        str | None,
        typer.Option(help="send spans to an OpenTelemetry collector, http://HOST:4317; otlp: see OTEL_EXPORTER_OTLP_*"),
    ] = None,
    tuned: Annotated[Path | None, typer.Option(help="file that gradserve bench --tune wrote")] = None,
    strict: Annotated[
        bool | None, typer.Option("--strict", help="do not start if any model cannot be loaded", show_default=False)
    ] = None,
    log_level: Annotated[str, typer.Option(help="debug, info, warning or error")] = "info",
    log_format: Annotated[LogFormat, typer.Option(help="text, or json: one object a line, of every process")] = "text",
) -> None:
    """Serve the gradients of vision models over gRPC.

    Without --model and --config the embedded models are served. WEIGHTS is DEFAULT or another of torchvision's names
    (downloaded), random, or else a file of weights. A model that cannot be loaded is told, and the others are served.

    Example: gradserve serve --model resnet50 --model timm:convnext_atto --model hf:OWNER/NAME@COMMIT

    Example: gradserve serve --model mobilenet_v2=weights.safetensors --port 50051
    """
    server = {
        "host": host,
        "port": port,
        "metrics_host": metrics_host,
        "metrics_port": metrics_port,
        "token_file": token_file,
        "front_ends": front_ends,
    }
    server |= {"tls_certificate": tls_certificate, "tls_key": tls_key, "strict": strict, "traces": traces}
    pool = {"device": device, "workers": workers, "threads": threads, "tuned": tuned}
    configure(LogSettings(format=log_format))
    try:
        logging.getLogger().setLevel(log_level.upper())
        if config:
            read_sections(config)  # What is wrong there is said at once, without torch.
        # This comes early: importing torch takes most of the start.
        forking.start(torchvision=bool(model or config))
        with own_folder() as folder:
            with without_torch():
                from .keeper.keeper import run

            chosen = config, model or [], server, pool
            settings, faults, devices = forking.ask(plan, *chosen)
            code = asyncio.run(run(settings, faults, devices, folder, partial(forking.ask, catalogue, *chosen)))
    except ValidationError as error:
        complain(mistakes(error, "settings", Settings))
        raise typer.Exit(2) from error
    except (OSError, ValueError) as error:
        complain(str(error))
        raise typer.Exit(2) from error
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
    except StartError as error:
        complain(str(error))
        raise typer.Exit(1) from error
    raise typer.Exit(code)


if __name__ == "__main__":
    sys.exit(main())
