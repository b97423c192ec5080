"""Maximize against plain torch scripts, its presets, and how it ends."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from zoo import in_double, off, pictures, prepared

from gradserve_server.engine.job import MethodContext
from gradserve_server.engine.query import Query
from gradserve_server.methods.goals import Summand
from gradserve_server.methods.maximize import PRESETS, MaximizeSettings, stretched
from gradserve_server.methods.targets import Direction, Target
from gradserve_server.models.prepared import Prepared

from .making import canvas, losses, made, maximizing, of_class, recipe, run

STEPS = 20
MIX = torch.tensor([[0.26, 0.09, 0.02], [0.27, 0.00, -0.05], [0.27, -0.09, 0.03]], dtype=torch.float64)


def fourier(spectrum: Tensor, height: int, width: int) -> Tensor:
    """Lucid's image of a spectrum, written from its description."""
    frequencies = torch.empty(height, width // 2 + 1, dtype=torch.float64)
    for i in range(height):
        for j in range(width // 2 + 1):
            down = (i if i < (height + 1) // 2 else i - height) / height
            frequencies[i, j] = max((down**2 + (j / width) ** 2) ** 0.5, 1 / max(height, width))
    scaled = torch.complex(spectrum[..., 0], spectrum[..., 1]) / frequencies
    plain = torch.fft.irfft2(scaled, s=(height, width), norm="ortho")[0] / 4
    mixed = MIX / MIX.norm(dim=0).max() @ plain.reshape(3, -1)
    return mixed.reshape(1, 3, height, width).sigmoid()


def seen(image: Tensor, how: MaximizeSettings, step: int, noise: MethodContext) -> Tensor:
    """The image as the model sees it at a step: padded, rolled, scaled and turned pixel by pixel, noisy."""
    side = min(image.shape[2:])
    down, across, scale, angle = noise.noise(2 * step + 1, torch.zeros(4), uniform=True).double() * 2 - 1
    pad, reach = round(how.pad * side), round(how.jitter * side)
    image = F.pad(image, (pad, pad, pad, pad), value=0.5)
    image = torch.roll(image, (round(down.item() * reach), round(across.item() * reach)), (2, 3))
    if how.scale or how.rotate:
        height, width = image.shape[2:]
        factor, turn = 1 + how.scale * scale, torch.deg2rad(how.rotate * angle)
        y, x = torch.meshgrid(torch.arange(height).double(), torch.arange(width).double(), indexing="ij")
        y, x = (y + 0.5 - height / 2) / factor, (x + 0.5 - width / 2) / factor
        from_y, from_x = torch.sin(turn) * x + torch.cos(turn) * y, torch.cos(turn) * x - torch.sin(turn) * y
        grid = torch.stack([from_x / (width / 2), from_y / (height / 2)], dim=-1)[None]
        image = F.grid_sample(image - 0.5, grid, align_corners=False) + 0.5
    if how.noise:
        image = image + how.noise * noise.noise(2 * step + 2, image)
    return image


def script(
    model: Prepared, label: int, height: int, width: int, how: MaximizeSettings, seed: int
) -> tuple[Tensor, Tensor]:
    """What a single user would write: the image before each step [steps, 3, H, W], and the class's score there."""
    noise = MethodContext(seed)
    if how.parameterization == "fourier":
        start = torch.zeros(1, 3, height, width // 2 + 1, 2, dtype=torch.float64)
        image_of: Callable[[Tensor], Tensor] = lambda p: fourier(p, height, width)  # noqa: E731
    else:
        start = torch.full((1, 3, height, width), 0.5, dtype=torch.float64)
        image_of = lambda p: p  # noqa: E731
    parameters = (start + how.spread * noise.noise(0, start)).clamp_(*((0, 1) if start.dim() == 4 else (None, 9)))
    parameters = parameters.requires_grad_()
    optimizer = torch.optim.Adam([parameters], lr=how.rate)
    images, scores = [], []
    for step in range(how.steps):
        image = image_of(parameters)
        score = model(seen(image, how, step, noise))[0, label]
        images.append(image.detach()[0].clone())
        scores.append(score.detach())
        loss = -score
        if how.total_variation:
            down, across = (image[:, :, 1:] - image[:, :, :-1]), (image[..., 1:] - image[..., :-1])
            loss = loss + how.total_variation * (down.abs().sum() + across.abs().sum())
        if how.l2:
            loss = loss + how.l2 * (image - 0.5).square().sum()
        optimizer.zero_grad()
        if how.optimizer == "adam":
            loss.backward()
            optimizer.step()
        else:
            (grad,) = torch.autograd.grad(loss, parameters)
            size = grad.abs().mean() if how.optimizer == "normalized_ascent" else 1.0
            parameters.data -= how.rate * grad / size
        if how.parameterization == "pixels":
            parameters.data.clamp_(0, 1)
    return torch.stack(images), torch.stack(scores)


RECIPES: dict[str, dict[str, Any]] = {
    "strong": {"preset": "strong"},
    "lucid": {"preset": "lucid"},
    "pixels with everything": {"jitter": 0.1, "rotate": 30.0, "pad": 0.1, "l2": 0.01, "total_variation": 1e-3},
    "ascent": {"optimizer": "ascent", "rate": 3.0, "noise": 0.1},
    "normalized ascent": {"optimizer": "normalized_ascent", "rate": 0.01, "scale": 0.3},
}


@pytest.mark.parametrize("settings", RECIPES.values(), ids=RECIPES.keys())
@pytest.mark.parametrize("company", [False, True], ids=["alone", "in company"])
def test_in_float64_it_is_the_plain_script(settings: dict[str, Any], company: bool) -> None:
    model, (height, width) = in_double("squeezenet1_1"), (48, 64)
    how = recipe(**{"steps": STEPS, **settings})
    x = canvas(model, height, width)
    expected, scores = script(model, 3, height, width, how, seed=5)
    assert (expected[-1] - expected[0]).abs().max() > 0.01

    def explains(job: Any) -> Any:
        for i in range(STEPS):
            yield Query(
                pictures(model, 2, i)[..., :48, :64], None if i % 2 else of_class(9)[0].objective((), x), "image"
            )

    others = [
        maximizing(x, [of_class(8), of_class(3)], recipe("strong", steps=7)),
        maximizing(x, [(Summand(layer="features.5"),)], recipe("plain", steps=30)),
        explains,
    ]
    _, reports = run(model, maximizing(x, [of_class(3)], how), others if company else (), seed=5)
    ours = torch.cat([report.images for report in reports if report.images is not None])
    assert (ours - expected).abs().max() < 1e-6
    assert (losses(reports, "objective") - scores).abs().max() < 1e-6 * scores.abs().max()


def test_each_steps_gradient_in_fp32() -> None:
    model = prepared("squeezenet1_1")
    how = recipe(steps=6, optimizer="ascent", rate=3.0, noise=0.1, jitter=0.1, l2=0.01)
    _, reports = run(model, maximizing(canvas(model, 48, 64), [of_class(3)], how), seed=5)
    images = torch.cat([report.images for report in reports if report.images is not None])
    assert images.dtype == torch.float32
    for step, (before, after) in enumerate(pairwise(images)):
        image = before[None].requires_grad_()
        score = model(seen(image, how, step, MethodContext(5)))[0, 3] - how.l2 * (image - 0.5).square().sum()
        (grad,) = torch.autograd.grad(score, image)
        moved = (image + how.rate * grad).clamp(0, 1) - image
        assert off(after[None] - before[None], moved) < 1e-4


def test_goals_of_one_call_are_those_of_single_calls() -> None:
    model = in_double("squeezenet1_1")
    x, how = canvas(model, 40, 40), recipe("strong", steps=6)
    both, _ = run(model, maximizing(x, [of_class(1), of_class(2)], how))
    alone = [made(model, x, label, "strong", steps=6) for label in (1, 2)]
    for one, other in zip(both, alone, strict=True):
        assert np.array_equal(one.pixels, other.pixels)
        assert one.value == pytest.approx(other.value, rel=1e-9)
    assert not np.array_equal(both[0].pixels, both[1].pixels)


def test_value_and_logits_are_of_the_returned_bytes() -> None:
    model = prepared("squeezenet1_1")
    found = made(model, canvas(model, 40, 56), 4, steps=5)
    image = torch.from_numpy(found.pixels).permute(2, 0, 1)[None] / 255
    with torch.no_grad():
        logits = model(image)[0]
    assert found.pixels.shape == (40, 56, 3)
    assert found.value == pytest.approx(logits[4].item(), rel=1e-4)
    assert np.allclose(found.logits, logits.numpy(), atol=1e-4)


def test_every_preset_raises_its_objective() -> None:
    model = prepared("trained-resnet20")
    photo = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    for name in PRESETS:
        settings: dict[str, Any] = {"octaves": 2} if name == "dream" else {}
        found = made(model, photo, 3, name, **{"steps": 30, **settings})
        curve = found.curves["objective"]
        assert curve[-5:].mean() > curve[:5].mean() + 1, name
        assert found.done == found.asked == len(curve)
        assert (found.display is not None) == (name == "lecture")


def test_sums_differences_layers_and_directions() -> None:
    model = in_double("squeezenet1_1")
    x = pictures(model, 1)[..., :48, :64]
    vector = torch.linspace(-1, 2, 256, dtype=torch.float64)
    goal = (
        Summand(2.0, Target(label=1)),
        Summand(-0.5, Target(layer="features.3", channel=4)),
        Summand(1.5, layer="features.6"),
        Summand(3.0, Direction("features.6", tuple(vector.tolist()))),
        Summand(1.0, Target(rank=2)),
    )
    kept: dict[str, Tensor] = {}
    handles = [
        model.network.get_submodule(name).register_forward_hook(
            lambda m, a, out, name=name: kept.update({name: out.clone()})
        )
        for name in ("features.3", "features.6")
    ]
    with torch.no_grad():
        logits = model(x)[0]
    [handle.remove() for handle in handles]
    projected = (kept["features.6"] * (vector / vector.norm()).view(1, -1, 1, 1)).sum(1).mean()
    expected = 2 * logits[1] - 0.5 * kept["features.3"][0, 4].mean() + 1.5 * kept["features.6"].square().mean()
    expected = expected + 3 * projected + logits.sort(descending=True).values[1]
    result, reports = run(model, maximizing(x, [goal], recipe("plain", start="image", steps=1)))
    assert losses(reports, "objective")[0].item() == pytest.approx(expected.item(), rel=1e-9)
    second = int(logits.argsort(descending=True)[1])
    assert result[0].goal == (*goal[:-1], Summand(1.0, Target(label=second)))


def test_octaves_carry_the_detail_up() -> None:
    model = in_double("squeezenet1_1")
    x = pictures(model, 1)[..., :64, :64]
    how = recipe("dream", steps=3, octaves=2, octave_scale=2.0, jitter=0.0)
    result, _ = run(model, maximizing(x, [of_class(3)], how))

    def climbed(image: Tensor) -> Tensor:
        for _ in range(3):
            image = image.detach().requires_grad_()
            (grad,) = torch.autograd.grad(model(image)[0, 3], image)
            image = (image + how.rate * grad / grad.abs().mean()).clamp(0, 1)
        return image.detach()

    small = F.interpolate(x, (32, 32), mode="bilinear", antialias=True)
    detail = F.interpolate(climbed(small) - small, (64, 64), mode="bilinear", antialias=True)
    expected = climbed(x + detail)
    assert np.array_equal(result[0].pixels, (expected[0] * 255).round().byte().permute(1, 2, 0).numpy())


def test_snapshots() -> None:
    model = in_double("squeezenet1_1")
    x = canvas(model, 40, 40)
    result, reports = run(model, maximizing(x, [of_class(1)], recipe(steps=4), [0, 2, 4]))
    shots = {shot.step: shot.pixels for shot in result[0].snapshots}
    assert list(shots) == [0, 2, 4]
    assert np.array_equal(shots[4], result[0].pixels)
    for step in (0, 2):
        image = reports[step].images
        assert image is not None
        assert np.array_equal(shots[step], (image[0] * 255).round().byte().permute(1, 2, 0).numpy())


def test_a_goal_that_is_dead_at_the_start_is_told() -> None:
    model = prepared("squeezenet1_1")  # Its logits are means after a ReLU.
    x = canvas(model, 40, 40)
    with torch.no_grad():
        logits = model(x)[0]
    dead, alive = int(logits.argmin()), int(logits.argmax())
    assert logits[dead] == 0 < logits[alive]
    result, _ = run(model, maximizing(x, [of_class(alive), of_class(dead)], recipe(start="grey", steps=2)))
    assert [warning[:34] for warning in result[0].warnings] == ["ZERO_GRADIENT: goal 1 does not dep"]
    assert not made(model, x, alive, start="grey", steps=2).warnings


def test_an_image_of_one_colour_is_shown_grey() -> None:
    flat = stretched(torch.full((3, 9, 9), 7 / 255))
    assert (flat - 0.5).abs().max() < 1e-2
    some = torch.rand(3, 9, 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert stretched(some).mean().item() == pytest.approx(0.5)
    assert stretched(some).std().item() == pytest.approx(0.1)
