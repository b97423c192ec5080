"""How mobilenet_v2 and the embedded `imagenet` decide, by shape or by texture, as `gradserve shape-bias` tells it.

`python -m tests.bench.shape --help`
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import typer
from rich.table import Table

from . import report
from .makers import DATA, Data, Workers, configuration
from .serving import served

STYLER, JUDGES = "squeezenet1_0", ("mobilenet_v2", "imagenet")
CONTENTS = {
    "king penguin": "n02056570_king_penguin",
    "balloon": "n02782093_balloon",
    "grand piano": "n03452741_grand_piano",
    "killer whale": "n02071294_killer_whale",
    "acoustic guitar": "n02676566_acoustic_guitar",
    "flamingo": "n02007558_flamingo",
}
TEXTURES = {
    "zebra": "n02391049_zebra",
    "leopard": "n02128385_leopard",
    "strawberry": "n07745940_strawberry",
    "ladybug": "n02165456_ladybug",
    "coral fungus": "n12985857_coral_fungus",
    "pizza": "n07873807_pizza",
}
GOAL = ("mobilenet_v2", 0.35)  # At the smallest weight; from there the share must rise with the weight.


def main(
    classes: Annotated[int, typer.Option(min=1, max=6, help="Contents, and as many textures.")] = 6,
    pictures: Annotated[
        Path, typer.Option("--pictures", help="Folder of the pictures; a run goes on where it was.")
    ] = Path("shape-out"),
    data: Data = DATA,
    workers: Workers = 1,
    as_json: report.Json = False,
    out: report.Out = None,
) -> None:
    """Decisions by shape among those for one of the two classes, at three weights of the content, 224 px.

    squeezenet1_0 makes the pictures. 36 of them at each weight take about 20 minutes of one processor.
    """
    with TemporaryDirectory() as folder:
        catalogue = Path(folder) / "server.toml"
        catalogue.write_text(configuration(data) + "[models.imagenet]\n")
        with served(catalogue, workers) as server:
            before, began, client = server.cpu()[0], time.monotonic(), _waited_for()
            result = shape_bias(server.address, data / "images", classes, pictures)
            result |= {"seconds": time.monotonic() - began, "server_cpu": server.cpu()[0] - before}
            result["client_cpu"] = _waited_for() - client
    report.deliver(result, [table(result)], as_json, out)


def shape_bias(address: str, photos: Path, classes: int, out: Path) -> dict[str, Any]:
    """What the command prints as JSON."""
    command = [sys.executable, "-m", "gradserve", "shape-bias", "--styler", STYLER, "--out", str(out), "--json"]
    command += [word for judge in JUDGES for word in ("--judge", judge)]
    for option, pictures in (("--content", CONTENTS), ("--texture", TEXTURES)):
        for name, file in list(pictures.items())[:classes]:
            command += [option, f"{name}={photos / file}.JPEG"]
    environment = os.environ | {"GRADSERVE_SERVER": address}
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def table(result: dict[str, Any]) -> Table:
    """One line for each network and weight."""
    made = result["pictures"] - result["found"]
    cost = f"{made} pictures made in {result['seconds']:.0f} s, of which {result['seconds_judging']:.0f} s judged; "
    cost += f"processor time {result['server_cpu']:.0f} s, the command's {result['client_cpu']:.0f} s"
    columns = ["shape share", "95 %", "shape", "texture", "neither", "goal"]
    lines = report.table(f"Shape or texture: {cost}", ["network", "content weight"], columns)
    for judge in result["judges"]:
        for number, point in enumerate(judge["curve"]):
            share = "-" if point["shape_share"] is None else f"{point['shape_share']:.3f}"
            counts = [str(count) for count in point["among_the_sets_classes"].values()]
            goal = f"{GOAL[1]:.2f} at most" if judge["model"] == GOAL[0] and not number else ""
            interval = f"{point['low']:.2f} to {point['high']:.2f}"
            lines.add_row(judge["model"], f"{point['content_weight']:g}", share, interval, *counts, goal)
    return lines


def _waited_for() -> float:
    """CPU seconds of the processes that were waited for so far: those of the command, but not of the server."""
    times = os.times()
    return times.children_user + times.children_system


if __name__ == "__main__":
    typer.run(main)
