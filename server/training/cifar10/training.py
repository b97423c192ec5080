"""One training run: its settings, its state, its steps and its checkpoints. The command around it is in train.py."""

import copy
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from gradserve_server.models.embedded.cifar10.network import cifar10, normalize

from .adversary import FoldedTwin, noisy_fgsm, pgd
from .data import Dataset, Pixels, crop_and_flip, cut_out, disturbed, reencode, to_tensor

EMA_HORIZON = 500
WARM_UP = 0.15
CHECKED = 8 / 255  # The eps of the attack on held-out images, whatever that of the training is.
Metrics = dict[str, float]


@dataclass(frozen=True)
class Settings:
    """What a run does; the same settings and data give the same weights."""

    epochs: float = 14
    batch: int = 128
    rate: float = 0.2
    weight_decay: float = 5e-4
    smoothing: float = 0.1
    cutout: int = 8
    disturb: float = 0.5
    robust: bool = False
    eps: float = 8 / 255
    noise: float = 1.0
    seed: int = 0
    held_out: int = 500


@dataclass(frozen=True)
class Timer:
    """The clock of a run that is to end at a given time, on a machine whose speed nobody knows."""

    first: float
    started: float
    seconds: float

    def progress(self) -> float:
        """Returns how much of the run is done: `first` at the start, 1 at the end."""
        return min(1.0, self.first + (1 - self.first) * (time.monotonic() - self.started) / self.seconds)


