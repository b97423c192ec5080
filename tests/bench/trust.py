"""Are noise and good maps told apart by trust, and which methods ignore the weights? On real photos and weights.

`python -m tests.bench.trust --help`
"""

import csv
from collections import defaultdict
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
from torch import Tensor

from gradserve.v1 import common_pb2 as pb
from gradserve_server.api.pictures.images import decode, preprocess
from gradserve_server.config import LimitSettings
from gradserve_server.engine.engine import Engine
from gradserve_server.engine.events import Ended
from gradserve_server.engine.job import Job, Steps
from gradserve_server.engine.objective import logit
from gradserve_server.methods.explain import METHODS, Call, ExplainArguments, Explained, Target, explain
from gradserve_server.methods.explain.judging import Answered, judge
from gradserve_server.methods.explain.sanity import (
    MAX_CORRELATION,
    natural_pictures,
    shuffled_correlation,
    tried_parameters,
)
from gradserve_server.methods.explain.trust import MASKS, Judgement
from gradserve_server.methods.parameters import bind
from gradserve_server.models.catalogue import EMBEDDED, ModelSpec
from gradserve_server.models.preparation import prepare
from gradserve_server.models.prepared import Prepared

from . import report
from .curves import random_map
from .faithfulness import DATA, MODELS, RESIZE, Data
from .pointing import SHORT, VARIANTS

JUDGED = ("smooth_grad", "guided_grad_cam", "grad_cam", "gradient")
NOISE = ("coarse noise", "pixel noise")
NOISE_DRAWS = 10  # Random maps of each kind for each photo, which cost no rows.
# The share of maps that must be flagged (noise), and of those that must not be.
FLAGGED_GOALS: Mapping[str, float] = {"coarse noise": 38 / 40, "pixel noise": 38 / 40}
UNFLAGGED_GOALS: Mapping[str, float] = {"smooth_grad": 28 / 40, "guided_grad_cam": 28 / 40}
PHOTOS_OF_A_TRIAL = 12


@dataclass(frozen=True)
class Judged:
    """One kind of map over all photos of a network."""

    model: str
    method: str
    maps: int
    chance: int  # Maps that are no better than chance.
    centre: int  # Maps that are no better than the middle of the picture.
    agreement: float  # Means over the maps.
    centre_agreement: float
    same_again: int  # Maps whose verdict was the same in a second run.
    rows: float  # Forward rows of a photo's judgement, for all maps together.

    @property
    def reached(self) -> bool | None:
        """Whether its goal is reached, if it has one."""
        flagged = (self.chance + self.centre) / self.maps
        if self.method in FLAGGED_GOALS:
            return flagged >= FLAGGED_GOALS[self.method]
        return 1 - flagged >= UNFLAGGED_GOALS[self.method] if self.method in UNFLAGGED_GOALS else None


@dataclass(frozen=True)
class Tried:
    """A method's rank correlation after the logits' weights were shuffled; that of contrasts is with signs."""

    model: str
    method: str
    generated: float
    photos: float | None
    contrast: float


def main(
    photos: Annotated[int, typer.Option(min=0, help="Photos that are judged for each network; 0 leaves it out.")] = 40,
    trials: Annotated[bool, typer.Option(help="Also the table of shuffled logits.")] = True,
    data: Data = DATA,
    as_json: report.Json = False,
    out: report.Out = None,
) -> None:
    """Verdicts on maps and on noise, over photos that the network knows; and all methods with shuffled logits.

    Example: python -m tests.bench.trust --photos 4
    """
    torch.set_num_threads(1)
    specs = [ModelSpec(name=name, weights=str(data / f"{name}-imagenet.safetensors"), resize=RESIZE) for name in MODELS]
    judged: list[Judged] = []
    tried: list[Tried] = []
    for spec in [*specs, EMBEDDED["imagenet"]]:
        model = prepare(spec, torch.device("cpu"))
        if photos and spec.name in MODELS:
            judged += verdicts(model, known_photos(model, data / "images", photos))
        if trials:
            tried += trial_table(model, known_photos(model, data / "images", PHOTOS_OF_A_TRIAL))
    document = {"trust": [asdict(each) for each in judged], "trials": [asdict(each) for each in tried]}
    report.deliver(document, [judged_table(judged), tried_table(tried)], as_json, out)


def known_photos(model: Prepared, folder: Path, count: int) -> list[tuple[int, Tensor]]:
    """The first photos whose class the network predicts, with the class: [1, 3, H, W] each."""
    with (folder / "labels.csv").open(newline="") as lines:
        rows = [(row["file"], int(row["class_index"])) for row in csv.DictReader(lines)]
    found: list[tuple[int, Tensor]] = []
    for name, label in rows:
        if len(found) < count:
            x = photo(model, folder / name)
            with torch.no_grad():
                if int(model(x).argmax()) == label:
                    found.append((label, x))
    return found


def photo(model: Prepared, path: Path) -> Tensor:
    """A photo as the model's preprocessing makes it."""
    limits = LimitSettings()
    decoded = decode(pb.Image(encoded=path.read_bytes()), limits)
    pixels, _ = preprocess(decoded, model.card, pb.PREPROCESS_MODEL_DEFAULT, limits)
    return torch.from_numpy(np.array(pixels)).permute(2, 0, 1).unsqueeze(0) / 255


