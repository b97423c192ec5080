"""`gradserve robustness`: its pace beside torchattacks, what it costs others, and whether it goes on after a kill.

`python -m tests.bench.gate --help`
"""

import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import torchattacks
import typer
from PIL import Image
from rich.progress import track
from torch import Tensor, nn

from gradserve import AsyncClient, Method
from gradserve.datasets import Dataset, open_dataset
from gradserve.images import png
from gradserve.load.loops import ClosedLoop
from gradserve.load.mix import MixEntry
from gradserve.robustness.journal import Journal
from gradserve.robustness.plan import CLEAN, CheckSpec
from gradserve.robustness.run import Check
from gradserve_server.models.catalogue import read_catalogue
from gradserve_server.models.loading import load as load_model

from ..loads import loaded
from . import report
from .faithfulness import DATA
from .serving import Server, served
from .throughput import Spread, shown

MODEL = "resnet20"
TABLE = """
[models.{name}]
builder = "tests.networks:{name}"
weights = "{data}/cifar10-{name}.safetensors"
labels = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
height = 32
width = 32
default_eps = 0.03137254901960784
"""
PICTURES = "cifar10-test-1000.npz"
EPS, STEPS, BATCH, CALLERS = 8 / 255, 10, 100, 8


@dataclass(frozen=True)
class Pace:
    """Gradients per second of PGD-10 by the gate and by torchattacks in turn; CPU in ms of all processes for each.

    The gate also predicts, judges every start and end, and certifies alone: its rows besides the gradients are free.
    """

    gate: Spread
    torchattacks: Spread
    ratio: Spread
    gate_cpu: Spread
    torchattacks_cpu: Spread
    gate_rows: Spread  # All rows in a second.


@dataclass(frozen=True)
class Company:
    """p95 in ms of 8 callers of Explain (gradient), without and with the command beside them, in turn."""

    alone: Spread
    beside: Spread
    ratio: Spread


@dataclass(frozen=True)
class Resumed:
    """Runs of the command on the same pictures with the same seed: twice left alone, once killed and resumed."""

    exit_codes: dict[str, int]
    answers_at_the_kill: int
    answers: int
    right: dict[str, list[int]]  # How many clean pictures are right, then how many stay right for each eps.
    same: bool


def main(
    data: Annotated[Path, typer.Option(help="Folder with the weights and pictures.")] = DATA,
    rounds: Annotated[int, typer.Option(min=0, max=10, help="Rounds of each measurement in turn.")] = 5,
    seconds: Annotated[float, typer.Option(min=1, help="Of each round with Explain callers.")] = 10.0,
    pictures: Annotated[int, typer.Option(min=0, max=1000, help="To run, kill and resume on; 0 leaves it out.")] = 1000,
    as_json: report.Json = False,
    out: report.Out = None,
) -> None:
    """What the gate costs, and whether its figures stand."""
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    document: dict[str, Any] = {}
    tables = []
    with tempfile.TemporaryDirectory() as folder, serving(data, [MODEL], Path(folder)) as server:
        if rounds:
            pace = paced(server, data, rounds)
            company = in_company(server, data / PICTURES, Path(folder), rounds, seconds)
            document |= {"pace": asdict(pace), "company": asdict(company)}
            tables += [pace_table(pace), company_table(company)]
        if pictures:
            resumed = killed(server, data / PICTURES, Path(folder), pictures)
            document["resumed"] = asdict(resumed)
            tables.append(resumed_table(resumed))
    report.deliver(document, tables, as_json, out)


@contextmanager
def serving(data: Path, names: Sequence[str], folder: Path, more: str = "") -> Iterator[Server]:
    """A server of CIFAR-10 networks, a worker for each core."""
    catalogue = folder / "catalogue.toml"
    catalogue.write_text("".join(TABLE.format(name=name, data=data) for name in names) + more)
    with served(catalogue, len(os.sched_getaffinity(0))) as server:
        yield server


