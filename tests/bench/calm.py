"""What a request costs: processor time of front-ends and worker, beside a server of another source tree.

`python -m tests.bench.calm --other PATH`; `--other . --traces` compares this tree's server with traces and without.
"""

import asyncio
import os
import time
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
from ..collector import Collector
from ..loads import loaded, pinned_apart
from . import report
from .faithfulness import DATA, Data, photo_names
from .nothing import CATALOGUE

ROOT = Path(__file__).parents[2]
CONNECTIONS = 8  # So that several front-ends have callers.
BLOCK_SECONDS = 300.0  # A block of requests that takes longer ends early.
STATISTICS_SECONDS = 1.2  # Until workers have told of their last passes.
FRESH_ROUNDS = 2  # Rounds until the servers are started anew.
KEPT_PICTURES = 16  # The photos that the requests are about, in turn.
# RPCs and methods, each asked as often as the others.
MIXED = [("predict", ""), ("embed", ""), ("differentiate", ""), ("explain", "gradient"), ("explain", "grad_cam")]
MIXED += [("attack", "fgsm")]


TOKEN = "a-token-of-the-benchmark"
PARTS = {"front_end": "front-end, ms", "workers": "worker, ms", "all": "all, ms", "rows": "rows in a pass"}
PARTS |= {"p50": "answer p50, ms"}


class Spent(NamedTuple):
    """Milliseconds of processor time for each request, rows in a pass, and the median latency in milliseconds."""

    front_end: float
    workers: float
    all: float
    rows: float
    p50: float


class Counted(NamedTuple):
    """What a server has spent and done since its start: seconds of processor time, rows and passes."""

    front_end: float
    workers: float
    rows: float
    passes: float

    def less(self, before: "Counted", requests: int, p50: float) -> Spent:
        """What each of so many requests took since then; `p50` is their median latency in seconds."""
        front_end, workers, rows, passes = (now - then for now, then in zip(self, before, strict=True))
        own = 1000 * front_end / requests, 1000 * workers / requests
        return Spent(*own, sum(own), rows / max(1.0, passes), 1000 * p50)


def main(
    other: Annotated[Path, typer.Option(exists=True, file_okay=False, help="The root of another source tree.")],
    model: Annotated[
        str, typer.Option(help="An embedded model, or nothing: a network that costs nothing.")
    ] = "cifar10",
    rpc: Annotated[str, typer.Option(help="predict, explain ..., or mixed: each of MIXED.")] = "explain",
    method: Annotated[str, typer.Option(help="Of Explain or Attack.")] = "gradient",
    callers: Annotated[int, typer.Option(min=1, help="Callers that wait for their answers.")] = 1,
    front_ends: Annotated[int, typer.Option(min=1, help="Of this tree's server; the other has one.")] = 1,
    requests: Annotated[int, typer.Option(min=1, help="Of each block.")] = 400,
    token: Annotated[bool, typer.Option(help="Let both servers ask for a token, and send it.")] = False,
    traces: Annotated[bool, typer.Option(help="Let this tree's server send the spans of each request here.")] = False,
    rounds: Annotated[int, typer.Option(min=1, help="Pairs of blocks, one on each server.")] = 10,
    data: Data = DATA,
    as_json: report.Json = False,
    out: report.Out = None,
) -> None:
    """Two servers, one of this tree and one of the other, are asked in turn; each has one worker and default settings.

    The ratio is of this tree's time to the other's in a pair of blocks; which is asked first alternates. Servers of one
    tree differ by some percent, each as long as it runs: they are started anew for every few rounds.
    """
    kinds = MIXED if rpc == "mixed" else [(rpc, method if rpc in ("explain", "attack") else "")]
    mix = [MixEntry(word, method=each, model=model) for word, each in kinds]
    photos = [(data / "images" / name).read_bytes() for name in photo_names(data)[:KEPT_PICTURES]]
    built(mix, photos)  # A mistake is told before servers start.
    pairs, trees = list[tuple[Spent, Spent]](), (ROOT, other.resolve())
    for turn in track(range(0, rounds, FRESH_ROUNDS), console=report.console):
        with ExitStack() as stack:
            collector = stack.enter_context(Collector()) if traces else None
            flags = ["--traces", collector.address] if collector else []
            both = (trees[0], front_ends, flags), (trees[1], 1, [])
            servers = [stack.enter_context(server_of(*each, model, token=token)) for each in both]
            stack.enter_context(pinned_apart(*servers))
            ask = partial(
                block, mix=mix, photos=photos, callers=callers, requests=requests, token=TOKEN if token else None
            )
            for server in servers:
                ask(server)
            for place in range(turn, min(turn + FRESH_ROUNDS, rounds)):
                order = servers if place % 2 else servers[::-1]
                spent = {id(server): ask(server) for server in order}
                pairs.append((spent[id(servers[0])], spent[id(servers[1])]))
    deliver(pairs, f"{mix[0].name if len(mix) == 1 else rpc}, {callers} callers, blocks of {requests}", as_json, out)


