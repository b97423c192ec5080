"""The index against the dense Gauss-Newton matrix, built by plain autograd in float64."""

from functools import cache, partial
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from zoo import off

from gradserve_server.engine.engine import Engine
from gradserve_server.engine.job import Job
from gradserve_server.methods.influence import IndexedModel, InfluenceArguments, Reweighting, influence, unfolded
from gradserve_server.methods.influence.audit import Exact, audited, rank_correlation
from gradserve_server.methods.influence.index import Index
from gradserve_server.methods.influence.indexing.build import Builder
from gradserve_server.methods.influence.indexing.plan import IndexPlan

from . import small

WHOLE = IndexPlan(weight_decay=small.DECAY, size=4096, rank=4096)  # Nothing is projected away.


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("index") / "whole"
    Builder(small.model(), small.examples(), small.ORIGIN, WHOLE).run(out)
    return out


def gradient(image: Tensor, number: object) -> Tensor:
    weights = [p.requires_grad_(True) for p in small.model().network.parameters()]
    try:
        value = number(small.model()(image[None])[0])
        return torch.cat([g.flatten() for g in torch.autograd.grad(value, weights)])
    finally:
        for weight in weights:
            weight.requires_grad_(False)


@cache
def dense() -> tuple[Tensor, Tensor]:
    """Training gradients [N, P], and the softmax Gauss-Newton matrix [P, P] without damping."""
    x, y = small.images(small.data()[0]), torch.from_numpy(small.data()[2])
    gradients = torch.stack(
        [gradient(a, lambda z, b=b: F.cross_entropy(z[None], b[None])) for a, b in zip(x, y, strict=True)]
    )
    matrix = torch.zeros(gradients.shape[1], gradients.shape[1], dtype=torch.float64)
    for image in x:
        jacobian = torch.stack([gradient(image, lambda z, c=c: z[c]) for c in range(small.CLASSES)])
        p = small.model()(image[None])[0].softmax(0)
        matrix += jacobian.T @ (torch.diag(p) - torch.outer(p, p)) @ jacobian
    return gradients, matrix / len(x)


def asked(folder: Path, image: np.ndarray, members: int = 1, **facts: object) -> object:
    facts = {
        "method": "projected",
        "goal": "margin",
        "label": 1,
        "rank": 1,
        "top": 120,
        "what_if": (),
        "newton": False,
        **facts,
    }
    x = small.images(image[None])
    models = {"small": small.model(), unfolded("small"): small.model()}
    arguments = InfluenceArguments((IndexedModel("small", str(folder)),) * members, **facts)
    return small.run(models, lambda job: influence(job, x, arguments))


def changes(folder: Path, image: np.ndarray, **facts: object) -> np.ndarray:
    """Of every row, in order."""
    found, out = asked(folder, image, **facts), np.zeros(120)
    out[np.concatenate([found.helpful, found.harmful]).astype(int)] = found.scores
    return out


@pytest.mark.parametrize("goal", ["loss", "margin", "logit"])
def test_without_projection_influence_is_that_of_the_dense_matrix(folder: Path, goal: str) -> None:
    gradients, matrix = dense()
    damping = max(matrix.diagonal().mean().item(), small.DECAY)
    assert Index(folder).manifest.damping == pytest.approx(damping, rel=1e-4)
    for test in range(4):
        image = small.data()[1][test]

        def number(z: Tensor) -> Tensor:
            loss = F.cross_entropy(z[None], torch.tensor([1]))
            margin = z.log_softmax(0)[1] - torch.log1p(-z.softmax(0)[1])
            return {"loss": loss, "margin": margin, "logit": z[1]}[goal]

        inverse = torch.linalg.solve(
            matrix + damping * torch.eye(len(matrix)), gradient(small.images(image[None])[0], number)
        )
        truth = (gradients @ inverse / len(gradients)).numpy()
        ours = changes(folder, image, goal=goal)
        told = ours != 0  # The others are below the noise floor.
        assert told.sum() > 60
        assert np.abs(ours - truth)[told].max() < 2e-3 * np.abs(truth).max()  # The index's rows are float16.
        assert np.corrcoef(ours, truth)[0, 1] > 0.99999


def test_exact_influence_by_conjugate_gradients_is_that_of_the_dense_matrix() -> None:
    gradients, matrix = dense()
    exact = Exact(small.model(), small.examples(), 0.05, 0.0)
    direction = exact.solve(exact.gradient(small.data()[1][0], 1))
    own = gradient(small.images(small.data()[1][:1])[0], lambda z: F.cross_entropy(z[None], torch.tensor([1])))
    truth = gradients @ torch.linalg.solve(matrix + 0.05 * torch.eye(len(matrix)), own) / len(gradients)
    assert off(exact.scores(direction), truth) < 1e-4


