"""Linear datamodelling score (Park et al. 2023): do summed estimates rank what training on subsets really gives?

Subsets are halves with equal class counts: on other ones, knowing the labels alone already scores .26.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from rich.progress import track
from rich.table import Table
from scipy.stats import rankdata

from gradserve_server.methods.influence.indexing.plan import IndexPlan

from .. import report
from . import baselines
from .estimates import changes, indexed, served
from .truth import Retrained, SmallCnn, half_subsets


@dataclass(frozen=True)
class Score:
    """A method's score: its mean over test images, with one model and averaged over several, where that applies."""

    method: str
    alone: float
    spread: float
    ensemble: float | None


def measure(truth: Retrained, folder: Path, subsets: int, seeds: int, models: int) -> tuple[list[Score], float]:
    """The scores of all methods, and how well one seed's truth predicts another's."""
    halves = half_subsets(truth.y, subsets)
    jobs = [(half, 100 + seed) for half in halves for seed in range(seeds)]
    real = np.stack([truth.margins(half, seed) for half, seed in track(jobs, "retraining", console=report.console)])
    real = real.reshape(subsets, seeds, -1)
    masks = np.zeros((subsets, len(truth.y)))
    for mask, half in zip(masks, halves, strict=True):
        mask[half] = 1
    members = []
    for seed in range(models):
        model = served(truth.network(seed), 8)
        indexed(model, truth.x, truth.y, folder / f"seed-{seed}", IndexPlan(weight_decay=truth.recipe.weight_decay))
        members.append((model, folder / f"seed-{seed}"))

    def score(estimates: np.ndarray) -> float:
        return datamodelling(estimates, masks, real.mean(1))

    scores = []
    for method in ("projected", "last_layer"):
        found = [-changes([member], truth.x_test, truth.y_test, method)[0] for member in members]
        alone = [score(each) for each in found]
        scores.append(Score(method, float(np.mean(alone)), float(np.std(alone)), score(np.mean(found, axis=0))))
    for name, each in _baselines(truth).items():
        scores.append(Score(name, score(each.numpy()), 0.0, None))
    return scores, ranked_alike(real[:, 0], real[:, 1]) if seeds > 1 else float("nan")


def _baselines(truth: Retrained) -> dict[str, torch.Tensor]:
    network = truth.network(0)
    data = (truth.x, truth.y, truth.x_test, truth.y_test)
    with torch.no_grad():
        features, features_test = (_features(network, x) for x in (truth.x, truth.x_test))
    return {
        "gradient dot product": baselines.gradient_dot(network, *data),
        "TracInCP, 5 checkpoints": baselines.trac_in(truth.checkpoints(0), *data),
        "features' cosine, signed by label": baselines.similarity(features, features_test, truth.y, truth.y_test),
        "same class": baselines.same_class(truth.y, truth.y_test),
    }


def _features(network: SmallCnn, x: torch.Tensor) -> torch.Tensor:
    kept = []
    handle = network.fc2.register_forward_hook(lambda module, args, out: kept.append(args[0]))
    network(x)
    handle.remove()
    return kept[0]


def datamodelling(estimates: np.ndarray, masks: np.ndarray, real: np.ndarray) -> float:
    """Mean over test images of Spearman's correlation over subsets: [tests, N], [subsets, N], [subsets, tests]."""
    return ranked_alike(masks @ estimates.T, real)


def ranked_alike(predicted: np.ndarray, real: np.ndarray) -> float:
    """Mean over columns of Spearman's correlation: [subsets, tests] twice."""
    found = []
    for ours, theirs in zip(predicted.T, real.T, strict=True):
        flat = np.ptp(ours) < 1e-9 * max(1e-12, np.abs(ours).max())  # Equal predictions rank nothing.
        found.append(0.0 if flat else np.corrcoef(rankdata(ours), rankdata(theirs))[0, 1])
    return float(np.mean(found))


def table(scores: list[Score], agreement: float, subsets: int, seeds: int, models: int) -> Table:
    """For people."""
    title = (
        f"LDS, {subsets} class-balanced halves x {seeds} seeds; one seed's truth scores {agreement:.3f} on another's"
    )
    made = report.table(title, ["method"], ["one model", "spread", f"{models} models"])
    for each in scores:
        several = "" if each.ensemble is None else f"{each.ensemble:.3f}"
        made.add_row(each.method, f"{each.alone:.3f}", f"{each.spread:.3f}" if each.spread else "", several)
    return made
