"""Whether pictures of Maximize are of their classes for another network too, and whether DeepDream dreams.

`python -m tests.bench.maximize --help`
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.progress import track

from gradserve import Client, Goal

from . import report
from .makers import DATA, Address, Data, Pictures, Workers, asking, keep, opened, pixels

MADE_BY, JUDGED_BY = "mobilenet_v2", "squeezenet1_0"
# Of the classes of the photos in data/images and their like: animals, things, food, places.
CLASSES = (130, 1, 340, 323, 145, 388, 609, 805, 980, 963, 207, 949, 84, 301, 284, 76, 985, 820, 859, 251)
SURE, BEST = 0.9, 5
TOGETHER, CALLS = 4, 2  # Goals of one call, and calls at a time.
STILL = 1e-9  # A rate that moves nothing, so that the service only measures a layer.
DREAMS = (
    ("squeezenet1_0", "features.10", "style/content-tubingen.jpg"),
    ("mobilenet_v2", "features.14", "style/content-tubingen.jpg"),
    ("squeezenet1_0", "features.10", "images/n01531178_goldfinch.JPEG"),
    ("mobilenet_v2", "features.14", "images/n01531178_goldfinch.JPEG"),
)
DREAM_RATES = {"squeezenet1_0": 0.01, "mobilenet_v2": 0.015}


@dataclass(frozen=True)
class Made:
    """A picture of a class: what its own network makes of the returned bytes, and its rank for the other network."""

    preset: str
    name: str
    probability: float
    rank: int  # Among all classes, for the other network.


@dataclass(frozen=True)
class Dream:
    """How much more of a layer is in a dream than in its photo, and how it changed."""

    model: str
    layer: str
    photo: str
    rise: float
    noise_rise: float  # The rise by noise as strong as the change.
    change: float  # The root mean square, as a share of the range.
    low: float  # The share of the change's power that is in means of 8x8 pixels.
    low_single: float  # The same share with one octave of as many steps.


def maximized(
    client: Client, labels: Sequence[int], preset: str, steps: int, size: int, folder: Path | None
) -> list[Made]:
    """Pictures of classes, judged as they were returned."""
    parts = [list(labels[i : i + TOGETHER]) for i in range(0, len(labels), TOGETHER)]

    def made(part: list[int]) -> list[Made]:
        found = []
        pictures = client.maximize(part, model=MADE_BY, preset=preset, steps=steps, size=size)
        for label, each in zip(part, pictures, strict=True):
            keep(folder, f"{preset}-{label}", each.png)
            own = {score.class_index: score.probability for score in judged(client, each.png, MADE_BY)}
            ranks = [score.class_index for score in judged(client, each.png, JUDGED_BY)]
            found.append(Made(preset, each.name, own[label], ranks.index(label) + 1))
        return found

    with ThreadPoolExecutor(CALLS) as pool:
        calls = track(pool.map(made, parts), preset, total=len(parts), console=report.console)
        return [each for found in calls for each in found]


def judged(client: Client, png: bytes, model: str):
    """All classes of a returned picture, best first."""
    return client.predict(png, model=model, preprocess="as_is", top_k=1000)


def dreamt(client: Client, model: str, layer: str, photo: Path, size: int, folder: Path | None) -> Dream:
    """One dream of 10 steps in each of 4 octaves, beside noise and a single octave."""
    before = opened(photo, size)
    rate = DREAM_RATES[model]
    goal = Goal.layer(layer)
    dream = client.maximize(goal, image=before, model=model, preset="dream", rate=rate)
    single = client.maximize(goal, image=before, model=model, preset="dream", rate=rate, octaves=1, steps=40)
    keep(folder, f"dream-{model}-{photo.stem}", dream.png)
    change = (pixels(dream.png).astype(float) - before) / 255
    strength = float(np.sqrt((change**2).mean()))
    noise = np.random.default_rng(0).normal(0, strength * 255, before.shape)
    noisy = (before + noise).round().clip(0, 255).astype(np.uint8)
    at_first = measured(client, goal, model, before)
    return Dream(
        model=model,
        layer=layer,
        photo=photo.stem,
        rise=dream.value / at_first,
        noise_rise=measured(client, goal, model, noisy) / at_first,
        change=strength,
        low=low_share(change),
        low_single=low_share((pixels(single.png).astype(float) - before) / 255),
    )


def measured(client: Client, goal: Goal, model: str, image: np.ndarray) -> float:
    """The layer's mean square for a picture, which stays as it is."""
    still = client.maximize(goal, image=image, model=model, preset="plain", optimizer="ascent", rate=STILL, steps=1)
    return still.value


