"""How well Stylize does on four pairs of pictures, what it costs beside a plain script, and how it shares the device.

`python -m tests.bench.stylize --help`
"""

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import numpy as np
import psutil
import typer

from gradserve import Client, StylizedImage

from . import report
from .makers import DATA, NETWORKS, Address, Data, Pictures, Workers, asking, keep, opened
from .serving import photo

CONTENTS, STYLES = ("tubingen", "amber"), ("starry_night", "mosaic")
MODEL = "squeezenet1_0"
KINDS = ("content", "style")
CALLERS = 4  # Callers that ask for explanations beside the running jobs.
QUESTIONS = 15  # Questions that each of them asks.


@dataclass(frozen=True)
class Pair:
    """How far the style loss fell, and what it cost in content."""

    model: str
    content: str
    style: str
    before: float
    after: float
    content_loss: float

    @property
    def fall(self) -> float:
        """How many times smaller."""
        return self.before / self.after


@dataclass(frozen=True)
class Speed:
    """Seconds and CPU seconds of the same transfers, through the service and in a plain script one after another."""

    jobs: int
    steps: int
    size: int
    served: float
    served_cpu: float
    plain: float
    plain_cpu: float


@dataclass(frozen=True)
class Company:
    """The 95th percentile of explanations, without and beside running Stylize jobs; seconds."""

    stylizing: int
    alone: float
    beside: float


def pairs(client: Client, model: str, data: Path, steps: int, folder: Path | None) -> list[Pair]:
    """Every content in every style, all at once."""
    asked = [(content, style) for content in CONTENTS for style in STYLES]

    def made(pair: tuple[str, str]) -> StylizedImage:
        content, style = (
            opened(data / f"style/{kind}-{name}.jpg", 320) for kind, name in zip(KINDS, pair, strict=True)
        )
        return client.stylize(content, style, model=model, steps=steps)

    with ThreadPoolExecutor(len(asked)) as pool:
        found = list(pool.map(made, asked))
    for (content, style), each in zip(asked, found, strict=True):
        keep(folder, f"stylize-{model}-{content}-{style}", each.png)
    return [
        Pair(model, content, style, each.initial_losses["style"], each.losses["style"], each.losses["content"])
        for (content, style), each in zip(asked, found, strict=True)
    ]


