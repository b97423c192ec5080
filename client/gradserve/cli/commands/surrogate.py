"""`gradserve surrogate`: a network trained from nothing but a served model's answers."""

import asyncio
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from PIL import Image

from gradserve.aio import AsyncClient
from gradserve.cli import options, output
from gradserve.cli.commands.server_package import server_module
from gradserve.datasets import Dataset, Example, Unreadable, open_dataset
from gradserve.images import Array
from gradserve.results.common import Region
from gradserve.results.models import ModelCard
from gradserve.transport.retry import PICTURE_ERRORS, TRANSIENT, RetryPolicy, about_the_picture, reason

_TRAINING = "Training"

Data = Annotated[
    Path,
    typer.Option("--data", "-d", exists=True, help="Pictures to ask about: a folder or an .npz; labels are not used."),
]
Name = Annotated[str, typer.Option("--name", help="What to call it; MODEL-surrogate if left out.")]
Out = Annotated[
    Path, typer.Option("--out", "-o", file_okay=False, help="Folder for the weights and their catalogue entry.")
]
Concurrency = Annotated[
    int, typer.Option("--concurrency", min=1, max=1024, help="Requests under way at once.", rich_help_panel="Request")
]


@dataclass(frozen=True)
class Training:
    """How the surrogate is trained."""

    epochs: Annotated[int, typer.Option("--epochs", min=1, max=1000, rich_help_panel=_TRAINING)] = 30
    rate: Annotated[
        float, typer.Option("--rate", min=0, max=10, help="Peak learning rate.", rich_help_panel=_TRAINING)
    ] = 0.1
    labels_only: Annotated[
        bool,
        typer.Option(
            "--labels-only", help="Learn from what is predicted, without its scores.", rich_help_panel=_TRAINING
        ),
    ] = False
    mirror: Annotated[
        bool, typer.Option("--mirror/--no-mirror", help="Also learn from mirrored pictures.", rich_help_panel=_TRAINING)
    ] = True


@dataclass
class Answers:
    """What the model saw, [H, W, 3] uint8 each, and its logits for it; and what could not be asked about."""

    card: ModelCard
    inputs: list[Array] = field(default_factory=list)
    scores: list[Array] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)


@options.grouped
def surrogate(
    data: Data,
    *,
    model: options.Model = "",
    out: Out = Path("surrogate"),
    name: Name = "",
    limit: options.Limit = None,
    training: Training,
    seed: options.Seed = None,
    concurrency: Concurrency = 32,
    connection: options.Connection,
    timeout: options.Timeout = options.DEFAULT_TIMEOUT,
    as_json: options.Json = False,
) -> None:
    """Train a small network on a served model's answers to your pictures, for `transfer` attacks on that model.

    It needs no weights, gradients or labels of the model (Papernot et al. 2017): what it predicts is enough. Add the
    printed entry to the catalogue of a server, then: gradserve attack photo.jpg --method transfer.

    Example: `gradserve surrogate --data pictures/ --model cifar10 --out surrogate/`
    """
    module = server_module("models.surrogate.training")
    dataset = open_dataset(data).take(limit, seed or 0)
    answers = asyncio.run(_ask_all(partial(connection.async_client, timeout), model, dataset, concurrency))
    output.warn(answers.warnings)
    if len(answers.inputs) < 2:
        raise ValueError(f"{data}: only {len(answers.inputs)} pictures were answered; that is too few to learn from")
    trained = _train(module, answers, training, seed or 0)
    called = name or f"{answers.card.name}-surrogate"
    out.mkdir(parents=True, exist_ok=True)
    trained.save(out / f"{called}.safetensors")
    entry = _entry(called, answers.card, module, trained.arguments)
    (out / f"{called}.toml").write_text(entry)
    facts = {
        "name": called,
        "model": answers.card.name,
        "weights": str(out / f"{called}.safetensors"),
        "catalogue": str(out / f"{called}.toml"),
        "answers": len(answers.scores),
        "left_out": answers.left_out,
        "held_out": trained.held_out,
        "agreement": trained.agreement,
    }
    _print(facts, entry, as_json)


