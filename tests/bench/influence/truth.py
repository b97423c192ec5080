"""What is to be predicted: small networks trained again and again, and kept on disk."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn

COUNT, TESTS = 1000, 200


class SmallCnn(nn.Module):
    """conv8 - pool - conv16 - pool - fc48 - fc10 on one channel, 4858 parameters, no BatchNorm."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(8, 16, 3, padding=1)
        self.fc1, self.fc2 = nn.Linear(64, 48), nn.Linear(48, 10)

    def forward(self, x: Tensor) -> Tensor:
        """[N, 3, 8, 8], three equal channels as the service sends them -> [N, 10]."""
        x = F.max_pool2d(F.relu(self.conv1(x[:, :1])), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        return self.fc2(F.relu(self.fc1(x.flatten(1))))


@dataclass(frozen=True)
class Recipe:
    """How a network is trained: SGD with momentum 0.9, cosine from `rate`, L2 as weight decay."""

    epochs: int = 80
    rate: float = 0.05
    weight_decay: float = 1e-3
    batch: int = 50


def pictures() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Training images [1000, 1, 8, 8] in [0, 1] in levels of bytes, test images [200], and their labels."""
    data = load_digits()
    order = np.random.default_rng(0).permutation(len(data.data))
    x = torch.from_numpy((data.images / 16 * 255).round()).float()[:, None][order] / 255
    y = torch.from_numpy(data.target)[order]
    ends = COUNT, COUNT + TESTS
    return x[: ends[0]], x[ends[0] : ends[1]], y[: ends[0]], y[ends[0] : ends[1]]


def trained(
    x: Tensor,
    y: Tensor,
    seed: int,
    recipe: Recipe,
    after: Callable[[int, SmallCnn], None] = lambda epoch, network: None,
) -> SmallCnn:
    """A network trained from its own start in its own order; `after` is called after each epoch."""
    torch.manual_seed(seed)
    network = SmallCnn().train()
    steps = recipe.epochs * -(-len(x) // recipe.batch)
    decay, rate = recipe.weight_decay, recipe.rate
    optimiser = torch.optim.SGD(network.parameters(), lr=rate, momentum=0.9, weight_decay=decay, foreach=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for epoch in range(recipe.epochs):
        for rows in torch.randperm(len(x)).split(recipe.batch):
            optimiser.zero_grad()
            F.cross_entropy(network(x[rows]), y[rows]).backward()
            optimiser.step()
            schedule.step()
        after(epoch + 1, network)
    return network.eval()


def margins(network: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """log p_y - log(1 - p_y) of each image."""
    with torch.no_grad():
        logits = network(x).double()
    own = logits.gather(1, y[:, None])[:, 0]
    return own - logits.scatter(1, y[:, None], -torch.inf).logsumexp(1)


class Retrained:
    """Networks trained on subsets, by the margins of the test images; each is trained once and kept in `folder`."""

    def __init__(self, folder: Path, recipe: Recipe = Recipe()) -> None:
        self.folder, self.recipe = folder, recipe
        folder.mkdir(parents=True, exist_ok=True)
        self.x, self.x_test, self.y, self.y_test = pictures()

    def margins(self, rows: Sequence[int], seed: int) -> np.ndarray:
        """[200], of a network trained on these rows alone."""
        path = self._path("margins", rows, seed, "npy")
        if not path.exists():
            network = trained(self.x[list(rows)], self.y[list(rows)], seed, self.recipe)
            np.save(path, margins(network, self.x_test, self.y_test).numpy())
        return np.load(path)

    def network(self, seed: int, labels: Tensor | None = None) -> SmallCnn:
        """Trained on all rows, perhaps with other labels."""
        y = self.y if labels is None else labels
        path = self._path("network", y.tolist(), seed, "pt")
        if not path.exists():
            torch.save(trained(self.x, y, seed, self.recipe).state_dict(), path)
        network = SmallCnn()
        network.load_state_dict(torch.load(path, weights_only=True))
        return network.eval()

    def checkpoints(self, seed: int, count: int = 5) -> list[SmallCnn]:
        """Of the training on all rows, evenly apart; the last is the result."""
        paths = [self._path(f"checkpoint {i}", self.y.tolist(), seed, "pt") for i in range(1, count + 1)]
        if not all(path.exists() for path in paths):
            every = self.recipe.epochs // count

            def keep(epoch: int, network: SmallCnn) -> None:
                if epoch % every == 0:
                    torch.save(network.state_dict(), paths[epoch // every - 1])

            trained(self.x, self.y, seed, self.recipe, keep)
        networks = [SmallCnn() for _ in paths]
        for network, path in zip(networks, paths, strict=True):
            network.load_state_dict(torch.load(path, weights_only=True))
        return [network.eval() for network in networks]

    def _path(self, kind: str, rows: Sequence[int], seed: int, ending: str) -> Path:
        what = f"{kind} {asdict(self.recipe)} {list(rows)} {seed}"
        return self.folder / f"{hashlib.sha256(what.encode()).hexdigest()[:24]}.{ending}"


def half_subsets(labels: Tensor, count: int) -> list[list[int]]:
    """Random halves with as many examples of each class as the whole has, so that class counts tell nothing."""
    rng = np.random.default_rng(1)
    halves = []
    for _ in range(count):
        parts = [rng.permutation(np.flatnonzero(labels.numpy() == c)) for c in range(10)]
        halves.append(sorted(int(row) for part in parts for row in part[: len(part) // 2]))
    return halves
