"""`gradserve demo`: everything that the service does, done on real pictures and shown on one page."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table

from gradserve.cli import html, options, output
from gradserve.cli.demo import local_server, session
from gradserve.cli.demo import pictures as picture_chapters
from gradserve.client import Client

_EMBEDDED = ("digits", "cifar10", "cifar10-robust")
_CHAPTERS = (*session.CHAPTERS, *picture_chapters.CHAPTERS)

Models = Annotated[
    list[str],
    typer.Option("--model", "-m", metavar="NAME[=WEIGHTS]", help="Also serve this model. May be repeated."),
]
Out = Annotated[Path, typer.Option("--out", "-o", help="Folder for the page.")]
Pictures = Annotated[int, typer.Option("--pictures", min=1, max=6, help="Pictures for every model.")]
Server = Annotated[
    str | None,
    typer.Option("--server", envvar="GRADSERVE_SERVER", metavar="HOST:PORT", help="Ask this server; start none."),
]
Start = Annotated[float, typer.Option("--start-timeout", help="Seconds that a started server may take.")]


def demo(
    model: Models = [],  # noqa: B006  typer copies it
    out: Out = Path("demo-out"),
    pictures: Pictures = 3,
    server: Server = None,
    start_timeout: Start = 300.0,
    tls: options.Tls = False,
    ca: options.Ca = None,
    token: options.Token = None,
    timeout: options.Timeout = 300.0,
    as_json: options.Json = False,
) -> None:
    """What the service does, on real pictures, side by side on OUT/index.html; some minutes.

    Starts a server with the embedded models and every --model, unless --server names one, and stops it at the end.

    Example: `gradserve demo --model mobilenet_v2` or `gradserve demo --model mobilenet_v2=weights.safetensors`
    """
    out.mkdir(parents=True, exist_ok=True)
    with (
        _address(server, model, out / "server.log", start_timeout) as address,
        options.connect(address, tls, ca, token, timeout) as client,
    ):
        client.wait_until_ready(start_timeout)
        deeds, sections = _shown(client, pictures)
    lead = "Every picture on this page was made by a running server that was asked over gRPC."
    path = out / "index.html"
    path.write_text(html.html("gradserve", lead, sections), encoding="utf-8")
    if as_json:
        output.print_json({"page": str(path), "done": [output.plain(deed) for deed in deeds]})
    else:
        output.out().print(_table(deeds))
        output.out().print(f"{len(deeds)} requests; the pictures are on {path}")


@contextmanager
def _address(server: str | None, models: Sequence[str], log: Path, timeout: float) -> Iterator[str]:
    if server:
        yield server
        return
    output.err().print("starting a server ...")
    wanted = dict.fromkeys([*_EMBEDDED, *models])
    with local_server.launched([part for each in wanted for part in ("--model", each)], log, timeout) as address:
        output.err().print(f"it serves on {address}")
        yield address
    output.err().print("the server is stopped")


def _shown(client: Client, pictures: int) -> tuple[list[session.LogEntry], list[html.Section]]:
    """Every chapter for every model, with a progress bar."""
    cards = [client.model(card.name) for card in client.models()]
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=output.err(), transient=True) as progress:
        total = sum(session.requests(card, pictures) + picture_chapters.requests(card) for card in cards)
        task = progress.add_task("demo", total=total)
        demo = session.Session(client, pictures, lambda what: progress.update(task, description=what, advance=1))
        sections = []
        for card in cards:
            for chapter in _CHAPTERS:
                section = chapter(demo, card)
                if section.stories:
                    sections.append(section)
                    _say(f"{section.title}: {len(demo.deeds)} of {total} requests are done")
    return demo.deeds, sections


def _say(text: str) -> None:
    """Where no progress bar is seen."""
    if not output.err().is_terminal:
        output.err().print(text)


def _table(deeds: Sequence[session.LogEntry]) -> Table:
    table = Table(box=None)
    for column in ("model", "picture", "asked"):
        table.add_column(column, no_wrap=True)
    for column in ("ms", "rows"):
        table.add_column(column, justify="right")
    table.add_column("answer", overflow="fold")
    for deed in deeds:
        milliseconds = f"{1000 * deed.seconds:.0f}"
        table.add_row(deed.model, deed.picture, deed.asked, milliseconds, str(deed.rows), deed.answer)
    return table
