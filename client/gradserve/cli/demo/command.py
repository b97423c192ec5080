"""`gradserve demo`: what the service does, done on real pictures and shown on one page."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from gradserve.cli import options, output
from gradserve.cli.demo import attacking, concepts, examples, explaining, inside, local_server, making, page
from gradserve.cli.demo.samples import photos
from gradserve.cli.demo.session import Chapter, LogEntry, Row, Session
from gradserve.client import Client
from gradserve.results.common import to_dict
from gradserve.results.models import ModelCard
from gradserve.transport import environment

_PHOTOS, _CIFAR, _DIGITS = "imagenet", "cifar10", "digits"  # The embedded models that the page is about.
_SMALL = (_DIGITS, _CIFAR, "cifar10-robust")  # Embedded models whose inputs are too small for photos.


@dataclass(frozen=True)
class Serving:
    """Which server is asked, or else started, and with which models."""

    model: Annotated[
        list[str],
        typer.Option(
            "--model",
            "-m",
            metavar="NAME[=WEIGHTS]",
            help="Also serve this model, as gradserve serve takes it. May be repeated.",
        ),
    ] = field(default_factory=list)
    server: Annotated[
        str | None,
        typer.Option(
            "--server",
            metavar="HOST:PORT",
            help=f"Ask this server; start none. Default: {environment.SERVER}, if it is set.",
        ),
    ] = None
    start_timeout: Annotated[float, typer.Option("--start-timeout", help="Seconds that a started server may take.")] = (
        300.0
    )

    @contextmanager
    def client(self, connection: options.Connection, timeout: float, log: Path) -> Iterator[Client]:
        """A client of the server. One that was started here needs no TLS and no token, and is stopped in the end."""
        server = environment.named_server() if self.server is None else self.server
        if server:
            with replace(connection, server=server).client(timeout) as client:
                yield client
            return
        output.err().print("starting a server ...")
        names = dict.fromkeys([_PHOTOS, _CIFAR, _DIGITS, *self.model])
        arguments = [part for name in names for part in ("--model", name)]
        with local_server.launched(arguments, log, self.start_timeout) as address:
            output.err().print(f"it serves on {address}")
            with Client(address, timeout=timeout) as client:
                yield client
        output.err().print("the server is stopped")


@options.grouped
def demo(
    *,
    serving: Serving,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the page.")] = Path("demo-out"),
    tls: options.Tls = None,
    ca: options.Ca = None,
    token: options.Token = None,
    certificate: options.Certificate = None,
    key: options.Key = None,
    timeout: options.Timeout = 300.0,
    as_json: options.Json = False,
) -> None:
    """What the service does, on real photos, on OUT/index.html; two or three minutes.

    Starts a server with the embedded models `imagenet` and `digits` and every --model, unless --server names one, and
    stops it at the end.

    Example: `gradserve demo`

    Example: `gradserve demo --model mobilenet_v2=weights.safetensors --out pages/`
    """
    begin = time.perf_counter()
    out.mkdir(parents=True, exist_ok=True)
    connection = options.Connection(serving.server, tls, ca, token, certificate, key)
    with serving.client(connection, timeout, out / "server.log") as client:
        client.wait_until_ready(serving.start_timeout)
        default, cards = client.model(""), [client.model(card.name) for card in client.models()]
        entries, sections = _run(client, _chapters(default, cards))
    path = out / "index.html"
    lead = "Every picture on this page was made by a running server that was asked over gRPC. Click one to enlarge it."
    rows = sum(entry.rows for entry in entries)
    footer = f"{len(entries)} requests, {rows} rows of the networks, {time.perf_counter() - begin:.0f} seconds."
    path.write_text(page.html("gradserve", lead, sections, footer), encoding="utf-8")
    if as_json:
        output.print_json({"page": str(path), "done": [to_dict(entry) for entry in entries]})
    else:
        output.out().print(_table(entries))
        output.out().print(f"{footer} The pictures are on {path}")


def _chapters(default: ModelCard, cards: Sequence[ModelCard]) -> list[Chapter]:
    """The page: the photos' model first (`imagenet`, else the default), other models, digits last."""
    named = {card.name: card for card in cards}
    card = named.get(_PHOTOS, default)
    chapters = [
        _hero(card),
        explaining.chapter(card),
        attacking.chapter(card),
        making.looks_for(card),
        inside.chapter(card, named.get(_CIFAR)),
        concepts.chapter(card),
        making.styles(card),
    ]
    others = [each for each in cards if each.name not in (card.name, *_SMALL)]
    if others:
        lead = "The same photo shown to the other models of the server."
        chapters.append(Chapter("Other models", lead, [_short_row(each) for each in others], ("strength",)))
    if _DIGITS in named and named[_DIGITS].applies("influence"):
        chapters.append(examples.chapter(named[_DIGITS]))
    return [chapter for chapter in chapters if any(row.requests for row in chapter.rows)]


def _hero(card: ModelCard) -> Chapter:
    """One of everything, for the first photo."""
    requests = [
        request
        for picture, style in zip(photos("cat"), photos("coffee"), strict=True)
        for request in (
            explaining.prediction(card, picture),
            explaining.explanation(card, picture, "grad_cam"),
            attacking.targeted_attack(card, picture),
            making.dream(card, picture, ["blocks.9"], "What this layer sees in the photo, exaggerated."),
            making.stylization(card, picture, style, "The photo in the style of the small picture."),
            making.maximization(card, ["volcano"], "Made from noise until the model is sure."),
        )
    ]
    facts = f"{card.name}: {len(card.classes)} classes, {card.gflop:.2g} GFLOP"
    lead = f"A photo, and everything that the gradient of one network tells and makes of it ({facts})."
    return Chapter("One photo, six answers", lead, [Row(requests, columns=6)], ("strength",))


def _short_row(card: ModelCard) -> Row:
    """What another model says of the first photo."""
    requests = [
        request
        for picture in photos("cat")
        for request in (
            explaining.prediction(card, picture),
            explaining.explanation(card, picture, "grad_cam"),
            attacking.targeted_attack(card, picture),
        )
    ]
    return Row(requests, card.name)


def _run(client: Client, chapters: Sequence[Chapter]) -> tuple[list[LogEntry], list[page.Section]]:
    """All requests of the chapters, with a progress bar."""
    requests = [request for chapter in chapters for row in chapter.rows for request in row.requests]
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    with Progress(*columns, console=output.err(), transient=True) as progress:
        task = progress.add_task("demo", total=sum(request.weight for request in requests))
        session = Session(client, lambda what, weight: progress.update(task, description=what, advance=weight))
        sections = session.run(chapters)
    if not output.err().is_terminal:
        output.err().print(f"{len(session.log)} of {len(requests)} requests are done")
    return session.log, sections


def _table(entries: Sequence[LogEntry]) -> Table:
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
