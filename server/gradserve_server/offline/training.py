"""Training: a last layer to convergence, or all weights for some epochs."""

import torch
import torch.nn.functional as F
from torch import Tensor

from ..methods.indexes.sources import Examples, Report
from ..models.prepared import Prepared
from ..models.preprocess import to_batch

MAX_GRADIENT = 1e-9  # A regression has converged where no entry of its gradient is larger.
MAX_STEPS = 20_000
# Features are scaled to this mean squared norm, so that a weight decay means the same for every network.
SQUARED_NORM = 16.0
BATCH_ROWS = 32
MOMENTUM = 0.9


def scale_of(features: Tensor) -> float:
    """What features [N, D] are multiplied by for a mean squared norm of SQUARED_NORM."""
    return float((SQUARED_NORM / features.square().sum(1).mean().clamp_min(1e-30)).sqrt())


def head(features: Tensor, labels: Tensor, classes: int, weight_decay: float) -> tuple[Tensor, float]:
    """Weights [C, D + 1] for features as they are, and the scale at which they were decayed."""
    scale = scale_of(features)
    theta = logistic_regression(features * scale, labels, classes, weight_decay)
    return torch.cat([theta[:, :-1] * scale, theta[:, -1:]], 1), scale


def logistic_regression(features: Tensor, labels: Tensor, classes: int, weight_decay: float) -> Tensor:
    """argmin of mean cross-entropy + weight_decay / 2 |theta|^2, float64: [N, D], [N] -> [C, D + 1], bias last."""
    h = torch.cat([features, torch.ones(len(features), 1, dtype=features.dtype)], 1)
    theta = torch.zeros(classes, h.shape[1], dtype=torch.float64, requires_grad=True)
    solver = torch.optim.LBFGS(
        [theta],
        max_iter=MAX_STEPS,
        max_eval=2 * MAX_STEPS,
        tolerance_grad=MAX_GRADIENT,
        tolerance_change=0.0,
        history_size=50,
        line_search_fn="strong_wolfe",
    )

    def objective() -> Tensor:
        solver.zero_grad()
        loss: Tensor = F.cross_entropy(h @ theta.T, labels) + weight_decay / 2 * theta.square().sum()
        loss.backward()
        return loss

    solver.step(objective)
    return theta.detach()


def descend(
    model: Prepared, examples: Examples, epochs: int, rate: float, weight_decay: float, seed: int, report: Report
) -> None:
    """SGD on all weights, cosine from `rate`, BatchNorm as in eval mode; changes the network in place."""
    weights = [parameter.requires_grad_(True) for parameter in model.network.parameters()]
    steps = epochs * -(-len(examples) // BATCH_ROWS)
    optimiser = torch.optim.SGD(weights, lr=rate, momentum=MOMENTUM, weight_decay=weight_decay)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    generator = torch.Generator().manual_seed(seed)
    report("training", 0, steps)
    for _ in range(epochs):
        for rows in torch.randperm(len(examples), generator=generator).split(BATCH_ROWS):
            images = to_batch(examples.images(rows.tolist()), model.device, model.dtype)
            labels = torch.from_numpy(examples.labels(rows.tolist())).to(model.device)
            loss = F.cross_entropy(model(images), labels)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            report("training", schedule.last_epoch, steps)
    for parameter in weights:
        parameter.requires_grad_(False)
