"""Do the maps point at what the network looks at? Over real photos, from a real server, against smooth random maps.

`python -m tests.bench.faithfulness --help`
"""

import csv
import json
import tempfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean
from typing import Annotated, Any

import numpy as np
import torch
import typer
from rich.progress import track
from rich.table import Table

from gradserve import Client
from gradserve.cli.demo.local_server import launched
from gradserve.results.explain import Explanations
from gradserve.v1 import common_pb2 as pb
from gradserve_server.api.pictures.images import decode, preprocess
from gradserve_server.config import LimitSettings
from gradserve_server.models.catalogue import ModelSpec
from gradserve_server.models.preparation import prepare
from gradserve_server.models.prepared import Prepared

from . import report
from .curves import Areas, Map, judged, random_map, ranked

GOALS = {"grad_cam": 0.8, "smooth_grad": 0.8, "gradient": 0.6, "integrated_gradients": 0.6}
MODELS = ("mobilenet_v2", "squeezenet1_0")
CONFIG = """
[pool]
queue_seconds = 3600  # whatever else the machine does, no photo may be refused

[models.{model}]
weights = "{weights}"
resize = {resize}
"""
RESIZE = 256  # These weights were trained for it; torchvision's newest ones of mobilenet_v2 want another size.
AHEAD = 2  # Photos that are explained while another is judged.
DATA = Path(__file__).parents[3] / "shared" / "data"

Photos = Annotated[int | None, typer.Option("--photos", min=1, help="Only so many, spread over all; default: all.")]
Data = Annotated[Path, typer.Option("--data", file_okay=False, help="Folder with images/ and the weights.")]


@dataclass(frozen=True)
class Verdict:
    """One photo judged for one model: the areas of every method's map and of every random map."""

    model: str
    digest: str
    photo: str
    label: int
    draws: int
    maps: dict[str, Areas]

    @property
    def chance(self) -> float:
        """The mean gap of the random maps."""
        return mean(areas.gap for name, areas in self.maps.items() if name not in GOALS)


@dataclass(frozen=True)
class Summary:
    """One method (or the random maps) over all photos; `share` of them where its gap beats the random maps'."""

    model: str
    method: str
    photos: int
    deletion: float
    insertion: float
    gap: float
    share: float | None = None
    goal: float | None = None


@dataclass(frozen=True)
class Plan:
    """What to measure; `lines` keeps the verdicts and lets a later run go on from them."""

    photos: int | None = None
    draws: int = 2
    batch: int = 28
    workers: int | None = None
    lines: Path | None = None


def main(
    model: Annotated[list[str], typer.Option(help="Repeat for several.")] = list(MODELS),  # noqa: B006  typer copies it
    photos: Photos = None,
    draws: Annotated[int, typer.Option(min=1, help="Random maps for each photo.")] = 2,
    batch: Annotated[int, typer.Option(min=1, help="Rows of the judge's forward passes.")] = 28,
    workers: Annotated[int | None, typer.Option(min=1, help="The server's; default: one per core.")] = None,
    data: Data = DATA,
    lines: Annotated[
        Path | None, typer.Option(dir_okay=False, help="Keep the verdicts here, one JSON line each, and go on from it.")
    ] = None,
    as_json: report.Json = False,
    out: report.Out = None,
) -> None:
    """Deletion and insertion of the top class's probability for the maps that a server answers with.

    28 steps to the mean colour, and from a blurred picture back to the photo (RISE). A map's gap is insertion minus
    deletion; the share is of the photos where it is larger than the mean gap of random maps as smooth as a map.

    Example: python -m tests.bench.faithfulness --photos 6
    or for all photos: python -m tests.bench.faithfulness --lines tests/bench/out/faithfulness.jsonl
    """
    plan = Plan(photos, draws, batch, workers, lines)
    found = [summary for name in model for summary in measure(name, plan, data)]
    report.deliver({"faithfulness": [asdict(each) for each in found]}, [table(found)], as_json, out)


def measure(model: str, plan: Plan, data: Path) -> list[Summary]:
    """Judges the photos that have no verdict yet and sums up. Raises FileNotFoundError without the data."""
    weights = data / f"{model}-imagenet.safetensors"
    judge = prepare(ModelSpec(name=model, weights=str(weights), resize=RESIZE), torch.device("cpu"))
    chosen = spread(photo_names(data), plan.photos)
    same = (model, judge.card.digest, plan.draws)
    known = {v.photo: v for v in stored(plan.lines) if (v.model, v.digest, v.draws) == same}
    missing = [name for name in chosen if name not in known]
    if missing:
        torch.set_num_threads(1)
        for found in verdicts(judge, weights, missing, plan):
            known[found.photo] = found
            keep(found, plan.lines)
    return summaries([known[name] for name in chosen])


