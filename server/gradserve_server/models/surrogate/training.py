"""Training a surrogate on the answers of the model that it stands for."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from ..card import HeadKind
from ..preprocess import to_batch
from .network import surrogate

Pixels = np.ndarray[Any, np.dtype[np.uint8]]
Scores = np.ndarray[Any, np.dtype[np.float32]]
MEAN, STD = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)
BUILDER = "gradserve_server.models.surrogate:surrogate"
WARM_UP = 0.2  # The share of the steps in which the learning rate rises.


@dataclass(frozen=True)
class TrainingSettings:
    """How to train. `temperature` softens both sides' scores (Hinton et al. 2015)."""

    epochs: int = 30
    batch: int = 64
    rate: float = 0.1
    weight_decay: float = 5e-4
    temperature: float = 3.0
    mirror: bool = True
    held_out: float = 0.1
    seed: int = 0


@dataclass(frozen=True)
class Trained:
    """A surrogate, and the share of held-out pictures on which it names the class that its model names.

    Under a binary or multilabel head: the share of its answers, label by label, that are its model's.
    """

    network: nn.Module
    arguments: dict[str, int]
    agreement: float
    held_out: int

    def save(self, path: Path) -> None:
        """Writes the weights as .safetensors."""
        save_file({name: value.contiguous() for name, value in self.network.state_dict().items()}, path)


def train(
    images: Pixels,
    scores: Scores,
    settings: TrainingSettings = TrainingSettings(),
    on_step: Callable[[int], None] = lambda steps: None,
    head: HeadKind = "softmax",
) -> Trained:
    """Trains on images [N, H, W, 3] and the answers to them, logits [N, classes] (or log-probabilities, of a softmax).

    The surrogate has the model's `head`: of a binary one it learns the second class's logit, its single output.

    The same seed gives the same surrogate on the same machine. `on_step` gets 1 after every step; there are steps(...).
    """
    scores = scores[:, 1:] if head == "binary" else scores
    rng = np.random.default_rng(settings.seed)
    order = rng.permutation(len(images))
    held, taught = np.split(order, [max(1, round(settings.held_out * len(images)))])
    arguments = {"classes": scores.shape[1], "stride": stem_stride(min(images.shape[1:3]))}
    torch.manual_seed(settings.seed)
    network = surrogate(**arguments).to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.SGD(network.parameters(), lr=settings.rate, momentum=0.9, nesterov=True,
                                weight_decay=settings.weight_decay)  # fmt: skip
    total = steps(len(images), settings)
    for step in range(total):
        for group in optimizer.param_groups:
            group["lr"] = settings.rate * one_cycle(step / total)
        chosen = rng.choice(taught, min(settings.batch, len(taught)), replace=False)
        batch = shifted(images[chosen], rng, settings.mirror)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = network(normalised(batch)).float()
        loss = distance(logits, torch.from_numpy(scores[chosen]), settings.temperature, head)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        on_step(1)
    network.eval().requires_grad_(False)
    return Trained(network, arguments, agreement(network, images[held], scores[held], head), len(held))


def steps(count: int, settings: TrainingSettings) -> int:
    """How many steps the training on so many pictures takes."""
    taught = count - max(1, round(settings.held_out * count))
    return settings.epochs * max(1, taught // settings.batch)


def stem_stride(side: int) -> int:
    """The first convolution's stride: it leaves 56 pixels or fewer, as long as 4 will do."""
    return 1 if side <= 56 else 2 if side <= 112 else 4


def one_cycle(progress: float) -> float:
    """The learning rate as a share of its peak: up in a straight line, down in another (Smith 2018)."""
    return min((progress + 0.01) / WARM_UP, (1 - progress) / (1 - WARM_UP), 1.0)


def distance(logits: Tensor, scores: Tensor, temperature: float, head: HeadKind = "softmax") -> Tensor:
    """Cross-entropy between softened answers (Hinton et al. 2015), scaled to keep its gradient's size.

    Under a binary or multilabel head it is summed over the labels.
    """
    if head != "softmax":
        chances = (scores / temperature).sigmoid()
        each = F.binary_cross_entropy_with_logits(logits / temperature, chances, reduction="none")
        return temperature**2 * each.sum(1).mean()
    wanted = (scores / temperature).softmax(1)
    return -(temperature**2) * (wanted * F.log_softmax(logits / temperature, 1)).sum(1).mean()


def shifted(images: Pixels, rng: np.random.Generator, mirror: bool) -> Pixels:
    """Copies moved by up to an eighth of the side, reflected at the border, half of them mirrored."""
    reach = max(1, images.shape[1] // 8)
    padded = np.pad(images, ((0, 0), (reach, reach), (reach, reach), (0, 0)), "reflect")
    result = np.empty_like(images)
    height, width = images.shape[1:3]
    for i, (y, x) in enumerate(rng.integers(0, 2 * reach + 1, (len(images), 2))):
        part = padded[i, y : y + height, x : x + width]
        result[i] = part[:, ::-1] if mirror and rng.random() < 0.5 else part
    return result


def normalised(images: Pixels) -> Tensor:
    """[N, H, W, 3] uint8 as the network wants it: [N, 3, H, W]."""
    x = to_batch(images, torch.device("cpu"), torch.float32)
    return (x - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)


@torch.no_grad()
def agreement(network: nn.Module, images: Pixels, scores: Scores, head: HeadKind = "softmax") -> float:
    """The share of pictures on which the network's first class is that of the scores, or of labels judged alike."""
    parts = np.array_split(np.arange(len(images)), -(-len(images) // 100))
    found = np.concatenate([network(normalised(images[part])).numpy() for part in parts])
    if head != "softmax":
        return float(((found > 0) == (scores > 0)).mean())
    return float((found.argmax(1) == scores.argmax(1)).mean())
