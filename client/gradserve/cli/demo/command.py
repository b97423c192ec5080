"""`gradserve demo`: everything that the service does, done on real pictures and shown on one page."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table

from gradserve.cli import options, output, page
from gradserve.cli.demo import local_server, pictures, session
from gradserve.client import Client

_EMBEDDED = ("imagenet", "digits", "cifar10", "cifar10-robust")
_CHAPTERS = (*session.CHAPTERS, *pictures.CHAPTERS)


@dataclass(frozen=True)
class Serving:
    """Which server is asked, or else started, and with which models."""

    model: Annotated[
        list[str],
        typer.Option("--model", "-m", metavar="NAME[=WEIGHTS]", help="Also serve this model. May be repeated."),
    ] = field(default_factory=list)
    server: Annotated[
        str | None,
        typer.Option("--server", envvar="GRADSERVE_SERVER", metavar="HOST:PORT", help="Ask this server; start none."),
    ] = None
    start_timeout: Annotated[float, typer.Option("--start-timeout", help="Seconds that a started server may take.")] = (
        300.0
    )

    @contextmanager
    def address(self, log: Path) -> Iterator[str]:
        """The address of the server, which is stopped in the end if it was started here."""
        if self.server:
            yield self.server
            return
        output.err().print("starting a server ...")
        arguments = [part for name in dict.fromkeys([*_EMBEDDED, *self.model]) for part in ("--model", name)]
        with local_server.launched(arguments, log, self.start_timeout) as address:
            output.err().print(f"it serves on {address}")
            yield address
        output.err().print("the server is stopped")


@dataclass(frozen=True)
class Contents:
    """What goes on the page, and where the page goes."""

    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the page.")] = Path("demo-out")
    pictures: Annotated[int, typer.Option("--pictures", min=1, max=6, help="Pictures for every model.")] = 3


@options.grouped
def demo(
    *,
    serving: Serving,
    contents: Contents,
    tls: options.Tls = False,
    ca: options.Ca = None,
    token: options.Token = None,
    timeout: options.Timeout = 300.0,
    as_json: options.Json = False,
) -> None:
    """What the service does, on real pictures, side by side on OUT/index.html; some minutes.

    Starts a server with the embedded models and every --model, unless --server names one, and stops it at the end.

    Example: `gradserve demo --model mobilenet_v2`

    Example: `gradserve demo --model mobilenet_v2=weights.safetensors --out pages/`
    """
    out = contents.out
    out.mkdir(parents=True, exist_ok=True)
    with (
        serving.address(out / "server.log") as address,
        options.Connection(address, tls, ca, token).client(timeout) as client,
    ):
        client.wait_until_ready(serving.start_timeout)
        entries, sections = _run_chapters(client, contents.pictures)
    lead = "Every picture on this page was made by a running server that was asked over gRPC."
    path = out / "index.html"
    path.write_text(page.html("gradserve", lead, sections), encoding="utf-8")
    if as_json:
        output.print_json({"page": str(path), "done": [output.plain(entry) for entry in entries]})
    else:
        output.out().print(_table(entries))
        output.out().print(f"{len(entries)} requests; the pictures are on {path}")


def _run_chapters(client: Client, count: int) -> tuple[list[session.LogEntry], list[page.Section]]:
    """Every chapter for every model, with so many pictures each, and a progress bar."""
    cards = [client.model(card.name) for card in client.models()]
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=output.err(), transient=True) as progress:
        total = sum(session.requests(card, count) + pictures.requests(card) for card in cards)
        task = progress.add_task("demo", total=total)
        demo = session.Session(client, count, lambda what: progress.update(task, description=what, advance=1))
        sections = []
        for card in cards:
            for chapter in _CHAPTERS:
                section = chapter(demo, card)
                if section.stories:
                    sections.append(section)
                    _say(f"{section.title}: {len(demo.log)} of {total} requests are done")
    return demo.log, sections


def _say(text: str) -> None:
    """Prints the text where there is no terminal, and so no progress bar."""
    if not output.err().is_terminal:
        output.err().print(text)


def _table(entries: Sequence[session.LogEntry]) -> Table:
    table = Table(box=None)
    for column in ("model", "picture", "asked"):
        table.add_column(column, no_wrap=True)
    for column in ("ms", "rows"):
        table.add_column(column, justify="right")
    table.add_column("answer", overflow="fold")
    for entry in entries:
        milliseconds = f"{1000 * entry.seconds:.0f}"
        table.add_row(entry.model, entry.picture, entry.asked, milliseconds, str(entry.rows), entry.answer)
    return table
