"""Take away what helped most, train again, and see whether the prediction falls."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from rich.progress import track
from rich.table import Table

from gradserve_server.methods.influence.indexing.plan import IndexPlan

from .. import report
from . import baselines
from .estimates import changes, indexed, served
from .truth import Retrained

EPOCHS, SHARE = 40, 0.03


@dataclass(frozen=True)
class Found:
    """What removing 3 % of the training set did to the margins of test images that were right, but not by much."""

    chosen: str
    change: float
    flipped: int
    tests: int


def measure(truth: Retrained, folder: Path, tests: int, seeds: int) -> list[Found]:
    """Helpers by the index, the same class at random, and by gradient dot product.

    The images are the least sure ones of those that networks trained on everything get right: the others cannot flip.
    """
    again = Retrained(truth.folder, replace(truth.recipe, epochs=EPOCHS))
    everything = np.arange(len(truth.y))
    sure = np.mean([again.margins(everything.tolist(), 200 + s) for s in range(seeds)], axis=0)
    unsure = np.where(sure > 0, sure, np.inf).argsort()[:tests]
    before = sure[unsure]
    network = truth.network(0)
    model = served(network, 8)
    place = folder / "seed-0"
    indexed(model, truth.x, truth.y, place, IndexPlan(weight_decay=truth.recipe.weight_decay))
    x, y = truth.x_test[unsure], truth.y_test[unsure]
    count, rng = int(SHARE * len(truth.y)), np.random.default_rng(0)
    helpers = -changes([(model, place)], x, y, "projected")[0]
    dots = baselines.gradient_dot(network, truth.x, truth.y, x, y).numpy()
    same = [rng.permutation(np.flatnonzero(truth.y.numpy() == int(label))) for label in y]
    chosen = {
        "most helpful by the index": [np.argsort(-row)[:count] for row in helpers],
        "largest gradient dot product": [np.argsort(-row)[:count] for row in dots],
        "same class, at random": [rows[:count] for rows in same],
    }
    found = []
    for name, removed in chosen.items():
        after = []
        for i, rows in enumerate(track(removed, name, console=report.console)):
            kept = np.setdiff1d(everything, rows).tolist()
            after.append(np.mean([again.margins(kept, 200 + s)[unsure[i]] for s in range(seeds)]))
        change = np.array(after) - before
        found.append(Found(name, float(change.mean()), int((np.array(after) < 0).sum()), tests))
    return found


def table(found: list[Found], seeds: int) -> Table:
    """For people."""
    title = f"3 % removed, trained again {EPOCHS} epochs with {seeds} seeds: margin of test images barely right"
    made = report.table(title, ["removed"], ["mean change", "flipped"])
    for each in found:
        made.add_row(each.chosen, f"{each.change:+.2f}", f"{each.flipped} of {each.tests}")
    return made
