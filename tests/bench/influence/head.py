"""A fine-tuned last layer, where influence is exact: predicted changes beside refits to convergence.

ResNet-20's features of 1000 CIFAR-10 photos; refits by a fixed-Hessian Newton iteration in float64, from the same
features, that shares no code with the service.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from networks import resnet20
from rich.progress import track
from rich.table import Table
from safetensors.torch import load_file
from torch import Tensor

from gradserve_server.methods.influence.coverage import covered
from gradserve_server.methods.influence.gradients import Pass
from gradserve_server.methods.influence.indexing.plan import IndexPlan
from gradserve_server.models.prepared import Prepared
from gradserve_server.offline import training
from gradserve_server.offline.finetune import with_head

from .. import report
from .estimates import changes, indexed, served

COUNT, TESTS, REMOVED, EXTREMES, GROUPS, CLASSES = 1000, 8, 150, 10, 20, 10
EXACT, OLD = 1e-10, 10  # The largest gradient after a refit, and the steps that share one Hessian.
STEPPED = 2  # Test photos for which Newton steps are taken.
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Normalised(torch.nn.Module):
    """The CIFAR network with its normalisation before it."""

    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.network = network
        self.mean, self.std = (torch.nn.Buffer(torch.tensor(v).view(3, 1, 1)) for v in (MEAN, STD))

    def forward(self, x: Tensor) -> Tensor:
        return self.network((x - self.mean) / self.std)


@dataclass(frozen=True)
class Photos:
    """Training and test photos [N, 3, 32, 32] in [0, 1], and their labels."""

    x: Tensor
    y: Tensor
    x_test: Tensor
    y_test: Tensor


def photos(data: Path) -> Photos:
    """Undamaged training photos, 100 of a class or nearly, and test photos."""

    def images(values: np.ndarray) -> Tensor:
        return torch.from_numpy(values).permute(0, 3, 1, 2).float() / 255

    with np.load(data / "cifar10-train-5000.npz") as train, np.load(data / "cifar10-test-1000.npz") as test:
        rows = np.random.default_rng(0).permutation(np.flatnonzero(train["lossless"]))[:COUNT]
        labels = torch.from_numpy(train["labels"][rows]), torch.from_numpy(test["labels"][:400])
        return Photos(images(train["images"][rows]), labels[0], images(test["images"][:400]), labels[1])


def backbone(data: Path) -> Prepared:
    """The trained ResNet-20."""
    network = resnet20()
    network.load_state_dict(load_file(data / "cifar10-resnet20.safetensors"), strict=False)
    return served(Normalised(network).eval(), 32)


def features(model: Prepared, x: Tensor) -> Tensor:
    """What goes into its last layer: [N, 64], float64."""
    layer = covered(model)[0][-1]
    return torch.cat([layer.features(Pass(model, part, [layer]).inputs[0]).double() for part in x.split(50)])


class Refits:
    """argmin of sum w_i l_i / N + decay / 2 |theta|^2 for other and other weights w, by Newton's method."""

    def __init__(self, h: Tensor, y: Tensor, decay: float, theta: Tensor) -> None:
        self.rows = torch.cat([h, torch.ones(len(h), 1, dtype=torch.float64)], 1)
        self.wanted, self.decay, self.theta = F.one_hot(y, CLASSES).double(), decay, theta
        self.factor = self._factor(theta, torch.ones(len(h), dtype=torch.float64))

    def __call__(self, weights: Tensor) -> Tensor:
        """[C, F + 1]. The Hessian is only made anew when steps with the old one do not come to the end."""
        theta, factor = self.theta, self.factor
        for step in range(1, 400):
            wrong = ((self.rows @ theta.T).softmax(1) - self.wanted) * weights[:, None]
            slope = wrong.T @ self.rows / len(self.rows) + self.decay * theta
            if slope.abs().max() < EXACT:
                return theta
            if step % OLD == 0:
                factor = self._factor(theta, weights)
            theta = theta - torch.cholesky_solve(slope.reshape(-1, 1), factor).view_as(theta)
        raise AssertionError("a refit did not converge")

    def _factor(self, theta: Tensor, weights: Tensor) -> Tensor:
        p = (self.rows @ theta.T).softmax(1)
        hessian = torch.zeros(CLASSES, self.rows.shape[1], CLASSES, self.rows.shape[1], dtype=torch.float64)
        for a in range(CLASSES):
            for b in range(a + 1):
                curved = weights * p[:, a] * (float(a == b) - p[:, b]) / len(p)
                hessian[a, :, b] = hessian[b, :, a] = self.rows.T @ (self.rows * curved[:, None])
        hessian = hessian.reshape(theta.numel(), -1)
        hessian.diagonal().add_(self.decay)
        return torch.linalg.cholesky(hessian)

    def without(self, rows: list[int]) -> Tensor:
        """The weights after removing these examples."""
        weights = torch.ones(len(self.rows), dtype=torch.float64)
        weights[rows] = 0
        return self(weights)