def verdicts(model: Prepared, photos: Sequence[tuple[int, Tensor]]) -> list[Judged]:
    """Judges maps and noise on every photo, twice."""
    every: dict[str, list[tuple[Judgement, Judgement]]] = defaultdict(list)
    rows = []
    for number, (label, x) in enumerate(track(photos, model.card.name, console=report.console, transient=True)):
        names, maps = zip(*maps_of(model, x, label).items(), *noise(number, x.shape[-1]), strict=True)
        first, took = judgements(model, x, label, maps, chunk=32)
        again, _ = judgements(model, x, label, maps, chunk=13)
        rows.append(took)
        for name, pair in zip(names, zip(first, again, strict=True), strict=True):
            every[name].append(pair)
    return [
        Judged(
            model.card.name,
            name,
            len(pairs),
            sum(each.verdict == "no_better_than_chance" for each, _ in pairs),
            sum(each.verdict == "no_better_than_centre" for each, _ in pairs),
            mean(each.agreement for each, _ in pairs),
            mean(each.centre_agreement for each, _ in pairs),
            sum(each.verdict == again.verdict for each, again in pairs),
            mean(rows),
        )
        for name, pairs in every.items()
    ]


def maps_of(model: Prepared, x: Tensor, label: int) -> dict[str, np.ndarray]:
    """The maps of the methods that are judged, with their defaults."""
    calls = tuple(Call(name, parameters_of(model, name, {}), Target(label=label)) for name in JUDGED)
    results: list[Explained] = run(model, lambda job: explain(job, x, ExplainArguments(calls)), 32).result
    return {name: each.values for name, each in zip(JUDGED, results, strict=True)}


def noise(number: int, side: int) -> Iterator[tuple[str, np.ndarray]]:
    """Random maps of a photo with their names: as smooth as Grad-CAM, and of independent pixels."""
    for seed in range(number * NOISE_DRAWS, (number + 1) * NOISE_DRAWS):
        yield NOISE[0], random_map(side, seed)
        yield NOISE[1], np.random.default_rng(seed).random((side, side))


def judgements(
    model: Prepared, x: Tensor, label: int, maps: Sequence[np.ndarray], chunk: int
) -> tuple[list[Judgement], int]:
    """Judgements of maps by one set of masked photos, and the rows that these took."""

    def steps(job: Job) -> Steps:
        answered = [Answered(None, Target(label=label), logit(label))] * len(maps)
        return (yield from judge(job, x, answered, maps, with_curves=False))

    ended = run(model, steps, chunk)
    return ended.result, ended.job.rows


def run(model: Prepared, begin: Any, chunk: int) -> Ended:
    """A job on an engine of its own, as in a worker."""
    engine = Engine({"model": model})
    engine.submit(Job("job", "model", begin, chunk=chunk))
    events = []
    while not engine.idle:
        events += engine.step()
    (ended,) = [event for event in events if isinstance(event, Ended)]
    if ended.error is not None:
        raise ended.error
    return ended


def parameters_of(model: Prepared, method: str, given: Mapping[str, object]) -> dict[str, Any]:
    """All parameters of a method."""
    parameters = bind(METHODS[method].function, given)
    if METHODS[method].default_layer:
        parameters["layer"] = model.card.grad_cam_layer
    return parameters


def trial_table(model: Prepared, photos: Sequence[tuple[int, Tensor]]) -> Iterator[Tried]:
    """Every method with shuffled logits: on the server's own pictures, on photos, and for a contrast."""
    own = natural_pictures(model.card.height, model.card.width)
    real = torch.cat([x for _, x in photos]) if photos else None
    for name, (method, given) in track(VARIANTS.items(), model.card.name, console=report.console, transient=True):
        if METHODS[method].refuses(model.card):
            continue
        parameters = tried_parameters(parameters_of(model, method, SHORT.get(method, given)))
        yield Tried(
            model.card.name,
            name,
            trial(model, method, parameters, own),
            None if real is None else trial(model, method, parameters, real),
            trial(model, method, parameters, own, contrast=True),
        )


def trial(
    model: Prepared, method: str, parameters: Mapping[str, Any], images: Tensor, *, contrast: bool = False
) -> float:
    """What a trial of the method finds on these pictures."""
    layer, function = model.card.logits_layer, METHODS[method].function
    begin = lambda job: shuffled_correlation(job, images, layer, function, parameters, contrast=contrast)  # noqa: E731
    return float(run(model, begin, 32).result)


def judged_table(judged: Sequence[Judged]) -> Table:
    """One line for each network and kind of map."""
    columns = ["maps", "chance", "middle", "unflagged", "agreement", "middle's", "same again", "rows", "goal"]
    made = report.table(f"Verdicts by {MASKS} half-masks", ["model", "map"], columns)
    for each in judged:
        counts = (each.maps, each.chance, each.centre, each.maps - each.chance - each.centre)
        figures = f"{each.agreement:.2f}", f"{each.centre_agreement:.2f}", str(each.same_again), f"{each.rows:.0f}"
        goal = "" if each.reached is None else "[green]yes[/]" if each.reached else "[red]no[/]"
        made.add_row(each.model, each.method, *map(str, counts), *figures, goal)
    return made


def tried_table(tried: Sequence[Tried]) -> Table:
    """One line for each network and method."""
    columns = ["generated pictures", f"{PHOTOS_OF_A_TRIAL} photos", "contrast", "warned"]
    made = report.table("Rank correlation of maps after the logits' weights are shuffled", ["model", "method"], columns)
    for each in tried:
        photos = "" if each.photos is None else f"{each.photos:.2f}"
        warned = "class" * (each.generated > MAX_CORRELATION), "contrast" * (each.contrast > MAX_CORRELATION)
        made.add_row(each.model, each.method, f"{each.generated:.2f}", photos, f"{each.contrast:.2f}", " ".join(warned))
    return made


if __name__ == "__main__":
    typer.run(main)