def _train(module: Any, answers: Answers, training: Training, seed: int) -> Any:
    """The network trained on the answers by the server's module."""
    scores = np.stack(answers.scores)
    if training.labels_only:
        scores = _labels_alone(scores, answers.card.head)
    settings = module.TrainingSettings(epochs=training.epochs, rate=training.rate, mirror=training.mirror, seed=seed)
    with output.counter("training", module.steps(len(scores), settings)) as report:
        return module.train(np.stack(answers.inputs), scores, settings, report, answers.card.head)


def _labels_alone(scores: Array, head: str) -> Array:
    """What is predicted as logits [N, classes], so that one loss does for both: 20 or 0; where labels are independent
    20 or -20.
    """
    if head != "softmax":
        return np.where(scores > 0, 20.0, -20.0).astype(np.float32)
    return np.where(np.arange(scores.shape[1]) == scores.argmax(1)[:, None], 20.0, 0.0).astype(np.float32)


async def _ask_all(connect: Callable[[], AsyncClient], model: str, dataset: Dataset, concurrency: int) -> Answers:
    """The model's answers to all pictures, in their order."""
    places = asyncio.Semaphore(concurrency)
    async with connect() as client:
        answers = Answers(await client.model(model))
        with output.counter(f"asking {answers.card.name}", len(dataset)) as report:

            async def one(example: Example) -> tuple[Array, Array, Sequence[str]] | str:
                async with places:
                    answer = await _answer(client, answers.card, example)
                    report(1)
                    return answer

            results = await asyncio.gather(*map(one, dataset))
    for example, answer in zip(dataset, results, strict=True):
        if isinstance(answer, str):
            answers.left_out[example.id] = answer
        else:
            answers.inputs.append(answer[0])
            answers.scores.append(answer[1])
            answers.warnings += answer[2]
    return answers


async def _answer(client: AsyncClient, card: ModelCard, example: Example) -> tuple[Array, Array, Sequence[str]] | str:
    """What the model saw of a picture, its logits, and the answer's warnings; or why there are none."""
    classes = len(card.classes)
    try:
        pixels = await asyncio.to_thread(example.pixels)
        ask = partial(client.predict, example.image, model=card.name, top_k=classes, priority="batch")
        prediction = await RetryPolicy().answered(ask)
    except Unreadable as error:
        return error.reason
    except TRANSIENT as error:
        return str(error)
    except PICTURE_ERRORS as error:
        if not about_the_picture(error):
            raise
        return reason(error)
    scores = np.full(classes, -np.inf, np.float32)
    for score in prediction:
        scores[score.class_index] = score.logit
    return _as_seen(pixels, prediction.region, card.input_size), scores, prediction.provenance.warnings


def _as_seen(pixels: Array, region: Region, size: tuple[int, int]) -> Array:
    """The part of the picture that the model saw, in the size in which it saw it."""
    box = (region.x, region.y, region.x + region.width, region.y + region.height)
    return np.asarray(Image.fromarray(pixels).resize(size[::-1], Image.Resampling.BILINEAR, box=box))


def _entry(name: str, card: ModelCard, training: Any, arguments: dict[str, int]) -> str:
    """The surrogate's table in a server's catalogue."""
    height, width = card.input_size
    settings = {
        "builder": training.BUILDER,
        "weights": f"{name}.safetensors",
        "labels": list(card.classes),
        "height": height,
        "width": width,
        "mean": list(training.MEAN),
        "std": list(training.STD),
        "default_eps": card.default_eps,
        "head": card.head,
        "notes": [f"trained from the answers of {card.name}"],
    }
    inline = ", ".join(f"{key} = {value}" for key, value in arguments.items())
    lines = [f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in settings.items()]
    return "\n".join([f"[models.{json.dumps(name)}]", *lines, f"arguments = {{ {inline} }}", ""])


def _print(facts: dict[str, Any], entry: str, as_json: bool) -> None:
    if as_json:
        output.print_json(facts)
        return
    for id, why in facts["left_out"].items():
        output.err().print(f"left out: {id}: {why}", style="yellow")
    output.out().print(
        f"{facts['name']}: trained on {facts['answers']} answers of {facts['model']}; on {facts['held_out']} held-out "
        f"pictures it agrees in {facts['agreement']:.1%}\nwrote {facts['weights']} and {facts['catalogue']}"
    )
