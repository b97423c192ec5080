"""One label in ten is wrong: which scores of the training examples find them?"""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from rich.table import Table
from sklearn.metrics import roc_auc_score
from torch import Tensor

from gradserve_server.methods.influence.coverage import covered
from gradserve_server.methods.influence.index import Index
from gradserve_server.methods.influence.indexing.plan import IndexPlan
from gradserve_server.offline import training
from gradserve_server.offline.finetune import with_head

from .. import report
from . import baselines, head
from .estimates import indexed, served
from .truth import Recipe, Retrained

FLIPPED = 0.1


@dataclass(frozen=True)
class Found:
    """How well a score ranks flipped labels first: area under the ROC curve, precision among the first tenth."""

    model: str
    score: str
    auroc: float
    precision: float


def flipped(y: Tensor, seed: int) -> tuple[Tensor, np.ndarray]:
    """Labels of which one in ten is another class, and which those are."""
    rng = np.random.default_rng(seed)
    wrong = np.zeros(len(y), bool)
    wrong[rng.permutation(len(y))[: int(FLIPPED * len(y))]] = True
    moved = (y.numpy() + rng.integers(1, 10, len(y))) % 10
    return torch.from_numpy(np.where(wrong, moved, y.numpy())), wrong


def measure(truth: Retrained, data: Path | None, folder: Path, seeds: int) -> list[Found]:
    """The small network, once as it memorises errors and once regularised; a head on CIFAR-10 features with data."""
    found = []
    for name, decay in (("CNN, wd 1e-3 (memorises)", 1e-3), ("CNN, wd 1e-2", 1e-2)):
        results = [
            _network(truth, name, replace(truth.recipe, weight_decay=decay), seed, folder) for seed in range(seeds)
        ]
        found += _means(results)
    if data is not None:
        found += _means([_head(data, decay, seed, folder) for decay in (1e-2,) for seed in range(seeds)])
    return found


def _network(truth: Retrained, name: str, recipe: Recipe, seed: int, folder: Path) -> list[Found]:
    labels, wrong = flipped(truth.y, seed)
    network = Retrained(truth.folder, recipe).network(seed, labels)
    place = folder / f"flipped-{recipe.weight_decay:g}-{seed}"
    index = indexed(served(network, 8), truth.x, labels, place, IndexPlan(weight_decay=recipe.weight_decay))
    norms = baselines.gradients(network, truth.x, labels).norm(dim=1).numpy()
    return _scores(name, index, wrong, {"gradient norm": norms})


def _head(data: Path, decay: float, seed: int, folder: Path) -> list[Found]:
    given, model = head.photos(data), head.backbone(data)
    labels, wrong = flipped(given.y, seed)
    layer = covered(model)[0][-1]
    weights, scale = training.head(head.features(model, given.x), labels, head.CLASSES, decay)
    with_head(model, layer, weights)
    place = folder / f"flipped-head-{decay:g}-{seed}-scaled"
    plan = IndexPlan(decay, last_layer_only=True, feature_scale=scale)
    index = indexed(served(model.network, 32), given.x, labels, place, plan)
    return _scores(f"head on CIFAR-10 features, lambda {decay:g}", index, wrong, {})


def _scores(model: str, index: Index, wrong: np.ndarray, others: dict[str, np.ndarray]) -> list[Found]:
    columns = index.columns
    scores = {
        "self-influence": columns["self_influence"],
        "neighbours' disagreement": columns["disagreement"],
        "rank sum of the two": columns["suspicion"],
        "loss": columns["loss"],
        **others,
    }
    first = int(wrong.sum())
    return [
        Found(model, name, roc_auc_score(wrong, score), wrong[np.argsort(-score, kind="stable")[:first]].mean())
        for name, score in scores.items()
    ]


def _means(runs: list[list[Found]]) -> list[Found]:
    return [
        replace(
            same[0],
            auroc=float(np.mean([f.auroc for f in same])),
            precision=float(np.mean([f.precision for f in same])),
        )
        for same in zip(*runs, strict=True)
    ]


def table(found: list[Found], seeds: int) -> Table:
    """For people."""
    made = report.table(
        f"10 % of labels flipped, N = 1000, mean of {seeds} draws", ["model", "score"], ["AUROC", "precision"]
    )
    for each in found:
        made.add_row(each.model, each.score, f"{each.auroc:.3f}", f"{each.precision:.2f}")
    return made
