"""Queries of real servers by number of training examples: time, memory, size; a lone caller, then sixteen."""

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from rich.table import Table
from serving import Server

from gradserve import Client
from gradserve_server.methods.indexes.examples import ArrayExamples
from gradserve_server.methods.indexes.folder import preprocessing
from gradserve_server.methods.indexes.sources import IndexOrigin
from gradserve_server.methods.influence.estimates import products
from gradserve_server.methods.influence.index import Index, extremes
from gradserve_server.methods.influence.indexing.build import Builder
from gradserve_server.methods.influence.indexing.plan import IndexPlan
from gradserve_server.models.catalogue import EMBEDDED
from gradserve_server.models.embedded.digits.data import parts, pixels
from gradserve_server.models.preparation import prepare

from .. import report

CALLERS, QUERIES, BATCH = 16, 200, 32


@dataclass(frozen=True)
class Found:
    """One index of `digits`. Milliseconds; bytes."""

    examples: int
    bytes_each: float
    product: float  # Of one query's inner products and selection, in this process.
    product_of_32: float  # Of each of 32 queries at once.
    median: float
    late: float  # The 99th percentile.
    per_second: float  # Answers to 16 callers in a second.
    median_of_16: float
    late_of_16: float
    grown: int  # Growth of the worker's resident memory beside that of a server with the smallest index.


def grown(count: int) -> tuple[np.ndarray, np.ndarray]:
    """So many digits: the training set over and over, each copy with noise of its own."""
    x, _, y, _ = parts()
    rng = np.random.default_rng(0)
    rows = np.arange(count) % len(y)
    noise = rng.integers(-12, 13, (count, 8, 8, 1))
    return (pixels(x)[rows].astype(int) + noise).clip(0, 255).astype(np.uint8), y[rows]


def index_of(count: int, folder: Path) -> Path:
    """Built once."""
    place = folder / f"digits-{count}"
    if not place.exists():
        model = prepare(EMBEDDED["digits"], torch.device("cpu"), fold=False)
        x, y = grown(count)
        origin = IndexOrigin(preprocessing(model.card), str(count))
        Builder(model, ArrayExamples(x, y), origin, IndexPlan(label_smoothing=0.05, rank=8)).run(place)
    return place


def measure(counts: list[int], folder: Path) -> list[Found]:
    """Every size in a server of its own, with one worker."""
    _, x, _, _ = parts()
    images, found = pixels(x), []
    for count in counts:
        report.console.print(f"{count} examples")
        place = index_of(count, folder)
        with Server(f'[models.digits]\nindex = "{place}"\n', "--workers", "1") as server:
            with Client(server.address, timeout=600) as client:
                alone = _asked(client, images[:QUERIES])
                begun = time.perf_counter()
                with ThreadPoolExecutor(CALLERS) as callers:
                    parts_of = [images[i::CALLERS] for i in range(CALLERS)]
                    together = [t for times in callers.map(lambda p: _asked(client, p), parts_of) for t in times]
                seconds = time.perf_counter() - begun
            memory = sum(worker.memory_info().rss for worker in server.workers)
        index = Index(place)
        size = sum(file.bytes for name, file in index.manifest.files.items() if not name.endswith("safetensors"))
        one, many = _products(index)
        times = (*_percentiles(alone), len(together) / seconds, *_percentiles(together))
        found.append(Found(count, size / count, one, many, *times, memory))
    return [Found(**{**each.__dict__, "grown": each.grown - found[0].grown}) for each in found]


def _asked(client: Client, images: np.ndarray) -> list[float]:
    """Milliseconds of each."""
    times = []
    for image in images:
        begun = time.perf_counter()
        client.influence(image, model="digits")
        times.append(1000 * (time.perf_counter() - begun))
    return times


def _percentiles(times: list[float]) -> tuple[float, float]:
    return float(np.median(times)), float(np.percentile(times, 99))


def _products(index: Index) -> tuple[float, float]:
    """Best of ten, milliseconds for a query: alone, and among 32."""
    best = []
    for batch in (1, BATCH):
        queries = np.random.default_rng(0).normal(size=(batch, index.manifest.size)).astype(np.float32)
        times = []
        for _ in range(10):
            begun = time.perf_counter()
            for scores in products(index, queries):
                extremes(scores, 8)
            times.append((time.perf_counter() - begun) / batch)
        best.append(1000 * min(times))
    return best[0], best[1]


def table(found: list[Found]) -> Table:
    """For people."""
    title = "Influence on digits through gRPC, one worker; milliseconds"
    columns = [
        "bytes each",
        "product",
        "of 32",
        "p50",
        "p99",
        f"{CALLERS} callers: 1/s",
        "p50",
        "p99",
        "worker's memory",
    ]
    made = report.table(title, ["examples"], columns)
    for each in found:
        times = (each.product, each.product_of_32, each.median, each.late)
        cells = [f"{each.bytes_each:.0f}", *(f"{t:.2f}" for t in times), f"{each.per_second:.0f}"]
        cells += [f"{each.median_of_16:.1f}", f"{each.late_of_16:.1f}", f"{each.grown / 2**20:+.0f} MiB"]
        made.add_row(f"{each.examples}", *cells)
    return made
