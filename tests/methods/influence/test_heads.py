"""Influence under every head, beside the dense Gauss-Newton matrix of the head's own loss in plain autograd."""

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from zoo import off

from gradserve_server.methods.indexes.examples import ArrayExamples
from gradserve_server.methods.indexes.folder import IndexFault
from gradserve_server.methods.influence import IndexedModel, InfluenceArguments, Reweighting, influence, unfolded
from gradserve_server.methods.influence.audit import Exact
from gradserve_server.methods.influence.coverage import covered, last_linear
from gradserve_server.methods.influence.index import Index
from gradserve_server.methods.influence.indexing.build import Builder
from gradserve_server.methods.influence.indexing.plan import IndexPlan
from gradserve_server.models.card import Framing
from gradserve_server.models.catalogue import ModelSpec
from gradserve_server.models.digest import digest
from gradserve_server.models.embedded.digits.data import parts, pixels
from gradserve_server.models.loading import Source
from gradserve_server.models.preparation import prepare_source
from gradserve_server.models.prepared import Prepared

from . import small

WHOLE = IndexPlan(weight_decay=small.DECAY, size=4096, rank=4096)
LAST = IndexPlan(weight_decay=small.DECAY, last_layer_only=True)
# By name: the number of outputs, what stands at the end, the declared head.
ENDS: dict[str, tuple[int, nn.Module | None, str | None]] = {
    "one_logit": (1, None, "binary"),
    "one_sigmoid": (1, nn.Sigmoid(), None),
    "two_logits": (2, None, None),
    "softmax": (2, nn.Softmax(1), None),
    "log_softmax": (2, nn.LogSoftmax(1), None),
    "label_logits": (2, None, "multilabel"),
    "label_sigmoids": (2, nn.Sigmoid(), None),
}
ONE_LABEL = [name for name in ENDS if not name.startswith("label")]
BINARY = ["one_logit", "one_sigmoid"]


@cache
def data() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """100 training digits 3 and 8 as bytes with their labels 0 and 1, and 10 others."""
    x, x_test, y, y_test = parts()
    (ours, labels), (tests, _) = (
        (pixels(a[(b == 3) | (b == 8)]), (b[(b == 3) | (b == 8)] == 8).astype(np.int64))
        for a, b in ((x, y), (x_test, y_test))
    )
    return ours[:100], labels[:100], tests[:10]


@cache
def trained(outputs: int) -> nn.Module:
    """Scores [N, outputs] from 8x8 digits, trained by L-BFGS with weight decay, in float64."""
    torch.manual_seed(1)
    layers = [nn.Conv2d(3, 4, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(36, outputs)]
    network = nn.Sequential(*layers).double()
    x, y = small.images(data()[0]) * 2 - 1, torch.from_numpy(data()[1])
    solver = torch.optim.LBFGS(network.parameters(), max_iter=300, line_search_fn="strong_wolfe")

    def objective() -> Tensor:
        solver.zero_grad()
        loss = losses(network(x), y).mean() + small.DECAY / 2 * sum(p.square().sum() for p in network.parameters())
        loss.backward()
        return loss

    solver.step(objective)
    return network.eval().requires_grad_(False)


def losses(scores: Tensor, labels: Tensor) -> Tensor:
    """Each example's own, as its author trains it."""
    if scores.shape[1] == 1:
        return F.binary_cross_entropy_with_logits(scores[:, 0], labels.to(scores.dtype), reduction="none")
    return F.cross_entropy(scores, labels, reduction="none")


@cache
def model(name: str) -> Prepared:
    outputs, end, head = ENDS[name]
    network = nn.Sequential(*trained(outputs), *([] if end is None else [end])).eval()
    half = (0.5, 0.5, 0.5)
    source = Source(network, digest(network), ("three", "eight"), 8, 8, Framing(8, 8), "bilinear", half, half)
    spec = ModelSpec.model_validate({"name": "small", "head": head})
    return prepare_source(spec, source, torch.device("cpu"), torch.float64, fold=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, IndexPlan], Path]:
    """Builds the index of a network, once."""

    @cache
    def build(name: str, plan: IndexPlan) -> Path:
        out = tmp_path_factory.mktemp("index") / name
        Builder(model(name), ArrayExamples(data()[0], data()[1]), small.ORIGIN, plan).run(out)
        return out

    return build


def gradient(outputs: int, image: np.ndarray, number: Callable[[Tensor], Tensor]) -> Tensor:
    """Of a number of the scores by all weights, in plain torch."""
    network = trained(outputs)
    weights = [p.requires_grad_(True) for p in network.parameters()]
    try:
        value = number(network(small.images(image[None]) * 2 - 1))
        return torch.cat([g.flatten() for g in torch.autograd.grad(value, weights)])
    finally:
        network.requires_grad_(False)


