"""Training a surrogate: its loss, its pictures, its schedule, and that it learns what its model says."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from gradserve_server.models.catalogue import ModelSpec, read_catalogue
from gradserve_server.models.loading import LoadError, load
from gradserve_server.models.surrogate import surrogate, training

BUILDER = {"name": "s", "builder": training.BUILDER, "weights": "random"}


def test_the_distance_is_least_where_both_say_the_same():
    scores = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    for temperature in (1.0, 3.0):
        logits = (scores + 7).requires_grad_()  # Logits are known up to a constant.
        (grad,) = torch.autograd.grad(training.distance(logits, scores, temperature), logits)
        assert grad.abs().max() < 1e-6
        other = torch.zeros(5, 4, requires_grad=True)
        (grad,) = torch.autograd.grad(training.distance(other, scores, temperature), other)
        wanted = temperature * (0.25 - (scores / temperature).softmax(1)) / 5
        assert torch.allclose(grad, wanted, atol=1e-6)


@pytest.mark.parametrize("head", ["binary", "multilabel"])
def test_the_distance_of_independent_labels(head):
    scores = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    for temperature in (1.0, 3.0):
        logits = torch.zeros(5, 4, requires_grad=True)
        (grad,) = torch.autograd.grad(training.distance(logits, scores, temperature, head), logits)
        assert torch.allclose(grad, temperature * (0.5 - (scores / temperature).sigmoid()) / 5, atol=1e-6)


@pytest.mark.parametrize(("head", "outputs"), [("binary", 1), ("multilabel", 3)])
def test_it_has_its_models_head(digits, head, outputs):
    images, answers = digits[0], digits[1].argmax(1)
    large = np.where(answers >= 5, 6.0, -6.0)
    columns = (
        [-large, large] if head == "binary" else [large, np.where(answers % 2, 6.0, -6.0), np.full(len(large), 6.0)]
    )
    scores = np.stack(columns, 1).astype(np.float32)
    trained = training.train(images[:600], scores[:600], training.TrainingSettings(epochs=8, mirror=False), head=head)
    assert trained.arguments["classes"] == outputs
    own = scores[:, 1:] if head == "binary" else scores
    found = trained.network(training.normalised(images[600:900])).numpy()
    assert ((found > 0) == (own[600:900] > 0)).mean() > 0.85
    assert trained.agreement > 0.85


def test_pictures_are_moved_and_mirrored_within_an_eighth():
    ramp = np.tile(np.arange(32, dtype=np.uint8), (64, 32, 1))[..., None].repeat(3, 3)
    found = training.shifted(ramp, np.random.default_rng(0), mirror=True)
    rising = found[:, 0, 10:22, 0].astype(int)
    assert found.shape == ramp.shape
    assert {tuple(np.unique(np.diff(row))) for row in rising} == {(1,), (-1,)}
    straight = rising[np.diff(rising)[:, 0] == 1]
    assert set(straight[:, 0] - 10) == set(range(-4, 5))
    assert (np.diff(training.shifted(ramp, np.random.default_rng(0), mirror=False)[:, 0, 10:22, 0]) == 1).all()


def test_the_rate_rises_and_falls():
    rates = [training.one_cycle(step / 100) for step in range(100)]
    assert max(rates) <= 1
    assert rates.index(max(rates)) in range(15, 25)
    assert rates[0] < 0.1 > rates[-1]


@pytest.mark.parametrize(("side", "stride"), [(8, 1), (32, 1), (64, 2), (224, 4)])
def test_any_size_is_taken(side, stride):
    assert training.stem_stride(side) == stride
    network = surrogate(5, stride).eval()
    assert network(torch.zeros(2, 3, side, side)).shape == (2, 5)


@pytest.fixture(scope="module")
def digits():
    """Digits, and answers to them as if from a model: sharp ones."""
    found = load_digits()
    images = (found.images[..., None] * 255 / 16).round().astype(np.uint8).repeat(3, 3)
    return images, (9 * np.eye(10, dtype=np.float32))[found.target]


def test_it_learns_what_its_model_says_and_can_be_served(digits, tmp_path):
    images, scores = digits
    settings = training.TrainingSettings(epochs=6, mirror=False, seed=1)
    told = []
    trained = training.train(images[:600], scores[:600], settings, told.append)
    assert sum(told) == training.steps(600, settings) == 6 * (540 // 64)
    assert trained.held_out == 60
    assert trained.agreement > 0.8
    assert training.agreement(trained.network, images[600:900], scores[600:900]) > 0.8
    trained.save(tmp_path / "s.safetensors")
    (tmp_path / "s.toml").write_text(
        f'[models.s]\nbuilder = "{training.BUILDER}"\nweights = "s.safetensors"\nheight = 8\nwidth = 8\n'
        "mean = [0.5, 0.5, 0.5]\nstd = [0.25, 0.25, 0.25]\narguments = { classes = 10, stride = 1 }\n"
    )
    (spec,) = read_catalogue(tmp_path / "s.toml")
    x = training.normalised(images[:50])
    assert torch.equal(load(spec).network(x), trained.network.to(memory_format=torch.contiguous_format)(x))


def test_the_same_seed_gives_the_same_surrogate(digits):
    images, scores = digits
    settings = training.TrainingSettings(epochs=1, seed=2)
    first, second = (training.train(images[:200], scores[:200], settings).network.state_dict() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_builders_of_one_s_own_take_arguments():
    built = load(ModelSpec(**BUILDER, arguments={"classes": 7})).network
    assert built(torch.zeros(1, 3, 16, 16)).shape == (1, 7)
    with pytest.raises(LoadError, match="klasses"):
        load(ModelSpec(**BUILDER, arguments={"klasses": 7}))
    with pytest.raises(ValueError, match=r"arguments.*builder of your own"):
        ModelSpec(name="resnet18", arguments={"classes": 7})
