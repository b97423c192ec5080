"""Does a map find its class among others? Grids of 2 x 2 photos that the network knows alone, asked for one at a time.

The grid pointing game (Boehle et al. 2021): the share of a map's positive values in the cell of the class, .25 by
chance. A contrast is with the mean of the three other classes, of which a map of a class alone knows nothing.

`python -m tests.bench.pointing --help`
"""

import csv
import os
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from statistics import mean, median
from typing import Annotated, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
import typer
from PIL import Image
from rich.progress import track
from rich.table import Table
from torch import Tensor

from gradserve.decoding import to_rgb
from gradserve_server.engine.differentiate import differentiate
from gradserve_server.engine.engine import Engine
from gradserve_server.engine.events import Ended
from gradserve_server.engine.job import Job
from gradserve_server.engine.objective import logit
from gradserve_server.engine.query import Part, Query
from gradserve_server.methods.explain import METHODS, Call, ExplainArguments, Target, explain
from gradserve_server.methods.parameters import bind
from gradserve_server.methods.targets import Contrast
from gradserve_server.models.catalogue import EMBEDDED, ModelSpec
from gradserve_server.models.preparation import prepare
from gradserve_server.models.prepared import Prepared
from gradserve_server.models.rules import Relevance, Rule
from gradserve_server.pool.forking import WORKERS_ENVIRONMENT

from . import report
from .faithfulness import DATA, MODELS, Data

SHORT: Mapping[str, Mapping[str, object]] = {
    "smooth_grad": {"samples": 8},
    "integrated_gradients": {"steps": 8},
    "occlusion": {"patch": 0.25},
    "gradient_shap": {"samples": 20},
}
VARIANTS: Mapping[str, tuple[str, Mapping[str, object]]] = {  # By name in the table: a method and its parameters.
    **{name: (name, SHORT.get(name, {})) for name in METHODS},
    "lrp, flat": ("lrp", {"input_rule": "flat"}),
    "lrp, gamma": ("lrp", {"rule": "gamma"}),
    "lrp, epsilon": ("lrp", {"rule": "epsilon"}),
}
CONTRASTED = ("lrp", "lrp, flat", "lrp, gamma", "grad_cam", "layer_cam", "guided_grad_cam", "gradient_x_input")
GOALS = {
    ("squeezenet1_0", "lrp, contrast"): 0.85,
    ("squeezenet1_0", "grad_cam"): 0.70,
    ("mobilenet_v2", "lrp, contrast"): 0.85,
    ("mobilenet_v2", "grad_cam"): 0.55,
}
RULES: Mapping[str, Rule] = {
    "guided": "guided",
    "lrp_epsilon": Relevance("epsilon"),
    "lrp_z_plus": Relevance(),
    "lrp_gamma": Relevance("gamma"),
}
CELLS = 4
MIXES = ((1, 7), (4, 4))  # Rows with a rule and plain rows of the passes whose processor time is measured.
COARSE = 7  # The side of the random maps before they are made as large as the others.


class Grid(NamedTuple):
    """A picture [1, 3, H, W] of four photos, and the classes of its quarters, row by row."""

    picture: Tensor
    labels: tuple[int, ...]


@dataclass(frozen=True)
class Pointed:
    """A method over all cells: the mean share in the right one, and how often that has the most."""

    model: str
    method: str
    cells: int
    share: float
    won: float
    goal: float | None = None


@dataclass(frozen=True)
class Cost:
    """Processor time of a row in ms, medians of rounds in turn; `plain_beside` is of plain rows beside ruled ones."""

    model: str
    rule: str
    ruled: int
    plain: int
    alone: float
    plain_alone: float
    plain_beside: float
    ratio: float