@cache
def dense(outputs: int) -> tuple[Tensor, Tensor]:
    """Training gradients [N, P], and the Gauss-Newton matrix [P, P]: of one logit the mean of p (1 - p) J^T J."""
    own = zip(data()[0], torch.from_numpy(data()[1]), strict=True)
    gradients = torch.stack([gradient(outputs, a, lambda z, b=b: losses(z, b[None])[0]) for a, b in own])
    matrix = torch.zeros(gradients.shape[1], gradients.shape[1], dtype=torch.float64)
    for image in data()[0]:
        jacobian = torch.stack([gradient(outputs, image, lambda z, c=c: z[0, c]) for c in range(outputs)])
        scores = trained(outputs)(small.images(image[None]) * 2 - 1)[0]
        p = scores.sigmoid() if outputs == 1 else scores.softmax(0)
        curvature = torch.diag(p * (1 - p)) if outputs == 1 else torch.diag(p) - torch.outer(p, p)
        matrix += jacobian.T @ curvature @ jacobian
    return gradients, matrix / len(gradients)


def number_of(goal: str, label: int) -> Callable[[Tensor], Tensor]:
    """The number that is asked about, of scores [1, outputs]."""

    def number(scores: Tensor) -> Tensor:
        loss = losses(scores, torch.tensor([label]))[0]
        margin = (
            scores[0, 0] * (1 if label else -1) if scores.shape[1] == 1 else scores[0, label] - scores[0, 1 - label]
        )
        logit = margin if scores.shape[1] == 1 else scores[0, label]
        return {"loss": loss, "margin": margin, "logit": logit}[goal]

    return number


def asked(name: str, folder: Path, image: np.ndarray, **facts: Any) -> Any:
    usual = {"goal": "loss", "label": 1, "rank": 1, "top": 100, "what_if": (), "newton": False}
    served = model(name)
    members = (IndexedModel("small", str(folder), served.card.head),)
    arguments = InfluenceArguments(members, **{**usual, **facts})
    x, models = small.images(image[None]), {"small": served, unfolded("small"): served}
    return small.run(models, lambda job: influence(job, x, arguments))


def changes(found: Any) -> np.ndarray:
    """Of every row, in order; zero below the noise floor."""
    out = np.zeros(len(data()[0]))
    out[np.concatenate([found.helpful, found.harmful]).astype(int)] = found.scores
    return out


@pytest.mark.parametrize("label", [0, 1])
@pytest.mark.parametrize("goal", ["loss", "margin", "logit"])
@pytest.mark.parametrize("name", ONE_LABEL)
def test_influence_is_that_of_the_heads_own_loss(
    folder: Callable[[str, IndexPlan], Path], name: str, goal: str, label: int
) -> None:
    outputs, image = ENDS[name][0], data()[2][label]
    gradients, matrix = dense(outputs)
    place = folder(name, WHOLE)
    damping = Index(place).manifest.damping
    assert damping == pytest.approx(max(matrix.diagonal().mean().item(), small.DECAY), rel=1e-4)
    own = gradient(outputs, image, number_of(goal, label))
    truth = (gradients @ torch.linalg.solve(matrix + damping * torch.eye(len(matrix)), own) / len(gradients)).numpy()
    found = asked(name, place, image, method="projected", goal=goal, label=label)
    told = changes(found) != 0
    assert told.sum() > 40
    assert np.abs(changes(found) - truth)[told].max() < 2e-3 * np.abs(truth).max()  # The index's rows are float16.
    scores = trained(outputs)(small.images(image[None]) * 2 - 1)
    assert found.value == pytest.approx(float(number_of(goal, label)(scores)), rel=1e-5)
    chance = float((-losses(scores, torch.tensor([label]))).exp())
    assert found.probability == pytest.approx(chance, rel=1e-5)


@pytest.mark.parametrize("label", [0, 1])
@pytest.mark.parametrize("name", ONE_LABEL)
def test_the_last_layer_alone(folder: Callable[[str, IndexPlan], Path], name: str, label: int) -> None:
    """Against the Hessian of the same regression, for the weights and the bias of the Linear."""
    outputs, image = ENDS[name][0], data()[2][label]
    place = folder(name, LAST)
    manifest = Index(place).manifest
    assert manifest.methods == ("last_layer", "neighbours")
    assert manifest.head_exact
    assert manifest.head_damping == pytest.approx(small.DECAY)
    gradients, matrix = dense(outputs)
    count = outputs * 37  # The parameters of the Linear come last.
    rows, hessian = gradients[:, -count:], matrix[-count:, -count:] + small.DECAY * torch.eye(count)
    own = gradient(outputs, image, number_of("loss", label))[-count:]
    truth = (rows @ torch.linalg.solve(hessian, own) / len(rows)).numpy()
    found = asked(name, place, image, method="last_layer", label=label)
    told = changes(found) != 0
    assert told.sum() > 40
    assert np.abs(changes(found) - truth)[told].max() < 2e-3 * np.abs(truth).max()
    moved = torch.linalg.solve(hessian, rows.T).T
    columns = Index(place).columns
    assert off(columns["self_influence"].copy(), (moved * rows).sum(1)) < 1e-3
    assert off(columns["parameter_change"].copy(), moved.norm(dim=1) / len(rows)) < 1e-3