def low_share(change: np.ndarray, block: int = 8) -> float:
    """Power of the means of 8x8 blocks over the whole power."""
    height, width = (side // block * block for side in change.shape[:2])
    blocks = change[:height, :width].reshape(height // block, block, width // block, block, 3)
    return float((blocks.mean((1, 3)) ** 2).mean() / (change[:height, :width] ** 2).mean())


def main(
    classes: Annotated[int, typer.Option(min=0, max=len(CLASSES), help="Classes for the preset strong.")] = 20,
    control: Annotated[int, typer.Option(min=0, max=len(CLASSES), help="Classes for the preset plain.")] = 12,
    dreams: Annotated[int, typer.Option(min=0, max=len(DREAMS), help="Dreams.")] = len(DREAMS),
    steps: Annotated[int, typer.Option(min=1, help="Steps of the preset strong.")] = 256,
    size: Annotated[int, typer.Option(min=32, help="Pixels of the pictures.")] = 160,
    data: Data = DATA,
    pictures: Pictures = None,
    server: Address = None,
    workers: Workers = 2,
    as_json: report.Json = False,
    out: report.Out = None,
) -> None:
    """Pictures of classes made on mobilenet_v2 and judged by squeezenet1_0, and DeepDream on both.

    A goal: at least 19 of 20 with probability .9 on the network they were made on, 14 of 20 among the other's best
    five; plain pixels at most 1 of 12. Dreams: the layer's mean square 20 and 2.8 times as high, noise at most 1.5.
    """
    with asking(data, server, workers) as client:
        made = maximized(client, CLASSES[:classes], "strong", steps, size, pictures) if classes else []
        plain = maximized(client, CLASSES[:control], "plain", 40, size, pictures) if control else []
        found = [
            dreamt(client, model, layer, data / photo, 448, pictures)
            for model, layer, photo in track(DREAMS[:dreams], "dream", console=report.console)
        ]
    tables = [_classes(each) for each in (made, plain) if each] + ([_dreams(found)] if found else [])
    document = {"classes": [asdict(each) for each in made + plain], "dreams": [asdict(each) for each in found]}
    report.deliver(document, tables, as_json, out)


def _classes(made: list[Made]):
    sure = sum(each.probability >= SURE for each in made)
    best = sum(each.rank <= BEST for each in made)
    title = f"{made[0].preset}: {sure} of {len(made)} at least {SURE}, {best} of {len(made)} among {JUDGED_BY}'s best 5"
    table = report.table(title, ["class"], [f"{MADE_BY}'s probability", f"rank for {JUDGED_BY}"])
    for each in made:
        table.add_row(each.name, f"{each.probability:.3f}", str(each.rank))
    return table


def _dreams(found: list[Dream]):
    columns = ["rise", "of noise", "rms change", "low share", "one octave's", "ratio"]
    table = report.table("DeepDream, 448 px, 10 steps in 4 octaves", ["network", "layer", "photo"], columns)
    for each in found:
        numbers = [each.rise, each.noise_rise, each.change, each.low, each.low_single, each.low / each.low_single]
        table.add_row(each.model, each.layer, each.photo, *(f"{value:.3g}" for value in numbers))
    return table


if __name__ == "__main__":
    typer.run(main)
