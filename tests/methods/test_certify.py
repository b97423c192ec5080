"""Certify: bounds beside scipy's, radii beside those of networks whose true radius is known, and what is asked."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import beta, binomtest, norm

from gradserve_server.engine.job import Job
from gradserve_server.engine.query import Answer, Query
from gradserve_server.methods.certify import Smoothed, SmoothingArguments, certify, lower_bound

X = torch.rand(1, 3, 6, 8, generator=torch.Generator().manual_seed(0))
WEIGHT = torch.randn(3 * 6 * 8, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(("successes", "trials"), [(0, 10), (1, 10), (9, 10), (10, 10), (990, 1000), (70_000, 100_000)])
@pytest.mark.parametrize("alpha", [0.001, 0.05, 0.4])
def test_the_bound_is_that_of_scipy(successes: int, trials: int, alpha: float) -> None:
    exact = binomtest(successes, trials, alternative="greater").proportion_ci(1 - alpha, "exact").low
    assert lower_bound(successes, trials, alpha) == pytest.approx(exact, rel=1e-9)
    if successes:
        quantile = beta.ppf(alpha, successes, trials - successes + 1)
        assert lower_bound(successes, trials, alpha) == pytest.approx(quantile, rel=1e-9)


def linear(margin: float) -> tuple[torch.Tensor, float]:
    """Weights of length 1, and a bias with which X lies at this distance from the plane between two classes."""
    weight = WEIGHT / WEIGHT.norm()
    return weight, margin - float(weight @ X.flatten())


def asked(arguments: SmoothingArguments, margin: float, seed: int = 0, chunk: int = 32) -> tuple[Smoothed, list[Query]]:
    """What Certify gives on a linear network of two classes, and what it asked."""
    weight, bias = linear(margin)
    job = Job("job", "model", lambda job: certify(job, X, arguments), seed=seed, chunk=chunk)
    steps, queries = job.begin(job), []
    query = next(steps)
    while True:
        queries.append(query)
        score = query.images.flatten(1) @ weight + bias
        logits = torch.stack([score, -score], 1)
        try:
            query = steps.send(Answer(logits, None, None, (), ()))
        except StopIteration as stop:
            return stop.value, queries


@pytest.mark.parametrize("margin", [0.02, 0.1, 0.3, -0.2])
@pytest.mark.parametrize("sigma", [0.12, 0.25, 1.0])
def test_the_radius_of_a_linear_network_is_proven_and_nearly_its_distance(margin: float, sigma: float) -> None:
    """A half-space has the radius of its distance (Cohen et al. 2019, section 3.1), whatever the noise."""
    found, _ = asked(SmoothingArguments(sigma=sigma, samples=5000), margin)
    chance = float(norm.cdf(abs(margin) / sigma))
    predicted = int(margin < 0)
    assert found.counts.sum() == 5000
    assert abs(found.counts[predicted] / 5000 - chance) < 4 * math.sqrt(chance * (1 - chance) / 5000) + 1e-9
    assert found.radius <= abs(margin)
    assert found.candidate == predicted or found.abstains, "a hundred samples may choose another class, never prove it"
    assert found.abstains == (found.radius == 0)
    if not found.abstains:
        assert found.radius == pytest.approx(sigma * norm.ppf(found.lower_bound), rel=1e-9)
        assert found.radius > abs(margin) - 0.2 * sigma


def test_parts_change_nothing_and_seeds_do() -> None:
    arguments = SmoothingArguments(selection_samples=10, samples=90)
    whole, queries = asked(arguments, 0.05, chunk=1000)
    parts, more = asked(arguments, 0.05, chunk=7)
    assert (whole.selection.tolist(), whole.counts.tolist()) == (parts.selection.tolist(), parts.counts.tolist())
    assert (whole.selection.sum(), whole.counts.sum()) == (10, 90)
    assert (len(queries), len(more)) == (2, 1 + math.ceil(100 / 7))
    other, others = asked(arguments, 0.05, seed=1, chunk=1000)
    assert not torch.equal(queries[1].images, others[1].images)
    assert other.candidate == whole.candidate


def test_the_noise_is_gaussian_not_clipped_and_needs_no_gradient() -> None:
    _, (plain, noisy) = asked(SmoothingArguments(sigma=0.5, selection_samples=200, samples=800), 1.0, chunk=1000)
    assert torch.equal(plain.images, X)
    assert noisy.wrt == "nothing"
    noise = (noisy.images - X).double()
    assert noise.shape == (1000, 3, 6, 8)
    assert float(noise.mean()) == pytest.approx(0, abs=0.01)
    assert float(noise.std()) == pytest.approx(0.5, rel=0.01)
    assert noisy.images.min() < -0.5
    assert noisy.images.max() > 1.5


def test_the_class_is_chosen_by_the_first_samples_alone() -> None:
    """A class that only the counted samples prefer is no candidate, as the bound would not hold for it."""
    arguments = SmoothingArguments(selection_samples=3, samples=500)
    for seed in range(200):
        found, _ = asked(arguments, 0.02, seed=seed)
        if found.selection[1] > found.selection[0]:
            break
    assert found.candidate == 1
    assert found.counts[0] > found.counts[1]
    assert found.abstains
    assert found.radius == 0


@pytest.mark.parametrize("seed", range(3))
def test_few_samples_abstain(seed: int) -> None:
    found, _ = asked(SmoothingArguments(samples=9), 5.0, seed=seed)
    assert found.counts.tolist() == [9, 0]
    assert found.abstains
    assert found.lower_bound == pytest.approx(0.001 ** (1 / 9))
    proven, _ = asked(SmoothingArguments(samples=10), 5.0, seed=seed)
    assert not proven.abstains
    assert np.isfinite(proven.radius)
