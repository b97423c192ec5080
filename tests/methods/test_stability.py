"""Standard errors of maps from samples, beside closed forms and the spread over seeds; and when sampling stops."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor
from zoo import inputs, off, prepared

from gradserve_server.engine.engine import Engine
from gradserve_server.engine.events import Ended
from gradserve_server.engine.job import Job, MethodContext, next_look
from gradserve_server.engine.objective import logit
from gradserve_server.methods.explain import METHODS, ExplainArguments, Explained, Target, explain
from gradserve_server.methods.explain.averages import gradient_shap, smooth_grad
from gradserve_server.methods.explain.estimates import SampleMoments, SampleSlopes
from gradserve_server.methods.explain.fits import Fit, cosine_kernel, ridge_fit, shapley_choices, shapley_fit
from gradserve_server.methods.explain.maps import Map
from gradserve_server.models.prepared import Prepared

from .runs import SMALL, answer, call, finished

SHAPE = (1, 3, 6, 8)
CURVATURE = torch.linspace(0.5, 3, 144, dtype=torch.float64).view(SHAPE)
POINT = torch.rand(SHAPE, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
NOISE = 0.5


def quadratic(images: Tensor) -> Tensor:
    """Half the weighted sum of squares, whose gradient at x is CURVATURE * x."""
    return 0.5 * (CURVATURE * images.square()).flatten(1).sum(1)


def smoothed(
    samples: int, seed: int = 0, bound: float | None = None, **parameters: object
) -> tuple[Map, MethodContext]:
    """SmoothGrad of the quadratic model: gradients are CURVATURE * (POINT + normal noise)."""
    run = MethodContext(seed=seed, until_stable=bound)
    return finished(smooth_grad(POINT, logit(0), run, samples=samples, noise=NOISE, **parameters), quadratic), run


def spread() -> float:
    """The standard deviation of the noise."""
    return float(NOISE * (POINT.max() - POINT.min()))


def relative_of_one() -> float:
    """The relative standard error of the mean of one sample, which is that of N samples times the root of N."""
    return float((CURVATURE * spread()).norm() / (CURVATURE * POINT).norm())


def test_the_error_of_smooth_grad_of_a_quadratic_model() -> None:
    ours, _ = smoothed(1000)
    assert ours.standard_error == pytest.approx(relative_of_one() / np.sqrt(1000), rel=0.02)


def test_the_error_of_squares() -> None:
    """The variance of the square of a normal variable of mean m and variance v is 4 m^2 v + 2 v^2."""
    ours, _ = smoothed(2000, statistic="square")
    mean, variance = CURVATURE * POINT, (CURVATURE * spread()).square()
    expected = (4 * mean.square() * variance + 2 * variance.square()).sum().sqrt() / (mean.square() + variance).norm()
    assert ours.standard_error == pytest.approx(float(expected) / np.sqrt(2000), rel=0.05)


def test_the_error_of_the_variance() -> None:
    """The variance of a variance of N normal samples is 2 v^2 / (N - 1)."""
    ours, _ = smoothed(2000, statistic="variance")
    assert ours.standard_error == pytest.approx(np.sqrt(2 / 1999), rel=0.05)


def test_a_linear_model_has_no_error() -> None:
    model, x = inputs("linear")
    ours = answer(model, x, "smooth_grad", Target(label=1), samples=5)
    assert ours.standard_error == pytest.approx(0, abs=1e-6)
    assert answer(model, x, "smooth_grad", Target(label=1), samples=1).standard_error is None
    assert answer(model, x, "gradient", Target(label=1)).standard_error is None


@pytest.mark.parametrize("bound", [0.2, 0.05, 0.03])
def test_sampling_stops_at_the_first_look_below_the_bound(bound: float) -> None:
    ours, run = smoothed(2000, bound=bound)
    needed = (relative_of_one() / bound) ** 2
    looks = [look for look in range(1, 2001) if next_look(look - 1) == look]
    expected = next(look for look in looks if look >= needed)
    near = min(abs(look - needed) / needed for look in looks)
    assert near > 0.01, "no look is so close that chance decides"
    assert (run.asked, run.done, run.settled) == (2000, expected, True)
    assert ours.standard_error is not None
    assert ours.standard_error <= bound
    whole, _ = smoothed(expected)
    assert off(ours.values, whole.values) < 1e-12, "it is the map of so many samples"


def test_the_looks() -> None:
    looks = [next_look(0)]
    while looks[-1] < 700:
        looks.append(next_look(looks[-1]))
    assert looks == [16, 32, 48, 64, 80, 96, 112, 128, 160, 192, 240, 288, 352, 432, 528, 656, 816]


@pytest.mark.parametrize("chunk", [1, 7, 32])
def test_where_sampling_stops_does_not_depend_on_parts(chunk: int) -> None:
    run = MethodContext(until_stable=0.05, chunk=chunk)
    ours = finished(smooth_grad(POINT, logit(0), run, samples=2000, noise=NOISE), quadratic)
    reference, whole = smoothed(2000, bound=0.05)
    assert run.done == whole.done
    assert off(ours.values, reference.values) < 1e-12


def test_the_error_of_gradient_shap_is_the_spread_over_seeds() -> None:
    """Of the quadratic model, from black: a sample is CURVATURE * place * POINT^2, with places from 0 to 1."""
    run = MethodContext(seed=1)
    ours = finished(gradient_shap(POINT, logit(0), run, samples=1500, baselines="black"), quadratic)
    expected = np.sqrt(1 / 12) / 0.5 / np.sqrt(1500)
    assert ours.standard_error == pytest.approx(expected, rel=0.05)
    assert ours.values == pytest.approx(0.5 * (CURVATURE * POINT.square())[0].sum(0), rel=0.05)


def test_moments_are_those_of_all_samples() -> None:
    samples = np.random.default_rng(0).gamma(2.0, size=(37, 5))
    moments = SampleMoments(torch.zeros(5), of_variance=True)
    for part in np.split(samples, [1, 2, 9, 30]):
        moments.add(torch.from_numpy(part))
    assert moments.mean.numpy() == pytest.approx(samples.mean(0), rel=1e-12)
    assert moments.variance.numpy() == pytest.approx(samples.var(0), rel=1e-12)
    fourth, square = stats.moment(samples, 4), samples.var(0) ** 2
    expected = np.sqrt(((fourth - square * 34 / 36) / 37).sum()) / np.linalg.norm(samples.var(0))
    assert moments.error_of_variance() == pytest.approx(expected, rel=1e-10)
    assert moments.error_of_mean() == pytest.approx(
        np.linalg.norm(stats.sem(samples)) / np.linalg.norm(samples.mean(0)), rel=1e-10
    )


# The regressions


def game(shown: np.ndarray) -> np.ndarray:
    """A score of choices of 8 segments [n, 8] that is not linear."""
    weights = np.arange(1, 9)
    return shown @ weights + 6 * shown[:, 0] * shown[:, 3] - 9 * shown[:, 1] * shown[:, 2] * shown[:, 7]


SIZES = np.full(8, 10)


def test_the_errors_of_kernel_shap_are_the_spread_over_seeds() -> None:
    fits = []
    for seed in range(200):
        choices, weights = shapley_choices(8, 120, MethodContext(seed=seed))
        fits.append(shapley_fit(choices, game(choices), weights, *game(np.array([[1] * 8, [0] * 8]))))
    values = np.stack([fit.coefficients for fit in fits])
    actual = np.sqrt(values.var(0).sum()) / np.linalg.norm(values.mean(0))
    told = np.sqrt(np.mean([fit.relative_error(SIZES) ** 2 for fit in fits]))  # type: ignore[operator]
    assert told == pytest.approx(actual, rel=0.15)
    every, weights = shapley_choices(8, 254, MethodContext())
    exact = shapley_fit(every, game(every), weights, *game(np.array([[1] * 8, [0] * 8]))).coefficients
    share = 9 / 3
    by_hand = np.arange(1, 9) + np.array([3, -share, -share, 3, 0, 0, 0, -share])
    assert exact == pytest.approx(by_hand, abs=1e-9)
    assert np.abs(values.mean(0) - exact).max() < 4 * values.std(0).max() / np.sqrt(200)


def test_the_errors_of_lime_are_the_spread_over_seeds() -> None:
    fits = []
    for seed in range(200):
        shown = np.random.default_rng(seed).random((120, 8)) < 0.5
        fits.append(ridge_fit(shown, game(shown), cosine_kernel(shown, 0.25), 1.0))
    values = np.stack([fit.coefficients for fit in fits])
    actual = np.sqrt(values.var(0).sum()) / np.linalg.norm(values.mean(0))
    told = np.sqrt(np.mean([fit.relative_error(SIZES) ** 2 for fit in fits]))  # type: ignore[operator]
    assert told == pytest.approx(actual, rel=0.15)


DIRECTIONS = np.random.default_rng(1).normal(size=(36, 24))


def saturating(shown: np.ndarray) -> np.ndarray:
    """A score of choices of 36 segments [n, 36] with interactions of all orders."""
    values: np.ndarray = np.tanh(shown @ DIRECTIONS).sum(1)
    return values


def first_stable(fit: Callable[[int], Fit], bound: float) -> np.ndarray:
    """The coefficients of 36 segments at the first look, of those up to 1000 samples, where the error is so small."""
    done = next_look(0)
    while done < 1000:
        error = fit(done).relative_error(np.ones(36))
        if error is not None and error <= bound:
            return fit(done).coefficients
        done = next_look(done)
    raise AssertionError("all samples were taken")


@pytest.mark.parametrize("bound", [0.5, 0.3])
@pytest.mark.parametrize("method", ["kernel_shap", "lime"])
def test_maps_that_are_stable_differ_between_seeds_by_about_the_bound(method: str, bound: float) -> None:
    """An error may be told below it by chance, and then ends the sampling, so that a fifth more is allowed."""
    ends, maps = saturating(np.array([[1.0] * 36, [0.0] * 36])), []
    for seed in range(25):
        if method == "kernel_shap":
            choices, weights = shapley_choices(36, 1000, MethodContext(seed=seed))
        else:
            choices = np.random.default_rng(seed).random((1000, 36)) < 0.5
            weights = cosine_kernel(choices, 0.25)
        values = saturating(choices.astype(float))

        def fit(n: int, parts: tuple[np.ndarray, ...] = (choices, values, weights)) -> Fit:
            first = [part[:n] for part in parts]
            return shapley_fit(*first, *ends) if method == "kernel_shap" else ridge_fit(*first, 0.0)

        maps.append(first_stable(fit, bound))
    spread = np.sqrt(np.var(maps, 0).sum()) / np.linalg.norm(np.mean(maps, 0))
    assert spread < 1.2 * bound


def test_choices_that_come_again_do_not_tell_errors() -> None:
    choices, weights = shapley_choices(8, 60, MethodContext(seed=0))
    ends, again = game(np.array([[1] * 8, [0] * 8])), np.tile(choices[:26], (10, 1))
    assert shapley_fit(choices, game(choices), weights, *ends).errors is not None
    few = shapley_fit(again, game(again), np.ones(260), *ends)
    assert (few.determined, few.errors) == (True, None)
    shown = np.random.default_rng(0).random((60, 8)) < 0.5
    repeated = np.tile(shown[:12], (10, 1))
    assert ridge_fit(shown, game(shown), np.ones(60), 0.0).errors is not None
    assert ridge_fit(repeated, game(repeated), np.ones(120), 0.0).errors is None
    undetermined = ridge_fit(repeated[:, [0] * 8], game(repeated), np.ones(120), 0.0)
    assert (undetermined.determined, undetermined.errors) == (False, None)


def test_sizes_of_choices_follow_the_shapley_kernel() -> None:
    choices, weights = shapley_choices(12, 4000, MethodContext(seed=3))
    assert (choices[::2] != choices[1::2]).all(), "pairs are complements"
    assert (weights == 1).all()
    sizes = np.arange(1, 12)
    chances = 1 / (sizes * (12 - sizes))
    drawn = np.bincount(choices[::2].sum(1), minlength=12)[1:]
    assert stats.chisquare(drawn, 2000 * chances / chances.sum()).pvalue > 0.001
    assert choices.mean(0) == pytest.approx(0.5, abs=1e-12)


# Masks


def test_the_slopes_of_masks_have_an_error_once_each_pixel_was_shown_and_hidden_five_times() -> None:
    """The second pixel is hidden by one mask in three alone."""
    slopes, told = SampleSlopes(torch.zeros(1, 2)), list[bool]()
    for i in range(20):
        slopes.add(torch.tensor([[i % 2, min(1, i % 3)]]), torch.tensor(float(i % 5)))
        told.append(slopes.error() is not None)
    assert told == [i >= 12 for i in range(20)], "masks 0, 3, 6, 9 and 12 hide it"
    still = SampleSlopes(torch.zeros(1, 2))
    for i in range(20):
        still.add(torch.tensor([[i % 2, 0.5]]), torch.tensor(float(i % 5)))
    assert still.error() is None, "the second pixel is never hidden more than else"
    assert still.varied


def test_masks_that_are_all_the_same_are_told_instead_of_a_map_that_is_exact() -> None:
    model, x = inputs("linear")
    ours = stable(model, x, "rise", 0.9, samples=3, grid=1, keep=0.99)
    assert not ours.values.any()
    assert ours.standard_error is None
    (warning,) = ours.warnings
    assert warning.startswith("NOT_SHOWN: all 3 masks are the same")
    assert "nearer to 0.5 than 0.99" in warning


# Through an engine

EXACT = ("smooth_grad", "kernel_shap")  # Methods whose samples say the same of a linear model.


def stable(model: Prepared, x: Tensor, method: str, bound: float | None, **parameters: object) -> Explained:
    made = call(model, method, Target(label=1), **parameters)
    engine = Engine({"model": model})
    engine.submit(Job("job", "model", lambda job: explain(job, x, ExplainArguments((made,), bound)), seed=4))
    events = [event for _ in iter(lambda: engine.idle, True) for event in engine.step() if isinstance(event, Ended)]
    assert events[0].error is None
    return events[0].result[0]


@pytest.mark.parametrize("method", [name for name, method in METHODS.items() if method.draws_samples])
def test_every_method_that_draws_samples_stops_and_tells_its_error(method: str) -> None:
    model = prepared("linear")
    x = inputs("linear")[1]
    more = {**SMALL[method], "samples": 60} | ({"noise": 0.1} if method == "gradient_shap" else {})
    whole = stable(model, x, method, None, **more)
    assert (whole.done, whole.settled) == (60, False)
    assert whole.standard_error is not None
    eager = stable(model, x, method, 1.0, **more)
    assert eager.standard_error is not None
    assert eager.standard_error <= 1
    assert eager.settled == (eager.done < 60)
    assert (whole.standard_error < 1e-5) == (method in EXACT)
    if method in EXACT:
        assert eager.done < 60
        return
    never = stable(model, x, method, 1e-6, **more)
    assert (never.done, never.settled) == (60, False)
    assert sum(text.startswith("NOT_STABLE: after all 60 samples") for text in never.warnings) == 1


@pytest.mark.parametrize(("method", "samples"), [("smooth_grad", 1), ("rise", 8), ("lime", 20), ("kernel_shap", 22)])
def test_an_error_that_cannot_be_told_is_not_taken_for_a_small_one(method: str, samples: int) -> None:
    model, x = inputs("linear")
    ours = stable(model, x, method, 0.9, **{**SMALL[method], "samples": samples})
    assert (ours.done, ours.settled, ours.standard_error) == (samples, False, None)
    assert any(text.startswith(f"NOT_STABLE: {samples} samples are too few to tell") for text in ours.warnings)
    assert not stable(model, x, "gradient", 0.9).warnings, "a method beside it that draws no samples"
