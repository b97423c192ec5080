"""What a request costs in calm: processor time of front-end and worker, beside a server of another source tree.

`python -m tests.bench.calm --other PATH`
"""

import asyncio
import os
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Annotated, NamedTuple
from unittest.mock import patch

import psutil
import typer
from rich.progress import track

from gradserve.load.loops import ClosedLoop
from gradserve.load.mix import MixEntry
from gradserve.load.requests import built

from .. import serving
from ..loads import loaded, pinned_apart
from . import report
from .faithfulness import DATA, Data, photo_names

ROOT = Path(__file__).parents[2]
BLOCK_SECONDS = 300.0  # A block of requests that takes longer ends early.
FRESH_ROUNDS = 2  # Rounds until the servers are started anew.
KEPT_PICTURES = 16  # The photos that the requests are about, in turn.


class Spent(NamedTuple):
    """Seconds of processor time."""

    front_end: float
    workers: float

    def less(self, before: "Spent", requests: int) -> "Spent":
        """What each of so many requests took since then, in milliseconds."""
        return Spent(*(1000 * (now - then) / requests for now, then in zip(self, before, strict=True)))


def main(
    other: Annotated[Path, typer.Option(exists=True, file_okay=False, help="The root of another source tree.")],
    model: Annotated[str, typer.Option(help="An embedded model.")] = "cifar10",
    rpc: Annotated[str, typer.Option(help="predict, explain, attack ...")] = "explain",
    method: Annotated[str, typer.Option(help="Of Explain or Attack.")] = "gradient",
    callers: Annotated[int, typer.Option(min=1, help="Callers that wait for their answers.")] = 1,
    requests: Annotated[int, typer.Option(min=1, help="Of each block.")] = 400,
    rounds: Annotated[int, typer.Option(min=1, help="Pairs of blocks, one on each server.")] = 10,
    data: Data = DATA,
    as_json: report.Json = False,
    out: report.Out = None,
) -> None:
    """Two servers, one of this tree and one of the other, are asked in turn; each has one worker and default settings.

    The ratio is of this tree's time to the other's in a pair of blocks; which is asked first alternates. Servers of one
    tree differ by some percent, each as long as it runs: they are started anew for every few rounds.
    """
    mix = [MixEntry(rpc, method=method if rpc in ("explain", "attack") else "", model=model)]
    photos = [(data / "images" / name).read_bytes() for name in photo_names(data)[:KEPT_PICTURES]]
    built(mix, photos)  # A mistake is told before servers start.
    pairs, trees = list[tuple[Spent, Spent]](), (ROOT, other.resolve())
    for turn in track(range(0, rounds, FRESH_ROUNDS), console=report.console):
        with ExitStack() as stack:
            servers = [stack.enter_context(server_of(tree, model)) for tree in trees]
            stack.enter_context(pinned_apart(*servers))
            ask = partial(block, mix=mix, photos=photos, callers=callers, requests=requests)
            for server in servers:
                ask(server)
            for place in range(turn, min(turn + FRESH_ROUNDS, rounds)):
                order = servers if place % 2 else servers[::-1]
                spent = {id(server): ask(server) for server in order}
                pairs.append((spent[id(servers[0])], spent[id(servers[1])]))
    deliver(pairs, f"{mix[0].name}, {callers} callers, blocks of {requests}", as_json, out)


def server_of(tree: Path, model: str) -> serving.Server:
    """A server whose code is that tree's."""
    path = os.pathsep.join(str(tree / part) for part in ("client", "server"))
    with patch.dict(os.environ, {"PYTHONPATH": path}):
        server = serving.Server(f"[pool]\nworkers = 1\n[models.{model}]\n")
    assert server.address
    return server


def block(server: serving.Server, mix: list[MixEntry], photos: list[bytes], callers: int, requests: int) -> Spent:
    """What each request of a block took, in milliseconds. Raises ValueError where not all were answered."""
    before = spent_by(server)
    loop = ClosedLoop(callers, BLOCK_SECONDS, requests=requests)
    found = asyncio.run(loaded(server.address, mix, photos, loop, connections=1)).all
    if found.codes != {"OK": found.requests} or found.requests < requests:
        raise ValueError(f"of {requests} requests not all were answered in {BLOCK_SECONDS:.0f} s: {found.codes}")
    return spent_by(server).less(before, found.requests)


def spent_by(server: serving.Server) -> Spent:
    """Until now, by the workers and by all other processes of a server."""
    workers = server.workers
    family = [psutil.Process(server.process.pid), *server.process.children(recursive=True)]
    return Spent(*(sum(map(seconds, each)) for each in ([p for p in family if p not in workers], workers)))


def seconds(process: psutil.Process) -> float:
    """Of processor time, in the process and in the system."""
    times = process.cpu_times()
    return float(times.user + times.system)


def deliver(pairs: list[tuple[Spent, Spent]], title: str, as_json: bool, out: Path | None) -> None:
    """Prints for each part of a server the milliseconds of both trees and their ratio."""
    rows, document = report.table(title, ["part"], ["ms here", "ms there", "ratio"]), {}
    for place, part in enumerate(Spent._fields):
        here, there = ([pair[tree][place] for pair in pairs] for tree in (0, 1))
        ratios = [own / others for own, others in zip(here, there, strict=True)]
        spreads = {"here": here, "there": there, "ratio": ratios}
        document[part] = {name: vars(report.Spread.of(values)) for name, values in spreads.items()}
        shown = (report.shown(report.Spread.of(values), 2) for values in spreads.values())
        rows.add_row(part.replace("_", "-"), *shown)
    report.deliver({"calm": document}, [rows], as_json, out)


if __name__ == "__main__":
    typer.run(main)