def main(
    grids: Annotated[int, typer.Option(min=0, help="Grids for each network, of four cells each.")] = 12,
    rounds: Annotated[int, typer.Option(min=0, help="Rounds of the processor time.")] = 9,
    seed: Annotated[int, typer.Option(help="Chooses the photos of the grids.")] = 0,
    data: Data = DATA,
    as_json: report.Json = False,
    out: report.Out = None,
) -> None:
    """Plays the grid pointing game with every method, and measures what rules of the backward pass cost."""
    specs = [ModelSpec(name=name, weights=str(data / f"{name}-imagenet.safetensors")) for name in MODELS]
    pointed: list[Pointed] = []
    costs: list[Cost] = []
    for spec in [*specs, EMBEDDED["imagenet"]]:
        model = prepare(spec, torch.device("cpu"))
        torch.set_num_threads(1)
        if grids:
            pointed += play(model, list(grids_of(model, data / "images", grids, seed)))
        if rounds:
            costs += costs_of(model, rounds)
    document = {"pointing": [asdict(each) for each in pointed], "costs": [asdict(each) for each in costs]}
    report.deliver(document, [pointing_table(pointed), cost_table(costs)], as_json, out)


def grids_of(model: Prepared, folder: Path, count: int, seed: int) -> Iterator[Grid]:
    """Grids of photos that the network knows at the size of a cell; the four of a grid are of different classes."""
    side = model.card.height // 2
    with (folder / "labels.csv").open() as lines:
        rows = list(csv.DictReader(lines))
    photos = {int(row["class_index"]): cell(folder / row["file"], side) for row in rows}
    known = [label for label, photo in photos.items() if knows(model, photo, label)]
    report.console.print(f"{model.card.name} knows {len(known)} of {len(photos)} photos of {side} px")
    generator = np.random.default_rng(seed)
    for _ in range(count):
        labels = tuple(int(label) for label in generator.choice(known, CELLS, replace=False))
        a, b, c, d = (photos[label] for label in labels)
        yield Grid(torch.cat([torch.cat([a, b], 3), torch.cat([c, d], 3)], 2), labels)


