"""Trains the embedded photo models: `python -m training.cifar10.train --help`."""

import json
import time
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from .data import Dataset, load_all, split
from .training import Metrics, Run, Settings, export, validate

app = typer.Typer(add_completion=False, rich_markup_mode="markdown", pretty_exceptions_enable=False)
console = Console()

DATA_HELP = (
    "Training images: an npz with `images` (or `jpeg` and `offsets`) and `labels`, or a folder of class folders. "
    "May come several times: a picture that is in two of them is taken from the later one."
)


class Journal:
    """Tells how the run goes: a bar on a terminal, lines elsewhere, and JSON lines in a file."""

    def __init__(self, path: Path, run: Run) -> None:
        self.path, self.run, self.started, self.start_step = path, run, time.monotonic(), run.step
        columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.description}"))
        self.bar = Progress(*columns, console=console, disable=not console.is_terminal)
        self.task = self.bar.add_task("", total=run.steps, completed=run.step)

    def note(self, kind: str, metrics: Metrics) -> None:
        """Writes metrics of a stretch of training (`train`) or of the held-out images (`held_out`)."""
        seconds = time.monotonic() - self.started
        epoch = self.run.step / self.run.epoch_steps
        record = {"kind": kind, "step": self.run.step, "epoch": round(epoch, 3), "seconds": round(seconds, 1)}
        with self.path.open("a") as file:
            file.write(json.dumps(record | metrics) + "\n")
        told = "  ".join(f"{k} {v:.4g}" for k, v in metrics.items())
        line = f"{kind:8} epoch {epoch:6.2f}/{self.run.settings.epochs:g}  {told}"
        self.bar.update(self.task, completed=self.run.step, description=told)
        if not console.is_terminal or kind == "held_out":
            self.bar.console.print(line, highlight=False)

    def rate(self) -> float:
        """Returns images per second since the start."""
        return (self.run.step - self.start_step) * self.run.settings.batch / (time.monotonic() - self.started)


@app.command()
def train(
    data: Annotated[list[Path], typer.Option(help=DATA_HELP)],
    out: Annotated[Path, typer.Option(help="Where the weights go (safetensors, float16).")],
    robust: Annotated[bool, typer.Option(help="Train against attacks: N-FGSM, Linf.")] = False,
    eps: Annotated[float, typer.Option(min=0, help="Size of the attacks of --robust, in 255ths.")] = 8,
    noise: Annotated[float, typer.Option(min=0, help="Noise under the attacks of --robust, in units of eps.")] = 1.0,
    epochs: Annotated[float, typer.Option(min=0.01, help="Length of the run and of its learning-rate cycle.")] = 14,
    minutes: Annotated[float | None, typer.Option(help="End the run, wherever it is, after so long.")] = None,
    batch: Annotated[int, typer.Option(min=1, help="Images per step.")] = 128,
    rate: Annotated[float, typer.Option(min=0, help="Peak of the learning rate.")] = 0.2,
    smoothing: Annotated[float, typer.Option(min=0, max=1, help="Label smoothing.")] = 0.1,
    cutout: Annotated[int, typer.Option(min=0, help="Side of the grey square in each image; 0: none.")] = 8,
    disturb: Annotated[float, typer.Option(min=0, max=1, help="Share of images re-encoded, resampled or noisy.")] = 0.5,
    held_out: Annotated[int, typer.Option(min=1, help="Training images kept for checking.")] = 500,
    seed: Annotated[int, typer.Option(min=0, help="Seed of everything random.")] = 0,
    threads: Annotated[int, typer.Option(min=1, help="Compute threads.")] = 1,
    resume: Annotated[bool, typer.Option(help="Go on from the checkpoint, if there is one.")] = False,
    checkpoint: Annotated[Path | None, typer.Option(help="Default: OUT with the ending .ckpt.")] = None,
    metrics: Annotated[Path | None, typer.Option(help="JSON lines. Default: OUT with the ending .jsonl.")] = None,
    every: Annotated[int, typer.Option(min=1, help="Steps between checkpoints.")] = 200,
    stop_after: Annotated[int | None, typer.Option(min=0, help="Stop at this step, with a checkpoint.")] = None,
) -> None:
    """Trains `cifar10`, or with --robust `cifar10-robust`, on CIFAR-10.

    The weights are an exponential average, written whenever the held-out images are named better than before. The
    run can be stopped at any time and goes on with --resume; a run that was stopped gives the same weights.
    """
    torch.set_num_threads(threads)
    settings = Settings(epochs, batch, rate, 5e-4, smoothing, cutout, disturb, robust, eps / 255, noise, seed, held_out)
    training, held = split(load_all(data), held_out, np.random.default_rng(seed))
    run = Run(settings, training)
    checkpoint = checkpoint or out.with_suffix(".ckpt")
    if resume and checkpoint.exists():
        run.restore(checkpoint)
    if minutes is not None:
        run.time(minutes)
    journal = Journal(metrics or out.with_suffix(".jsonl"), run)
    console.print(f"{len(training)} images, {run.steps} steps of {batch}, from step {run.step}", highlight=False)
    with journal.bar:
        go_on(run, held, out, checkpoint, every, stop_after, journal)


def go_on(
    run: Run, held: Dataset, out: Path, checkpoint: Path, every: int, stop_after: int | None, journal: Journal
) -> None:
    """Takes the steps that are left, or those before `stop_after`, and writes checkpoints and weights on the way."""
    for images, labels in run.batches():
        metrics = run.train_step(images, labels)
        if run.step % 50 == 0:
            journal.note("train", metrics | {"images_per_second": journal.rate()})
        if run.step == stop_after:
            return run.save(checkpoint)
        if run.step % run.epoch_steps == 0:
            check(run, held, out, journal)
        if run.step % every == 0:
            run.save(checkpoint)
    check(run, held, out, journal)
    return run.save(checkpoint)


def check(run: Run, held: Dataset, out: Path, journal: Journal) -> None:
    """Judges the averaged weights on the held-out images and writes them if they are the best so far."""
    metrics = validate(run, held)
    journal.note("held_out", metrics)
    score = metrics["clean"] + metrics["jpeg"] + 2 * metrics.get("pgd", 0.0)
    if score >= run.best:
        run.best = score
        export(run.ema, out)


if __name__ == "__main__":
    app()