@dataclass(frozen=True)
class Found:
    """How well changes of test losses were predicted, over the test photos: smallest and median."""

    decay: float
    accuracy: float
    pearson: tuple[float, float]
    newton: tuple[float, float]
    slope: float  # The median of true changes over predicted ones.
    signs: float
    groups: dict[str, float]  # The median of Pearson's correlation over test photos, by the share removed.


def measure(data: Path, folder: Path, decay: float) -> Found:
    """One regularisation."""
    given, model = photos(data), backbone(data)
    h, h_test = features(model, given.x), features(model, given.x_test)
    weights, scale = training.head(h, given.y, CLASSES, decay)
    with_head(model, covered(model)[0][-1], weights)
    model = served(model.network, 32)
    place = folder / f"head-{decay:g}-scaled"
    indexed(model, given.x, given.y, place, IndexPlan(decay, last_layer_only=True, feature_scale=scale))
    h, h_test = h * scale, h_test * scale
    theta = torch.cat([weights[:, :-1] / scale, weights[:, -1:]], 1)
    logits = h_test @ theta[:, :-1].T + theta[:, -1]
    hardest = F.cross_entropy(logits, given.y_test, reduction="none").argsort(descending=True)[:TESTS]
    point, label = h_test[hardest], given.y_test[hardest]
    first, _ = changes([(model, place)], given.x_test[hardest], label, "last_layer", goal="loss")
    some = hardest[:STEPPED]
    newton = changes([(model, place)], given.x_test[some], label[:STEPPED], "last_layer", goal="loss", newton=True)[1]
    refits = Refits(h, given.y, decay, theta)

    def loss(weights: Tensor) -> np.ndarray:
        out = point @ weights[:, :-1].T + weights[:, -1]
        return F.cross_entropy(out, label, reduction="none").numpy()

    before = loss(theta)
    rng = np.random.default_rng(0)
    random = rng.permutation(COUNT)[:REMOVED]
    strongest = [np.concatenate([np.argsort(-s)[:EXTREMES], np.argsort(s)[:EXTREMES]]) for s in first]
    needed = sorted({int(row) for row in np.concatenate([random, *strongest])})
    left_out = {row: loss(refits.without([row])) - before for row in track(needed, "refits", console=report.console)}
    truth = np.array([left_out[row] for row in random]).T  # It is [tests, removed].
    pairs = list(zip(first[:, random], truth, strict=True))
    signs = [np.sign(first[t, row]) == np.sign(left_out[row][t]) for t in range(TESTS) for row in strongest[t]]
    return Found(
        decay=decay,
        accuracy=float((logits.argmax(1) == given.y_test).double().mean()),
        pearson=_least_and_median([np.corrcoef(a, b)[0, 1] for a, b in pairs]),
        newton=_least_and_median([np.corrcoef(newton[t, random], truth[t])[0, 1] for t in range(STEPPED)]),
        slope=float(np.median([a @ b / (a @ a) for a, b in pairs])),
        signs=float(np.mean(signs)),
        groups={f"{share:.0%}": _groups(first, refits, loss, before, share, rng) for share in (0.02, 0.1, 0.3)},
    )


def _groups(first: np.ndarray, refits: Refits, loss, before: np.ndarray, share: float, rng) -> float:  # type: ignore[no-untyped-def]
    """Median over test photos of Pearson's correlation over random groups."""
    groups = [rng.permutation(COUNT)[: int(share * COUNT)] for _ in range(GROUPS)]
    truth = np.array([loss(refits.without(group.tolist())) - before for group in groups])
    predicted = np.array([first[:, group].sum(1) for group in groups])
    return float(np.median([np.corrcoef(a, b)[0, 1] for a, b in zip(predicted.T, truth.T, strict=True)]))


def _least_and_median(values: list[float]) -> tuple[float, float]:
    return float(min(values)), float(np.median(values))


def table(found: list[Found]) -> Table:
    """For people."""
    title = f"Fine-tuned last layer, N = {COUNT}: {REMOVED} removals x {TESTS} hardest test photos, and random groups"
    columns = ["accuracy", "Pearson min", "median", "Newton min", "median", "true / predicted", "signs of 20"]
    made = report.table(title, ["lambda"], [*columns, *(f"groups {share}" for share in found[0].groups)])
    for each in found:
        numbers = [*each.pearson, *each.newton]
        cells = [
            f"{each.accuracy:.1%}",
            *(f"{number:.4f}" for number in numbers),
            f"{each.slope:.2f}",
            f"{each.signs:.1%}",
        ]
        made.add_row(f"{each.decay:g}", *cells, *(f"{value:.3f}" for value in each.groups.values()))
    return made