def cell(path: Path, side: int) -> Tensor:
    """The middle of a photo, [1, 3, side, side] in [0, 1]."""
    photo = to_rgb(Image.open(path))
    shorter = min(photo.size)
    left, top = ((length - shorter) // 2 for length in photo.size)
    square = photo.resize((side, side), Image.Resampling.BICUBIC, (left, top, left + shorter, top + shorter))
    return torch.from_numpy(np.array(square)).permute(2, 0, 1)[None] / 255


def knows(model: Prepared, photo: Tensor, label: int) -> bool:
    """Whether the top class of a photo by itself is right."""
    with torch.no_grad():
        return int(model(photo).argmax()) == label


def play(model: Prepared, grids: Sequence[Grid]) -> list[Pointed]:
    """Every method asked for every cell of every grid."""
    shares: dict[str, list[np.ndarray]] = defaultdict(list)
    for number, grid in enumerate(track(grids, model.card.name, console=report.console, transient=True)):
        named = list(calls(model, grid))
        for (name, right, _), values in zip(named, maps(model, grid, [each for *_, each in named]), strict=True):
            shares[name].append(cell_shares(values, right))
        for right in range(CELLS):
            shares["coarse noise"].append(cell_shares(noise(number * CELLS + right, grid), right))
    return [
        Pointed(
            model.card.name,
            name,
            len(each),
            mean(float(share[0]) for share in each),
            mean(float(share[0] > share[1:].max()) for share in each),
            GOALS.get((model.card.name, name)),
        )
        for name, each in shares.items()
    ]


def calls(model: Prepared, grid: Grid) -> Iterator[tuple[str, int, Call]]:
    """Every method for every cell, with the name of its row in the table and the number of the right cell."""
    for name, (method, given) in VARIANTS.items():
        if METHODS[method].refuses(model.card):
            continue
        parameters = bind(METHODS[method].function, given)
        if METHODS[method].default_layer:
            parameters["layer"] = model.card.grad_cam_layer
        for right, label in enumerate(grid.labels):
            yield name, right, Call(method, parameters, Target(label=label))
            if name in CONTRASTED:
                terms = [(Target(label=each), 1.0 if each == label else -1 / (CELLS - 1)) for each in grid.labels]
                yield f"{name}, contrast", right, Call(method, parameters, Contrast(tuple(terms)))


def maps(model: Prepared, grid: Grid, wanted: Sequence[Call]) -> list[np.ndarray]:
    """The maps of a grid, computed by an engine as in a worker."""
    engine = Engine({model.card.name: model})
    arguments = ExplainArguments(tuple(wanted))
    engine.submit(Job("grid", model.card.name, lambda job: explain(job, grid.picture, arguments)))
    events = []
    while not engine.idle:
        events += engine.step()
    (ended,) = [event for event in events if isinstance(event, Ended)]
    if ended.error is not None:
        raise ended.error
    return [answer.values for answer in ended.result]


def cell_shares(values: np.ndarray, right: int) -> np.ndarray:
    """The share of the positive values in each cell, that of the right cell first."""
    positive = np.maximum(values.astype(np.float64), 0)
    quarters = [part.sum() for half in np.array_split(positive, 2, 0) for part in np.array_split(half, 2, 1)]
    shares = np.array(quarters) / max(sum(quarters), np.finfo(np.float64).tiny)
    return np.roll(shares, -right)


def noise(seed: int, grid: Grid) -> np.ndarray:
    """A smooth random map."""
    coarse = torch.randn(1, 1, COARSE, COARSE, generator=torch.Generator().manual_seed(seed))
    return F.interpolate(coarse, grid.picture.shape[2:], mode="bilinear", align_corners=False)[0, 0].numpy()


def costs_of(model: Prepared, rounds: int) -> list[Cost]:
    """Passes of plain rows, of rows with each rule, and of both together, in turn. The first round warms up."""
    size = (max(map(sum, MIXES)), 3, model.card.height, model.card.width)
    images = torch.rand(size, generator=torch.Generator().manual_seed(0))
    seconds: dict[tuple[str, int, int], list[float]] = defaultdict(list)  # By rule, its rows, and plain rows.
    for _ in track(range(rounds + 1), f"{model.card.name}: processor time", console=report.console, transient=True):
        for ruled, plain in MIXES:
            seconds["", 0, plain].append(pass_time(model, images, ["plain"] * plain))
            for name, rule in RULES.items():
                seconds[name, ruled, 0].append(pass_time(model, images, [rule] * ruled))
                seconds[name, ruled, plain].append(pass_time(model, images, [rule] * ruled + ["plain"] * plain))
    costs = []
    for (ruled, plain), name in product(MIXES, RULES):
        alone, both = seconds[name, ruled, 0][1:], seconds[name, ruled, plain][1:]
        usual, beside = median(seconds["", 0, plain][1:]), median(b - a for a, b in zip(alone, both, strict=True))
        times = 1000 * median(alone) / ruled, 1000 * usual / plain, 1000 * beside / plain
        costs.append(Cost(model.card.name, name, ruled, plain, *times, ratio=beside / usual))
    return costs


def pass_time(model: Prepared, images: Tensor, rules: Sequence[Rule]) -> float:
    """Processor seconds of one pass with a row for each rule."""
    queries = [Query(images[i : i + 1], logit(i), "image", rule=rule) for i, rule in enumerate(rules)]
    begun = time.process_time()
    differentiate(model, [Part(query, range(1)) for query in queries])
    return time.process_time() - begun


def pointing_table(pointed: Sequence[Pointed]) -> Table:
    """One line for each network and method."""
    made = report.table("Positive values in the right cell", ["model", "method"], ["cells", "share", "won", "goal"])
    for each in pointed:
        goal = "" if each.goal is None else f"{each.goal:.2f}"
        made.add_row(each.model, each.method, str(each.cells), f"{each.share:.3f}", f"{each.won:.2f}", goal)
    return made


def cost_table(costs: Sequence[Cost]) -> Table:
    """One line for each network and rule."""
    columns = ["rows, plain", "ms alone", "a plain row", "a plain row beside", "ratio"]
    made = report.table("Processor time of backward rules", ["model", "rule"], columns)
    for each in costs:
        times = [f"{value:.1f}" for value in (each.alone, each.plain_alone, each.plain_beside)]
        made.add_row(each.model, each.rule, f"{each.ruled}, {each.plain}", *times, f"{each.ratio:.2f}")
    return made


if __name__ == "__main__":
    if any(os.environ.get(name) != value for name, value in WORKERS_ENVIRONMENT.items()):
        # The C library reads them when a process starts, so that this one begins anew with what workers have.
        command = [sys.executable, "-m", "tests.bench.pointing", *sys.argv[1:]]
        os.execve(sys.executable, command, os.environ | WORKERS_ENVIRONMENT)
    typer.run(main)