@pytest.mark.parametrize("name", BINARY)
def test_newton_steps_are_near_refits(folder: Callable[[str, IndexPlan], Path], name: str) -> None:
    """Leaving out ten examples, ten times others: Newton steps come closer to the refits than the first order does."""
    image = data()[2][3]
    groups = [tuple(range(first, 100, 10)) for first in range(10)]
    questions = tuple(Reweighting(rows, -1.0) for rows in groups)
    newton, first = (
        np.array(asked(name, folder(name, LAST), image, method="last_layer", what_if=questions, newton=each).what_if)
        for each in (True, False)
    )
    truth = np.array([change_without(rows, image) for rows in groups])
    assert np.abs(newton - truth).mean() < np.abs(first - truth).mean()
    assert np.corrcoef(newton, truth)[0, 1] > 0.95


def change_without(rows: Sequence[int], image: np.ndarray) -> float:
    """The change of the image's loss, with label 1, when the last layer is fitted without these of the 100 examples."""
    body, linear = trained(1)[:-1], trained(1)[-1]
    features, own = (body(small.images(each) * 2 - 1) for each in (data()[0], image[None]))
    kept = [i for i in range(100) if i not in rows]
    h = torch.cat([features, torch.ones(100, 1, dtype=torch.float64)], 1)
    theta = torch.cat([linear.weight[0], linear.bias])
    before = theta
    for _ in range(30):
        p = (h[kept] @ theta).sigmoid()
        slope = h[kept].T @ (p - torch.from_numpy(data()[1][kept])) / 100 + small.DECAY * theta
        curved = h[kept].T @ (h[kept] * (p * (1 - p))[:, None]) / 100 + small.DECAY * torch.eye(37)
        theta = theta - torch.linalg.solve(curved, slope)
    point = torch.cat([own[0], torch.ones(1, dtype=torch.float64)])
    return float(F.softplus(-point @ theta) - F.softplus(-point @ before))


@pytest.mark.parametrize("name", ONE_LABEL)
def test_what_is_told_of_the_examples(folder: Callable[[str, IndexPlan], Path], name: str) -> None:
    outputs = ENDS[name][0]
    scores, labels = trained(outputs)(small.images(data()[0]) * 2 - 1), torch.from_numpy(data()[1])
    columns = Index(folder(name, WHOLE)).columns
    assert off(columns["loss"].copy(), losses(scores, labels)) < 1e-5
    margins = [float(number_of("margin", int(b))(z[None])) for z, b in zip(scores, labels, strict=True)]
    assert off(columns["margin"].copy(), torch.tensor(margins)) < 1e-5
    predicted = (scores[:, 0] > 0).long() if outputs == 1 else scores.argmax(1)
    assert np.array_equal(columns["predicted"], predicted.numpy())


@pytest.mark.parametrize("name", ONE_LABEL)
def test_exact_influence_for_an_audit(name: str) -> None:
    outputs = ENDS[name][0]
    gradients, matrix = dense(outputs)
    exact = Exact(model(name), ArrayExamples(data()[0], data()[1]), 0.05, 0.0)
    direction = exact.solve(exact.gradient(data()[2][0], 1))
    own = gradient(outputs, data()[2][0], number_of("loss", 1))
    truth = gradients @ torch.linalg.solve(matrix + 0.05 * torch.eye(len(matrix)), own) / len(gradients)
    assert off(exact.scores(direction), truth) < 1e-4


@pytest.mark.parametrize("name", ENDS)
def test_the_last_linear_is_found_before_a_softmax_or_sigmoid(name: str) -> None:
    last = last_linear(covered(model(name))[0])
    assert last is not None
    assert (last.name, last.outputs) == ("3", ENDS[name][0])


@pytest.mark.parametrize("name", ["label_logits", "label_sigmoids"])
def test_independent_labels_are_refused(name: str) -> None:
    with pytest.raises(IndexFault, match=r"small has independent labels .* one label for each example"):
        Builder(model(name), ArrayExamples(data()[0], data()[1]), small.ORIGIN, WHOLE)


class SoftmaxByHand(nn.Module):
    """Whose logits are the logarithms of what it gives, and not what the last Linear gives."""

    def forward(self, x: Tensor) -> Tensor:
        return x.exp() / x.exp().sum(1, keepdim=True)


def test_logits_that_no_linear_layer_gives_have_no_influence_through_it(
    folder: Callable[[str, IndexPlan], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(ENDS, "by_hand", (2, SoftmaxByHand(), None))
    with pytest.raises(IndexFault, match=r"not what an nn.Linear gives; leave --last-layer-only out, or let them be"):
        folder("by_hand", LAST)
    assert Index(folder("by_hand", WHOLE)).manifest.methods == ("projected", "neighbours")
