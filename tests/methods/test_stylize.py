"""Stylize against a plain torch script, its parts against their formulas, and how it ends."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from zoo import in_double, prepared

from gradserve_server.engine.engine import Engine
from gradserve_server.engine.job import Job, Steps
from gradserve_server.engine.objective import NotApplicable
from gradserve_server.methods.parameters import bind
from gradserve_server.methods.stylize import (
    PIXELS,
    LayerWeight,
    StylizeArguments,
    Stylized,
    StylizeSettings,
    default_content_layers,
    default_style_layers,
    stylize,
)
from gradserve_server.methods.stylize.targets import blended, luminance
from gradserve_server.models.prepared import Prepared

from .making import losses, maximizing, of_class, recipe, run

STEPS = 20
STYLE_LAYERS = (LayerWeight(PIXELS, 0.5), LayerWeight("features.1"), LayerWeight("features.4", 2.0))
CONTENT_LAYERS = (LayerWeight("features.3"), LayerWeight("features.7", 3.0))


def picture(seed: int, height: int = 40, width: int = 56) -> np.ndarray:
    """[H, W, 3] floats: blots."""
    blots = torch.rand(1, 3, 6, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    image = F.interpolate(blots, (height, width), mode="bicubic").clamp(0, 1)
    return image[0].permute(1, 2, 0).numpy()


def tensor(pixels: np.ndarray) -> Tensor:
    return torch.from_numpy(pixels).permute(2, 0, 1)[None]


def settings(**values: Any) -> StylizeSettings:
    return StylizeSettings(**bind(StylizeSettings, values))


def stylizing(
    content: np.ndarray, styles: Sequence[tuple[np.ndarray, float]], how: StylizeSettings, **facts: Any
) -> Callable[[Job], Steps]:
    given = {"style_layers": STYLE_LAYERS, "content_layers": CONTENT_LAYERS, "has_content": True, **facts}
    arguments = StylizeArguments(styles=tuple(styles), settings=how, **given)
    return lambda job: stylize(job, tensor(content), arguments)


def layers_of(model: Prepared, image: Tensor, names: Sequence[str]) -> list[Tensor]:
    kept: dict[str, Tensor] = {}
    handles = [
        model.network.get_submodule(name).register_forward_hook(
            lambda module, args, out, name=name: kept.update({name: out.clone()})
        )
        for name in names
    ]
    model(image)
    [handle.remove() for handle in handles]
    return [kept[name] for name in names]


def gram_by_loops(maps: Tensor) -> Tensor:
    """[1, C, h, w] -> [C, C], entry by entry."""
    vectors = maps[0].reshape(maps.shape[1], -1)
    return torch.stack([torch.stack([(a * b).sum() / vectors.shape[1] for b in vectors]) for a in vectors])


def parts(
    model: Prepared, image: Tensor, content: Tensor, styles: Sequence[tuple[Tensor, float]], how: StylizeSettings
) -> dict[str, Tensor]:
    """The loss as Gatys et al. write it, every layer relative to its target."""
    side = round(how.pad * min(image.shape[2:]))

    def seen(x: Tensor) -> Tensor:
        return F.pad(x, (side,) * 4, mode="reflect") if side else x

    def grams(x: Tensor) -> list[Tensor]:
        plain = torch.cat([x, torch.ones_like(x[:, :1])], 1)
        inside = layers_of(model, seen(x), [layer for layer, _ in STYLE_LAYERS[1:]])
        return [vectors @ vectors.T / vectors.shape[1] for vectors in (m[0].flatten(1) for m in [plain, *inside])]

    style = torch.zeros((), dtype=image.dtype)
    ours = grams(image)
    for other, share in styles:
        for (_, weight), a, b in zip(STYLE_LAYERS, ours, grams(other), strict=True):
            part = (a - b.detach()).square().sum() / b.detach().square().sum()
            style = style + share / sum(s for _, s in styles) * weight / 3.5 * part
    names = [layer for layer, _ in CONTENT_LAYERS]
    pairs = zip(layers_of(model, seen(image), names), layers_of(model, seen(content), names), strict=True)
    relative = [(a - b.detach()).square().sum() / b.detach().square().sum() for a, b in pairs]
    down, across = (image[:, :, 1:] - image[:, :, :-1]), (image[..., 1:] - image[..., :-1])
    return {
        "style": how.style_weight * style,
        "content": how.content_weight * (relative[0] + 3 * relative[1]) / 4,
        "total_variation": how.total_variation * (down.square().mean() + across.square().mean()),
    }


def script(
    model: Prepared, content: np.ndarray, styles: Sequence[tuple[np.ndarray, float]], how: StylizeSettings
) -> tuple[Tensor, list[dict[str, float]]]:
    """What a single user would write with torch.optim: the image before each step, and its losses."""
    target, others = tensor(content), [(tensor(pixels), share) for pixels, share in styles]
    image = target.clone().requires_grad_()
    optimizer = torch.optim.Adam([image], lr=how.rate, betas=(0.9, 0.99))
    images, found = [], []
    for step in range(how.steps):
        optimizer.param_groups[0]["lr"] = how.rate * (0.1 + 0.45 * (1 + np.cos(np.pi * step / how.steps)))
        loss = parts(model, image, target, others, how)
        images.append(image.detach()[0].clone())
        found.append({name: value.item() for name, value in loss.items()})
        optimizer.zero_grad()
        sum(loss.values(), torch.zeros(())).backward()
        optimizer.step()
        image.data.clamp_(0, 1)
    return torch.stack(images), found


@pytest.mark.parametrize("company", [False, True], ids=["alone", "in company"])
@pytest.mark.parametrize("count", [1, 2], ids=["one style", "two styles"])
def test_in_float64_it_is_the_plain_script(count: int, company: bool) -> None:
    model, how = in_double("squeezenet1_1"), settings(steps=STEPS)
    content, styles = picture(0), [(picture(1, 36, 50), 1.0), (picture(2, 48, 40), 0.5)][:count]
    expected, parts_then = script(model, content, styles, how)
    others = [
        stylizing(picture(3), [(picture(4), 1.0)], settings(steps=STEPS + 4, optimizer="lbfgs", rate=1.0)),
        stylizing(picture(5), [(picture(1, 36, 50), 2.0)], settings(steps=11)),
        maximizing(tensor(picture(6)), [of_class(1)], recipe("strong", steps=15)),
    ]
    _, reports = run(model, stylizing(content, styles, how), others if company else ())
    ours = torch.cat([report.images for report in reports if report.images is not None])
    assert (ours - expected).abs().max() < 1e-6
    assert (expected[-1] - expected[0]).abs().max() > 0.2
    for name in parts_then[0]:
        reference = torch.tensor([each[name] for each in parts_then], dtype=torch.float64)
        assert torch.allclose(losses(reports, name), reference, rtol=1e-6, atol=1e-12), name


def test_each_steps_gradient_in_fp32() -> None:
    model, how = prepared("squeezenet1_1"), settings(steps=1, optimizer="lbfgs", rate=1e-3)
    content, style = picture(0).astype(np.float32), picture(1).astype(np.float32)
    _, reports = run(model, stylizing(content, [(style, 1.0)], settings(steps=2, optimizer="lbfgs", rate=1e-3)))
    first, second = (report.images for report in reports)
    assert first is not None
    assert second is not None
    image = first.clone().requires_grad_()
    loss = parts(model, image, tensor(content), [(tensor(style), 1.0)], how)
    (grad,) = torch.autograd.grad(sum(loss.values(), torch.zeros(())), image)
    step = (image - 1e-3 * min(1.0, 1 / grad.abs().sum().item()) * grad).clamp(0, 1)
    assert ((second - first) - (step - first)).norm() <= 1e-4 * (step - first).norm() + 1e-6


def test_a_gram_matrix_entry_by_entry() -> None:
    from gradserve_server.engine.scores import gram

    maps = torch.randn(2, 5, 3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for row, ours in zip(maps, gram(maps), strict=True):
        assert torch.allclose(ours, gram_by_loops(row[None]))
    assert torch.allclose(gram(maps.contiguous(memory_format=torch.channels_last)), gram(maps))


def test_several_styles_are_one_square_and_a_constant() -> None:
    a, b, at = (torch.randn(6, 6, generator=torch.Generator().manual_seed(i), dtype=torch.float64) for i in range(3))
    blend = blended([a, b], [0.3, 0.7], "x")
    direct = 0.3 * (at - a).square().sum() / a.square().sum() + 0.7 * (at - b).square().sum() / b.square().sum()
    assert (blend.scale * (at - blend.mean).square().sum() + blend.rest).item() == pytest.approx(direct.item())
    with pytest.raises(NotApplicable, match="'x' is zero for a style"):
        blended([a, 0 * b], [0.5, 0.5], "x")


def result_of(model: Prepared, *args: Any, **facts: Any) -> Stylized:
    found: Stylized = run(model, stylizing(*args, **facts))[0]
    return found


@pytest.mark.parametrize("optimizer", [{"rate": 0.04}, {"optimizer": "lbfgs", "rate": 1.0}], ids=["adam", "lbfgs"])
def test_losses_fall_and_are_those_of_the_returned_bytes(optimizer: dict[str, Any]) -> None:
    model, how = in_double("squeezenet1_1"), settings(steps=40, **optimizer)
    found = result_of(model, picture(0), [(picture(1), 1.0)], how)
    assert found.pixels.shape == (40, 56, 3)
    assert found.losses["style"] < 0.4 * found.initial["style"]
    assert found.initial["content"] == pytest.approx(0, abs=1e-12)
    image = tensor(found.pixels / 255)
    expected = parts(model, image, tensor(picture(0)), [(tensor(picture(1)), 1.0)], how)
    assert found.losses["style"] == pytest.approx(expected["style"].item(), rel=1e-6)
    assert found.losses["content"] == pytest.approx(expected["content"].item() / 0.05, rel=1e-6)
    assert found.losses["total_variation"] == pytest.approx(expected["total_variation"].item() / 0.1, rel=1e-6)


def test_content_alone_is_reconstructed_and_style_alone_is_a_texture() -> None:
    model, noise = in_double("squeezenet1_1"), settings(start="noise", steps=60)
    content = result_of(model, picture(0), [], noise, content_layers=(LayerWeight("features.1"),))
    assert set(content.losses) == {"content", "total_variation"}
    off = np.abs(content.pixels / 255 - picture(0)).mean()
    assert off < 0.5 * np.abs(0.5 - picture(0)).mean()
    grey = np.full((40, 56, 3), 0.5)
    texture = result_of(model, grey, [(picture(1), 1.0)], noise, has_content=False)
    assert set(texture.losses) == {"style", "total_variation"}
    assert texture.losses["style"] < 0.3 * texture.initial["style"]


def test_the_contents_colours_are_kept() -> None:
    model, content = in_double("squeezenet1_1"), 0.3 + 0.4 * picture(0)
    how = settings(steps=10, keep_colours=True)
    found = tensor(result_of(model, content, [(picture(1), 1.0)], how).pixels / 255)
    chroma = [x - luminance(x) for x in (found, tensor(content))]
    inside = ((found > 0.01) & (found < 0.99)).all(1, keepdim=True).expand_as(found)
    assert inside.double().mean() > 0.9
    assert (chroma[0] - chroma[1])[inside].abs().max() < 2 / 255
    assert (luminance(found) - luminance(tensor(content))).abs().max() > 0.05


def test_two_resolutions() -> None:
    model = in_double("squeezenet1_1")
    how = settings(steps=5, coarse_steps=7)
    found, reports = run(model, stylizing(picture(0, 64, 80), [(picture(1, 60, 60), 1.0)], how))
    sizes = [tuple(report.images.shape[2:]) for report in reports if report.images is not None]
    assert sizes == [(32, 40)] * 7 + [(64, 80)] * 5
    assert (found.done, found.asked, len(found.curves["style"])) == (12, 12, 12)


def test_the_rate_falls_over_both_resolutions() -> None:
    model = in_double("squeezenet1_1")
    how = settings(steps=5, coarse_steps=7)
    _, reports = run(model, stylizing(picture(0, 64, 80), [(picture(1, 60, 60), 1.0)], how))
    images = [report.images for report in reports if report.images is not None]
    farthest = (images[8] - images[7]).abs().max().item()  # Adam's first move is the rate in every pixel
    assert farthest == pytest.approx(how.rate * (0.1 + 0.45 * (1 + np.cos(np.pi * 7 / 12))), rel=1e-3)


def test_a_style_is_looked_at_once() -> None:
    model = in_double("squeezenet1_1")
    engine, rows = Engine({"model": model}), []
    for place, style in enumerate([1, 1, 2]):
        job = Job(str(place), "model", stylizing(picture(0), [(picture(style), 1.0)], settings(steps=3)))
        engine.submit(job)
        while not engine.idle:
            engine.step()
        rows.append(job.rows)
    assert rows == [2 + 1 + 3 + 1, 1 + 1 + 3 + 1, 2 + 1 + 3 + 1]  # Of style and content, start, steps, result.


def breaking(steps: Steps, place: int) -> Steps:
    """The same steps, but for one of their queries, which is asked about an infinite picture."""
    asked = 0
    try:
        query = next(steps)
        while True:
            asked += isinstance(query, list)
            if asked == place and isinstance(query, list):
                query = [type(q)(q.images * float("inf"), q.objective, q.wrt) for q in query]
            try:
                answer = yield query
            except Exception as error:
                query = steps.throw(error)
            else:
                query = steps.send(answer)
    except StopIteration as stop:
        return stop.value


@pytest.mark.parametrize("coarse", [0, 9])
def test_too_large_weights_give_the_last_good_image_with_a_warning(coarse: int) -> None:
    """The first query about a picture that is made measures the start, so that the fifth is that of the fourth step."""
    model, content, style = in_double("squeezenet1_1"), picture(0, 72, 88), picture(1, 70, 88)
    how = settings(steps=9, coarse_steps=coarse)
    found, reports = run(model, lambda job: breaking(stylizing(content, [(style, 1.0)], how)(job), 5))
    assert (found.done, len(found.warnings)) == (3, 1)
    assert "NOT_FINITE: step 4" in found.warnings[0]
    last = reports[-1].images
    assert last is not None
    whole = last if not coarse else F.interpolate(last, (72, 88), mode="bilinear", antialias=True)
    assert np.array_equal(found.pixels, (whole[0] * 255).round().byte().permute(1, 2, 0).numpy())
    expected = parts(model, tensor(found.pixels / 255), tensor(content), [(tensor(style), 1.0)], how)
    assert found.losses["style"] == pytest.approx(expected["style"].item(), rel=1e-6)
    assert found.losses["content"] == pytest.approx(expected["content"].item() / 0.05, rel=1e-6)


def test_a_picture_that_cannot_be_measured_says_so() -> None:
    model, how = in_double("squeezenet1_1"), settings(steps=3)
    found, _ = run(model, lambda job: breaking(stylizing(picture(0), [(picture(1), 1.0)], how)(job), 5))
    assert found.done == 3
    assert [warning.split(":")[0] for warning in found.warnings] == ["NOT_MEASURED"]
    for name, weight in (("style", 1.0), ("content", 0.05), ("total_variation", 0.1)):
        assert found.losses[name] == pytest.approx(found.curves[name][-1] / weight, rel=1e-6)


NAMES = ["vgg11_bn", "resnet18", "squeezenet1_1", "mobilenet_v2", "densenet121", "googlenet"]


@pytest.mark.parametrize("name", NAMES)
def test_default_layers_are_maps_of_falling_resolution(name: str) -> None:
    card = prepared(name).card
    style, content = default_style_layers(card), default_content_layers(card)
    heights = [card.layer(each.layer).height for each in style[1:]]  # type: ignore[union-attr]
    assert style[0].layer == PIXELS
    assert len(heights) >= 3
    assert heights == sorted(set(heights), reverse=True)
    assert heights[-1] * 16 >= card.height
    (layer,) = (card.layer(each.layer) for each in content)
    assert layer is not None
    assert round(np.log2(card.height / layer.height)) == 3


def test_smallest_pictures() -> None:
    model = in_double("squeezenet1_1")
    size = model.card.min_size
    assert result_of(model, picture(0, size, size), [(picture(1, size, size), 1.0)], settings(steps=2)).done == 2