def speed(client: Client, data: Path, jobs: int, steps: int, size: int, cpu: Callable[[], float]) -> Speed:
    """So many transfers with different styles: together through the service, then one after another in a script."""
    content = opened(data / "style/content-tubingen.jpg", size)
    styles = [np.roll(opened(data / f"style/style-{STYLES[i % 2]}.jpg", size), 7 * i, 1) for i in range(jobs)]
    styles = [style[: content.shape[0] * 3 // 4] for style in styles]
    first = client.stylize(content, styles[0], model=MODEL, size=size, steps=2)
    begun, spent = time.perf_counter(), cpu()
    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(lambda style: client.stylize(content, style, model=MODEL, size=size, steps=steps), styles))
    served, served_cpu = time.perf_counter() - begun, cpu() - spent
    layers = [name for name in first.style_layers if name != "pixels"]
    plain = scripted(content, styles, layers, list(first.content_layers), steps, data)
    return Speed(jobs, steps, size, served, served_cpu, plain["seconds"], plain["cpu"])


def scripted(
    content: np.ndarray, styles: list[np.ndarray], style: list[str], inside: list[str], steps: int, data: Path
) -> dict[str, float]:
    """The plain script in a process of its own, with a thread for every core."""
    with TemporaryDirectory() as folder:
        pictures = Path(folder) / "pictures.npz"
        smallest = min(len(each) for each in styles)
        np.savez(pictures, content=content, styles=np.stack([each[:smallest] for each in styles]))
        task = {
            "model": MODEL,
            "weights": str(data / f"{MODEL}-imagenet.safetensors"),
            "style_layers": style,
            "content_layers": inside,
            "pictures": str(pictures),
            "steps": steps,
            "pad": 0.025,
            "threads": len(psutil.Process().cpu_affinity()) if len(styles) > 1 else 1,
        }
        command = [sys.executable, "-m", "tests.bench.plain_style", json.dumps(task)]
        found: dict[str, float] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        return found


def company(client: Client, data: Path, stylizing: int, size: int) -> Company:
    """Callers that ask for gradients, alone and beside running jobs, which are cancelled afterwards."""
    content = opened(data / "style/content-tubingen.jpg", size)
    style = opened(data / "style/style-mosaic.jpg", size)
    alone = percentile(client)
    over = threading.Event()
    running = threading.Barrier(stylizing + 1)

    def job(seed: int) -> None:
        events = client.stylize_stream(content, style, model=MODEL, size=size, steps=4000, seed=seed)
        next(events)
        running.wait()
        for _ in events:
            if over.is_set():
                break

    threads = [threading.Thread(target=job, args=(i,)) for i in range(stylizing)]
    for thread in threads:
        thread.start()
    running.wait()
    beside = percentile(client)
    over.set()
    for thread in threads:
        thread.join()
    return Company(stylizing, alone, beside)


def percentile(client: Client) -> float:
    """The 95th percentile of what CALLERS wait for the gradient of the top class."""
    jpeg = photo(256)

    def caller(_: int) -> list[float]:
        waits = []
        for _ in range(QUESTIONS):
            begun = time.perf_counter()
            client.explain(jpeg, "gradient", model=MODEL, format="png")
            waits.append(time.perf_counter() - begun)
        return waits

    with ThreadPoolExecutor(CALLERS) as pool:
        return float(np.percentile([wait for waits in pool.map(caller, range(CALLERS)) for wait in waits], 95))


def server_cpu(client: Client) -> Callable[[], float]:
    """CPU seconds so far of the processes behind a client."""
    port = int(client.target.rpartition(":")[2])
    listening = [each for each in psutil.net_connections("tcp") if each.laddr.port == port and each.status == "LISTEN"]
    server = psutil.Process(listening[0].pid)

    def spent() -> float:
        family = [server, *server.children(recursive=True)]
        return sum(times.user + times.system for times in (process.cpu_times() for process in family))

    return spent


def main(
    networks: Annotated[int, typer.Option(min=0, max=2, help="Networks for the pairs.")] = 2,
    steps: Annotated[int, typer.Option(min=1, help="Steps of every pair.")] = 200,
    jobs: Annotated[int, typer.Option(min=0, help="Jobs for the speed; 0 leaves it out.")] = 8,
    speed_steps: Annotated[int, typer.Option(min=1, help="Their steps.")] = 20,
    size: Annotated[int, typer.Option(min=64, help="Their size, and that of the jobs beside explanations.")] = 224,
    stylizing: Annotated[int, typer.Option(min=0, help="Jobs beside explanations; 0 leaves it out.")] = 4,
    data: Data = DATA,
    pictures: Pictures = None,
    server: Address = None,
    workers: Workers = 2,
    as_json: report.Json = False,
    out: report.Out = None,
) -> None:
    """Stylize on two contents and two styles; its cost beside a plain script; explanations beside it.

    Goals: the style loss falls 25 times on squeezenet1_0 and 40 on mobilenet_v2 at a content loss of 1.2 and 1.0; a
    step costs 10 % more than a plain loop's at most; explanations beside 4 jobs wait 3 times as long at most.
    """
    with asking(data, server, workers) as client:
        found = [pair for network in NETWORKS[:networks] for pair in pairs(client, network, data, steps, pictures)]
        counts = (1, jobs) if jobs else ()
        speeds = [speed(client, data, count, speed_steps, size, server_cpu(client)) for count in counts]
        beside = [company(client, data, stylizing, size)] if stylizing else []
    tables = [each for each in (_pairs(found), _speeds(speeds), _company(beside)) if each.rows]
    document = {
        "pairs": [asdict(each) for each in found],
        "speed": [asdict(each) for each in speeds],
        "company": [asdict(each) for each in beside],
    }
    report.deliver(document, tables, as_json, out)


def _pairs(found: list[Pair]):
    columns = ["style before", "after", "fall", "content"]
    table = report.table("Stylize, 320 px", ["network", "content", "style"], columns)
    for each in found:
        numbers = (f"{each.before:.3f}", f"{each.after:.4f}", f"{each.fall:.0f}x", f"{each.content_loss:.2f}")
        table.add_row(each.model, each.content, each.style, *numbers)
    return table


def _speeds(found: list[Speed]):
    columns = ["served s", "plain s", "ratio", "served CPU s", "plain CPU s", "CPU ratio"]
    table = report.table(f"Jobs together and one after another, {MODEL}", ["jobs", "steps", "px"], columns)
    for each in found:
        walls = (f"{each.served:.1f}", f"{each.plain:.1f}", f"{each.plain / each.served:.2f}")
        cpus = (f"{each.served_cpu:.1f}", f"{each.plain_cpu:.1f}", f"{each.plain_cpu / each.served_cpu:.2f}")
        table.add_row(str(each.jobs), str(each.steps), str(each.size), *walls, *cpus)
    return table


def _company(found: list[Company]):
    table = report.table("Explanations, 95th percentile", ["beside"], ["alone ms", "beside ms", "ratio"])
    for each in found:
        numbers = (f"{1000 * each.alone:.0f}", f"{1000 * each.beside:.0f}", f"{each.beside / each.alone:.2f}")
        table.add_row(f"{each.stylizing} Stylize jobs", *numbers)
    return table


if __name__ == "__main__":
    typer.run(main)
