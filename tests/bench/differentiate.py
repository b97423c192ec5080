"""Processor time of Differentiate beside its passes: what both ends spend on the wire, for a batch of 224 x 224.

`python -m tests.bench.differentiate --help`
"""

import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer

from gradserve import Client, Goal
from gradserve_server.engine.differentiate import differentiate
from gradserve_server.engine.objective import logit
from gradserve_server.engine.query import Part, Query
from gradserve_server.models.catalogue import ModelSpec
from gradserve_server.models.preparation import prepare
from gradserve_server.models.preprocess import to_batch

from . import report
from .nothing import CATALOGUE, ENTRY, SIDE
from .report import Spread, shown
from .serving import Server, served

ROWS_OF_A_PASS = 8


@dataclass(frozen=True)
class Cost:
    """Milliseconds of processor time a call, least of the rounds first: passes alone, and both ends beside them."""

    format: str
    pixels: str
    rows: int
    passes: float
    client: Spread
    server: Spread
    beside: Spread

    @property
    def least(self) -> float:
        """The quietest round, since others on the machine only add."""
        return min(self.beside.rounds)


def main(
    rows: Annotated[int, typer.Option(min=1, max=256, help="Pictures in a call.")] = 16,
    calls: Annotated[int, typer.Option(min=1, help="Calls of a round.")] = 40,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds of each format in turn.")] = 5,
    as_json: report.Json = False,
    out: report.Out = None,
) -> None:
    """What a batch of gradients costs besides the network, which here costs next to nothing and is taken off."""
    torch.set_num_threads(1)
    levels = np.random.default_rng(0).integers(0, 256, (rows, SIDE, SIDE, 3), np.uint8)
    batches = {"uint8": levels, "float32": (levels / 255).astype(np.float32)}
    kinds = [("float16", "uint8"), ("bfloat16", "uint8"), ("float32", "uint8"), ("float32", "float32")]
    found: dict[tuple[str, str], list[tuple[float, float]]] = {kind: [] for kind in kinds}
    passes = min(_passes(levels) for _ in range(rounds))
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "catalogue.toml").write_text(CATALOGUE)
        with served(Path(folder) / "catalogue.toml", 1) as server, Client(server.address) as client:
            for _ in range(rounds):
                for form, pixels in kinds:
                    found[form, pixels].append(_call(server, client, batches[pixels], form, calls))
    costs = [_cost(form, pixels, rows, passes, times) for (form, pixels), times in found.items()]
    table = report.table(f"{rows} rows of {SIDE} x {SIDE}, ms of processor time a call", ["gradient", "pixels"], [])
    for column in ("client", "server", "passes alone", "both ends beside the passes", "least"):
        table.add_column(column, justify="right")
    for each in costs:
        ends = shown(each.client, 1), shown(each.server, 1)
        table.add_row(each.format, each.pixels, *ends, f"{passes:.1f}", shown(each.beside, 1), f"{each.least:.1f}")
    report.deliver({"costs": [asdict(each) for each in costs]}, [table], as_json, out)


def _passes(levels: np.ndarray) -> float:
    """The same passes without a service."""
    model = prepare(ModelSpec.model_validate({"name": "nothing", **ENTRY}), torch.device("cpu"))
    parts = [
        [Part(Query(part, logit(0), "image"), range(len(part)))]
        for part in to_batch(levels, model.device, model.dtype).split(ROWS_OF_A_PASS)
    ]
    began = time.process_time()
    for part in parts:
        differentiate(model, part)
    return 1e3 * (time.process_time() - began)


def _call(server: Server, client: Client, batch: np.ndarray, form: str, calls: int) -> tuple[float, float]:
    """Milliseconds of a call: the client's, and those of the server's processes."""
    client.differentiate(batch, Goal(0), format=form)
    before = server.cpu()
    for _ in range(calls):
        client.differentiate(batch, Goal(0), format=form)
    after = server.cpu()
    return 1e3 * (after[1] - before[1]) / calls, 1e3 * (after[0] - before[0]) / calls


def _cost(form: str, pixels: str, rows: int, passes: float, times: list[tuple[float, float]]) -> Cost:
    client, server = zip(*times, strict=True)
    beside = [each[0] + each[1] - passes for each in times]
    return Cost(form, pixels, rows, passes, Spread.of(client), Spread.of(server), Spread.of(beside))


if __name__ == "__main__":
    typer.run(main)