class Run:
    """A training run that can stop after any step and go on: everything random follows from (seed, epoch or step)."""

    def __init__(self, settings: Settings, data: Dataset) -> None:
        torch.manual_seed(settings.seed)
        self.settings, self.data = settings, data
        self.model = cifar10().to(memory_format=torch.channels_last).train()
        self.ema = copy.deepcopy(self.model).eval().requires_grad_(False)
        self.twin = FoldedTwin(self.model)
        decayed = [p for p in self.model.parameters() if p.ndim > 1]
        plain = [p for p in self.model.parameters() if p.ndim <= 1]
        groups = [{"params": decayed, "weight_decay": settings.weight_decay}, {"params": plain, "weight_decay": 0.0}]
        self.optimizer = torch.optim.SGD(groups, lr=0.0, momentum=0.9, nesterov=True, foreach=True)
        self.step = 0
        self.best = -1.0
        self.timer: Timer | None = None
        self.epoch_images: tuple[int, Pixels] | None = None

    @property
    def epoch_steps(self) -> int:
        """Returns the number of steps per epoch; what does not fill a batch waits for another epoch."""
        return len(self.data) // self.settings.batch

    @property
    def steps(self) -> int:
        """Returns the number of steps of the whole run."""
        return int(self.settings.epochs * self.epoch_steps)

    @property
    def progress(self) -> float:
        """Returns how much of the run is done, 0 to 1: counted in steps, or told by the timer."""
        return self.timer.progress() if self.timer else self.step / self.steps

    def time(self, minutes: float) -> None:
        """Makes the rest of the run, its learning rates with it, last so long by the clock."""
        self.timer = Timer(self.progress, time.monotonic(), 60 * minutes)

    def batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields the batches that are left, from the present step on."""
        while self.progress < 1:
            yield self.batch(self.step)

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """Returns images [N,3,32,32] in [0, 1] and labels of a step."""
        epoch, position = divmod(step, self.epoch_steps)
        order = np.random.default_rng((self.settings.seed, epoch, 0)).permutation(len(self.data))
        index = order[position * self.settings.batch : (position + 1) * self.settings.batch]
        rng = np.random.default_rng((self.settings.seed, step, 2))
        images = crop_and_flip(self.images_of(epoch)[index], rng)
        if self.settings.cutout:
            images = cut_out(images, self.settings.cutout, rng)
        return to_tensor(images), torch.from_numpy(self.data.labels[index])

    def images_of(self, epoch: int) -> Pixels:
        """Returns all images as this epoch sees them."""
        if self.epoch_images is None or self.epoch_images[0] != epoch:
            rng = np.random.default_rng((self.settings.seed, epoch, 1))
            self.epoch_images = epoch, disturbed(self.data.images, self.settings.disturb, rng)
        return self.epoch_images[1]

    def train_step(self, images: Tensor, labels: Tensor) -> Metrics:
        """Takes one step on a batch and returns its loss and accuracy."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.settings.rate * one_cycle(self.progress)
        if self.settings.robust:
            images = self.attacked(images, labels)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = self.model(normalize(images)).float()
        loss = F.cross_entropy(logits, labels, label_smoothing=self.settings.smoothing)
        self.optimizer.zero_grad()
        torch.autograd.backward(loss)
        self.optimizer.step()
        self.step += 1
        self.average()
        return {"loss": loss.item(), "accuracy": (logits.argmax(1) == labels).float().mean().item()}

    def attacked(self, images: Tensor, labels: Tensor) -> Tensor:
        """Returns the batch after one attack; eps grows to its full size while the learning rate does."""
        eps = self.settings.eps * min(1.0, 0.25 + 0.75 * self.progress / WARM_UP)
        generator = torch.Generator().manual_seed(self.settings.seed * 1_000_003 + self.step)
        self.twin.refresh()
        return noisy_fgsm(self.twin, images, labels, eps=eps, noise=self.settings.noise * eps, generator=generator)

    @torch.no_grad()
    def average(self) -> None:
        """Moves the averaged weights and statistics towards the present ones."""
        weight = max(1 / EMA_HORIZON, 9 / (10 + self.step))
        mine = [t for t in self.ema.state_dict().values() if t.is_floating_point()]
        theirs = [t for t in self.model.state_dict().values() if t.is_floating_point()]
        torch._foreach_lerp_(mine, theirs, weight)

    def save(self, path: Path) -> None:
        """Writes a checkpoint, all or nothing."""
        state = {
            "settings": asdict(self.settings),
            "model": self.model.state_dict(),
            "ema": self.ema.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "best": self.best,
        }
        atomically(path, lambda temporary: torch.save(state, temporary))

    def restore(self, path: Path) -> None:
        """Goes on from a checkpoint; another length than before bends the learning rate from here on."""
        state: dict[str, Any] = torch.load(path, weights_only=True)
        self.model.load_state_dict(state["model"])
        self.ema.load_state_dict(state["ema"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.best = state["best"]
        self.step = state["step"]


def one_cycle(progress: float) -> float:
    """Returns the learning rate as a share of its peak: up in a straight line, down in another (Smith 2018)."""
    return min(progress / WARM_UP + 0.02, (1 - progress) / (1 - WARM_UP), 1.0)


def atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Writes a file beside the path and renames it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".partial")
    write(temporary)
    temporary.chmod(0o644)  # Files that safetensors writes are for their owner alone.
    os.replace(temporary, path)


def export(model: nn.Module, path: Path) -> None:
    """Writes the weights and statistics as float16 safetensors."""
    state = {k: v.half() if v.is_floating_point() else v for k, v in model.state_dict().items()}
    atomically(path, lambda temporary: save_file({k: v.contiguous() for k, v in state.items()}, temporary))


def load_weights(path: Path) -> nn.Module:
    """Returns the network in evaluation mode with the weights of a file."""
    model = cifar10()
    model.load_state_dict(load_file(path))
    return model.eval().requires_grad_(False).to(memory_format=torch.channels_last)


@torch.no_grad()
def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Returns the share of images in [0, 1] that the model names rightly."""
    parts = [slice(i, i + 100) for i in range(0, len(labels), 100)]
    return sum(int((model(normalize(images[p])).argmax(1) == labels[p]).sum()) for p in parts) / len(labels)


def validate(run: Run, held: Dataset) -> Metrics:
    """Returns the averaged weights' accuracies on held-out images: as they are, as JPEG, and under PGD if robust."""
    images, labels = to_tensor(held.images), torch.from_numpy(held.labels)
    jpeg = to_tensor(np.stack([reencode(image, 75) for image in held.images]))
    metrics = {"clean": accuracy(run.ema, images, labels), "jpeg": accuracy(run.ema, jpeg, labels)}
    if run.settings.robust:
        generator = torch.Generator().manual_seed(0)
        twin = FoldedTwin(run.ema)
        twin.refresh()
        hostile = pgd(twin, images, labels, eps=CHECKED, step=CHECKED / 4, steps=10, generator=generator)
        metrics["pgd"] = accuracy(run.ema, hostile, labels)
    return metrics