def verdicts(judge: Prepared, weights: Path, names: Sequence[str], plan: Plan) -> Iterator[Verdict]:
    """Judges photo after photo while a server explains the next ones."""
    paths = [weights.parent / "images" / name for name in names]
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "server.toml"
        config.write_text(CONFIG.format(model=judge.card.name, weights=weights.resolve(), resize=RESIZE))
        arguments = ["--config", str(config), *(["--workers", str(plan.workers)] if plan.workers else [])]
        server = launched(arguments, Path(folder) / "server.log", timeout=600)
        with server as address, Client(address, timeout=3600) as client:
            answers = client.explain_many(paths, list(GOALS), concurrency=AHEAD)
            both = zip(paths, answers, strict=True)
            for path, answer in track(both, judge.card.name, len(paths), console=report.console, transient=True):
                yield verdict(judge, path, answer, plan)


def verdict(judge: Prepared, path: Path, answer: Explanations, plan: Plan) -> Verdict:
    """One photo's."""
    photo = pb.Image(encoded=path.read_bytes())
    limits = LimitSettings()
    pixels, _ = preprocess(decode(photo, limits), judge.card, pb.PREPROCESS_MODEL_DEFAULT, limits)
    image = torch.from_numpy(pixels).permute(2, 0, 1).unsqueeze(0) / 255
    noise = [random_map(image.shape[-1], seed_of(path.name) + draw) for draw in range(plan.draws)]
    maps = {each.method: strength(each.method, each.map) for each in answer}
    rankings = {name: ranked(values, ties=noise[0]) for name, values in maps.items()}
    rankings |= {f"random {draw}": ranked(values, ties=values) for draw, values in enumerate(noise)}
    label = answer[0].target
    if not isinstance(label, int):
        raise TypeError(f"the target of {path.name} is not a class: {label}")
    areas = judged(judge, image, label, rankings, plan.batch)
    return Verdict(judge.card.name, judge.card.digest, path.name, label, plan.draws, areas)


def strength(method: str, values: Map) -> Map:
    """What pixels are ranked by: signed attributions by their size."""
    return np.abs(values) if method == "integrated_gradients" else values


def summaries(found: Sequence[Verdict]) -> list[Summary]:
    """One per method, and one for the random maps."""
    chance = [areas for v in found for name, areas in v.maps.items() if name not in GOALS]
    result = [averaged(found, "random", chance)]
    for method, goal in GOALS.items():
        share = mean(v.maps[method].gap > v.chance for v in found)
        result.append(averaged(found, method, [v.maps[method] for v in found], share, goal))
    return result


def averaged(found: Sequence[Verdict], method: str, areas: Sequence[Areas], *shares: float) -> Summary:
    """Means over all photos."""
    deletion, insertion = mean(a.deletion for a in areas), mean(a.insertion for a in areas)
    return Summary(found[0].model, method, len(found), deletion, insertion, insertion - deletion, *shares)


def keep(found: Verdict, lines: Path | None) -> None:
    """Adds a line to the file of verdicts, if there is to be one."""
    if lines:
        lines.parent.mkdir(parents=True, exist_ok=True)
        with lines.open("a") as file:
            file.write(json.dumps(asdict(found)) + "\n")


def stored(lines: Path | None) -> list[Verdict]:
    """What earlier runs found; a line that an interruption cut short is left out."""
    found = []
    for line in lines.read_text().splitlines() if lines and lines.exists() else []:
        try:
            fields: dict[str, Any] = json.loads(line)
        except json.JSONDecodeError:
            continue
        maps: Mapping[str, Any] = fields.pop("maps")
        found.append(Verdict(**fields, maps={name: Areas(**areas) for name, areas in maps.items()}))
    return found


def photo_names(data: Path) -> list[str]:
    """The photos' file names. Raises FileNotFoundError."""
    with (data / "images" / "labels.csv").open(newline="") as file:
        return [row["file"] for row in csv.DictReader(file)]


def spread(names: list[str], count: int | None) -> list[str]:
    """So many of the names, evenly spread, or all."""
    if count is None or count >= len(names):
        return names
    return [names[i * len(names) // count] for i in range(count)]


def seed_of(name: str) -> int:
    """A photo's own seed, the same for every model."""
    return zlib.crc32(name.encode())


def table(found: Sequence[Summary]) -> Table:
    """The summaries, with the goals beside."""
    title = "Deletion and insertion of the top class's probability"
    made = report.table(title, ["model", "method"], ["photos", "deletion", "insertion", "gap", "beats random", "goal"])
    for each in found:
        areas = [f"{value:.3f}" for value in (each.deletion, each.insertion, each.gap)]
        share = "" if each.share is None else f"{each.share:.0%}"
        goal = "" if each.goal is None or each.share is None else f"{each.goal:.0%} {mark(each.share >= each.goal)}"
        made.add_row(each.model, each.method, str(each.photos), *areas, share, goal)
    return made


def mark(reached: bool) -> str:
    """Whether a goal is reached, in colour."""
    return "[green]yes[/]" if reached else "[red]no[/]"


if __name__ == "__main__":
    typer.run(main)