def paced(server: Server, data: Path, rounds: int) -> Pace:
    """The same batches by both, in turn."""
    pictures = open_dataset(data / PICTURES)
    network = plain_network(data)
    found: list[tuple[float, ...]] = []
    for number in track(range(rounds), "pace", console=report.console, transient=True):
        batch = pictures.examples[number * BATCH : (number + 1) * BATCH]
        found.append(by_the_gate(server, Dataset(pictures.path, batch)) + by_torchattacks(network, batch))
    gate, gate_cpu, rows, theirs, their_cpu = zip(*found, strict=True)
    ratio = Spread.of([ours / other for ours, other in zip(gate, theirs, strict=True)])
    return Pace(Spread.of(gate), Spread.of(theirs), ratio, Spread.of(gate_cpu), Spread.of(their_cpu), Spread.of(rows))


def by_the_gate(server: Server, batch: Dataset) -> tuple[float, ...]:
    """Gradients per second, CPU ms of server and client for each, all rows per second."""
    with tempfile.TemporaryDirectory() as folder:
        begin, cpu = time.perf_counter(), sum(server.cpu()[:2])
        journal = asyncio.run(_checked(server.address, batch, Path(folder)))
        took, spent = time.perf_counter() - begin, sum(server.cpu()[:2]) - cpu
    gradients = STEPS * sum(1 for each in journal if each.trial != CLEAN)
    return gradients / took, 1000 * spent / gradients, journal.rows / took


async def _checked(address: str, batch: Dataset, folder: Path) -> Journal:
    async with AsyncClient(address) as client:
        card = await client.model(MODEL)
        wish = CheckSpec(
            [Method("pgd", steps=STEPS)], [EPS], {"first_success": False}
        )  # As torchattacks does, it goes on to the last step.
        plan, pictures = wish.plan(card), batch.labelled_for(card.classes)
        with Journal(folder / "journal.jsonl", plan.described(pictures)) as journal:
            await Check(client, plan, journal).run(pictures, 32)
        return journal


def by_torchattacks(network: nn.Module, batch: Sequence[Any]) -> tuple[float, float]:
    """Gradients per second and CPU ms for each, one process with a thread for each core, one batch."""
    pixels = np.stack([example.image for example in batch])
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
    labels = torch.tensor([example.label for example in batch])
    attack = torchattacks.PGD(network, eps=EPS, alpha=EPS / 4, steps=STEPS)
    begin, cpu = time.perf_counter(), time.process_time()
    attack(images, labels)
    took, spent = time.perf_counter() - begin, time.process_time() - cpu
    return STEPS * len(batch) / took, 1000 * spent / (STEPS * len(batch))


def plain_network(data: Path) -> nn.Module:
    """The network with its normalisation, as one would hand it to torchattacks."""
    with tempfile.TemporaryDirectory() as folder:
        catalogue = Path(folder) / "catalogue.toml"
        catalogue.write_text(TABLE.format(name=MODEL, data=data))
        source = load_model(read_catalogue(catalogue)[0])
    return Normalised(source.network, torch.tensor(source.mean), torch.tensor(source.std)).eval()