def test_self_influence_and_parameter_change(folder: Path) -> None:
    gradients, matrix = dense()
    inverse = torch.linalg.inv(matrix + Index(folder).manifest.damping * torch.eye(len(matrix)))
    moved = gradients @ inverse
    columns = Index(folder).columns
    assert off(columns["self_influence"].copy(), (moved * gradients).sum(1)) < 1e-3
    assert off(columns["parameter_change"].copy(), moved.norm(dim=1) / len(moved)) < 1e-3


def test_a_projection_keeps_the_order(tmp_path: Path) -> None:
    Builder(small.model(), small.examples(), small.ORIGIN, IndexPlan(weight_decay=small.DECAY, rank=4, size=32)).run(
        tmp_path / "i"
    )
    index = Index(tmp_path / "i")
    assert index.vectors.shape == (120, 32)
    assert audited(small.model(), small.examples(), index, 6, lambda *_: None) > 0.8


def test_what_it_knows_of_the_training(folder: Path, tmp_path: Path) -> None:
    manifest = Index(folder).manifest
    assert (manifest.count, manifest.classes, manifest.coverage) == (120, 3, 1.0)
    assert manifest.stationarity < 0.05  # L-BFGS went to the end
    assert not manifest.warnings
    network = small.model().network
    try:
        moved = {name: value.clone() for name, value in network.state_dict().items()}
        network.load_state_dict({name: value / 2 for name, value in moved.items()})
        Builder(small.model(), small.examples(), small.ORIGIN, WHOLE).run(tmp_path / "far")
    finally:
        network.load_state_dict(moved)
    assert "NOT_STATIONARY" in Index(tmp_path / "far").manifest.warnings[0]


@pytest.mark.parametrize("method", ["projected", "last_layer", "neighbours"])
@pytest.mark.parametrize("members", [1, 2])
def test_a_predicted_class_is_the_same_as_naming_it(folder: Path, method: str, members: int) -> None:
    image = small.data()[1][3]
    order = small.model()(small.images(image[None]))[0].argsort(descending=True).tolist()
    for rank, label in enumerate(order, start=1):
        facts = {"method": method, "goal": "loss", "members": members}
        by_rank, by_name = (asked(folder, image, label=each, rank=rank, **facts) for each in (None, label))
        assert by_rank.label == label
        assert by_rank.value == pytest.approx(by_name.value)
        assert np.array_equal(by_rank.helpful, by_name.helpful)
        assert np.array_equal(by_rank.harmful, by_name.harmful)
        assert off(by_rank.scores, by_name.scores) < 1e-9


def test_an_ensemble_averages_its_members(folder: Path, tmp_path: Path) -> None:
    Builder(small.model(), small.examples(), small.ORIGIN, IndexPlan(weight_decay=0.5, size=64)).run(tmp_path / "other")
    image = small.data()[1][2]
    alone = [changes(path, image) for path in (folder, tmp_path / "other")]
    x = small.images(image[None])
    members = (IndexedModel("small", str(folder)), IndexedModel("small", str(tmp_path / "other")))
    what_if = (Reweighting((3, 4), 2.0),)
    arguments = InfluenceArguments(members, "projected", "margin", 1, 1, top=5, what_if=what_if, newton=False)
    models = {"small": small.model(), unfolded("small"): small.model()}
    found = small.run(models, lambda job: influence(job, x, arguments))
    mean = np.mean(alone, axis=0)
    assert off(found.scores, mean[np.concatenate([found.helpful, found.harmful])]) < 1e-5
    assert found.what_if[0] == pytest.approx(-2 * (mean[3] + mean[4]), rel=1e-4)


def test_many_callers_share_passes_and_get_what_they_would_get_alone(folder: Path) -> None:
    alone = [asked(folder, image, top=5) for image in small.data()[1][:6]]
    engine = Engine({unfolded("small"): small.model()})
    members = (IndexedModel("small", str(folder)),)
    arguments = InfluenceArguments(members, "projected", "margin", 1, 1, top=5, newton=False)
    for i, image in enumerate(small.data()[1][:6]):
        begin = partial(influence, x=small.images(image[None]), arguments=arguments)
        engine.submit(Job(str(i), unfolded("small"), begin))
    events = engine.step()
    assert [(each.rows, each.model) for each in engine.passes] == [(6, "small unfolded")]
    assert len(events) == 6
    for event in events:
        reference = alone[int(event.job.id)]
        assert np.array_equal(event.result.helpful, reference.helpful)
        assert off(event.result.scores, reference.scores) < 1e-4


def test_rank_correlation() -> None:
    rng = np.random.default_rng(0)
    a = rng.normal(size=50)
    assert rank_correlation(a, np.exp(a)) == pytest.approx(1)
    assert rank_correlation(a, -a) == pytest.approx(-1)