def server_of(tree: Path, front_ends: int, flags: list[str], model: str, *, token: bool) -> serving.Server:
    """A server whose code is that tree's, and that asks for TOKEN where it is to."""
    own = f"[server]\nfront_ends = {front_ends}\n" if front_ends > 1 or token else ""
    if token:
        tokens = Path(serving.CACHE.name) / "tokens"
        tokens.write_text(TOKEN)
        own += f'token_file = "{tokens}"\n'
    path = os.pathsep.join(map(str, (tree / "client", tree / "server", ROOT)))  # The last has `tests.bench.nothing`.
    models = CATALOGUE if model == "nothing" else f"[models.{model}]\n"
    with patch.dict(os.environ, {"PYTHONPATH": path}):
        server = serving.Server(f"{own}[pool]\nworkers = 1\n{models}", *flags, fresh=True)
    assert server.address
    return server


def block(
    server: serving.Server,
    mix: list[MixEntry],
    photos: list[bytes],
    callers: int,
    requests: int,
    token: str | None,
) -> Spent:
    """What each request of a block took, in milliseconds. Raises ValueError where not all were answered."""
    before = counted(server)
    loop = ClosedLoop(callers, BLOCK_SECONDS, requests=requests)
    load = loaded(server.address, mix, photos, loop, connections=CONNECTIONS, token=token)
    found = asyncio.run(load).all
    if found.codes != {"OK": found.requests} or found.requests < requests:
        raise ValueError(f"of {requests} requests not all were answered in {BLOCK_SECONDS:.0f} s: {found.codes}")
    assert found.ok is not None
    return counted(server).less(before, found.requests, found.ok.p50)


def counted(server: serving.Server) -> Counted:
    """Until now, by the workers and by all other processes of a server; once the workers have told of their passes."""
    time.sleep(STATISTICS_SECONDS)
    workers = server.workers
    family = [psutil.Process(server.process.pid), *server.process.children(recursive=True)]
    spent = (sum(map(seconds, each)) for each in ([p for p in family if p not in workers], workers))
    return Counted(*spent, server.metric("gradserve_step_rows_sum"), server.metric("gradserve_step_rows_count"))


def seconds(process: psutil.Process) -> float:
    """Of processor time, in the process and in the system."""
    times = process.cpu_times()
    return float(times.user + times.system)


def deliver(pairs: list[tuple[Spent, Spent]], title: str, as_json: bool, out: Path | None) -> None:
    """Prints for each part of a server the milliseconds of both trees and their ratio."""
    rows, document = report.table(title, ["part"], ["here", "there", "ratio"]), {}
    for place, part in enumerate(Spent._fields):
        here, there = ([pair[tree][place] for pair in pairs] for tree in (0, 1))
        ratios = [own / others for own, others in zip(here, there, strict=True)]
        spreads = {"here": here, "there": there, "ratio": ratios}
        document[part] = {name: vars(report.Spread.of(values)) for name, values in spreads.items()}
        shown = (report.shown(report.Spread.of(values), 2) for values in spreads.values())
        rows.add_row(PARTS[part], *shown)
    report.deliver({"calm": document}, [rows], as_json, out)


if __name__ == "__main__":
    typer.run(main)