class Normalised(nn.Module):
    """A network of pixels in [0, 1]."""

    def __init__(self, network: nn.Module, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.network, self.mean, self.std = network, mean.view(3, 1, 1), std.view(3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Returns logits."""
        return self.network((x - self.mean) / self.std)


def in_company(server: Server, pictures: Path, folder: Path, rounds: int, seconds: float) -> Company:
    """Explain callers without and with the command, in turn."""
    photo = png(Image.fromarray(np.load(pictures)["images"][0]))
    alone, beside = [], []
    for number in track(range(rounds), "company", console=report.console, transient=True):
        alone.append(_p95(server, photo, seconds))
        gate = subprocess.Popen(command(server, pictures, folder / f"c{number}"), **QUIET)
        time.sleep(5)  # The gate is under way by then.
        beside.append(_p95(server, photo, seconds))
        assert gate.poll() is None, "the gate was done before its round was over: fewer --seconds"
        gate.kill()
        gate.wait()
    return Company(Spread.of(alone), Spread.of(beside), Spread.of([b / a for a, b in zip(alone, beside, strict=True)]))


def _p95(server: Server, photo: bytes, seconds: float) -> float:
    """In milliseconds."""
    mix = [MixEntry("explain", method="gradient", model=MODEL)]
    found = asyncio.run(loaded(server.address, mix, [photo], ClosedLoop(CALLERS, seconds)))
    assert found.all.ok, found.all.codes
    return 1000 * found.all.ok.p95


QUIET: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}


def command(server: Server, pictures: Path, out: Path, *more: str) -> list[str]:
    """`gradserve robustness` as one would type it."""
    arguments = ["--server", server.address, "--model", MODEL, "--data", str(pictures), "--out", str(out)]
    budgets = ["--eps", "1/255", "--eps", "8/255"]
    return [sys.executable, "-m", "gradserve", "robustness", *arguments, *budgets, "--worst", "0", *more]


def killed(server: Server, pictures: Path, folder: Path, count: int) -> Resumed:
    """The command left alone twice, and once killed half-way and given again."""
    asked = ["--limit", str(count), "--min-robust-accuracy"]
    codes, right = {}, {}
    for name, least in (("whole", "0"), ("again", "0.40")):
        codes[name] = subprocess.run(
            command(server, pictures, folder / name, *asked, least), check=False, **QUIET
        ).returncode
        right[name] = _right(folder / name)
    answers = _answers(folder / "whole")
    process = subprocess.Popen(command(server, pictures, folder / "cut", *asked, "0"), **QUIET)
    while process.poll() is None and _answers(folder / "cut") < answers / 2:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    codes["killed"] = process.wait()
    at_the_kill = _answers(folder / "cut")
    codes["resumed"] = subprocess.run(
        command(server, pictures, folder / "cut", *asked, "0"), check=False, **QUIET
    ).returncode
    right["resumed"] = _right(folder / "cut")
    same = right["whole"] == right["again"] == right["resumed"]
    return Resumed(codes, at_the_kill, answers, right, same)


def _answers(out: Path) -> int:
    journal = out / "journal.jsonl"
    return max(0, journal.read_bytes().count(b"\n") - 1) if journal.exists() else 0


def _right(out: Path) -> list[int]:
    found = json.loads((out / "results.json").read_text())
    return [each["right"] for each in (found["clean"], *found["robust"])]


def pace_table(found: Pace) -> Any:
    """Medians and ranges of the rounds."""
    made = report.table("PGD-10 on batches of 100 CIFAR pictures, resnet20", [""], ["gradients/s", "CPU ms each"])
    made.add_row("gradserve robustness", shown(found.gate, 0), shown(found.gate_cpu, 1))
    made.add_row("torchattacks", shown(found.torchattacks, 0), shown(found.torchattacks_cpu, 1))
    made.add_row("ratio", shown(found.ratio, 2), f"{found.torchattacks_cpu.median / found.gate_cpu.median:.2f}")
    made.add_row("all rows of the gate", shown(found.gate_rows, 0), "")
    return made


def company_table(found: Company) -> Any:
    """Medians and ranges of the rounds."""
    made = report.table("8 callers of Explain, p95 in ms", [], ["alone", "beside the gate", "ratio"])
    made.add_row(shown(found.alone, 1), shown(found.beside, 1), shown(found.ratio, 2))
    return made


def resumed_table(found: Resumed) -> Any:
    """Pictures right, clean and under each eps, by run."""
    title = f"Killed at {found.answers_at_the_kill} of {found.answers} answers; pictures right"
    made = report.table(title, ["run"], ["exit code", "clean", "1/255", "8/255"])
    for name, code in found.exit_codes.items():
        made.add_row(name, str(code), *map(str, found.right.get(name, ["", "", ""])))
    return made


if __name__ == "__main__":
    typer.run(main)
