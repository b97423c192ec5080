"""Contrasts and similarities as targets of Explain and Maximize, against plain autograd."""

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from zoo import in_double, off, pictures, prepared

from gradserve.cli.demo.samples import photos
from gradserve_server.engine.objective import NotApplicable
from gradserve_server.methods.explain import METHODS, Explained
from gradserve_server.methods.goals import Summand
from gradserve_server.methods.targets import AnyTarget, Contrast, Similarity, Target, cancelled
from gradserve_server.models.prepared import Prepared

from . import making, runs
from .runs import SMALL

A, B = Target(label=3), Target(label=7)
LAYER = "features.10"


def explained(model: Prepared, x: Tensor, target: AnyTarget, method: str = "gradient", **parameters: Any) -> Explained:
    parameters = {"reduce": "signed", **parameters} if method == "gradient" else parameters
    return runs.answer(model, x, method, target, **parameters)


def slope(value: Tensor, x: Tensor) -> Tensor:
    """The signed map of a gradient."""
    (grad,) = torch.autograd.grad(value, x)
    return grad[0].sum(0)


def pixels(x: Tensor) -> np.ndarray:
    """[1, 3, H, W] in [0, 1] as a picture of 8 bits."""
    return (x[0].permute(1, 2, 0) * 255).round().byte().numpy()


def logits_of(model: Prepared, x: Tensor) -> Tensor:
    with torch.no_grad():
        return model(x)[0]


def test_one_class_rather_than_another() -> None:
    model = in_double("squeezenet1_1")
    x = pictures(model, 1)
    ours = explained(model, x, Contrast(((A, 1.0), (B, -1.0))))
    x.requires_grad_()
    value = model(x)[0, 3] - model(x)[0, 7]
    assert ours.target_value == pytest.approx(value.item(), rel=1e-9)
    assert off(ours.values, slope(value, x)) < 1e-6
    assert ours.target == Contrast(((A, 1.0), (B, -1.0)))


def test_a_rank_rather_than_the_others_of_the_top() -> None:
    model = in_double("squeezenet1_1")
    x = pictures(model, 1)
    order = logits_of(model, x).argsort(descending=True, stable=True).tolist()
    ours = explained(model, x, Contrast(((Target(rank=2), 2.0),), top=4))
    x.requires_grad_()
    logits = model(x)[0]
    value = 2 * logits[order[1]] - logits[[order[0], order[2], order[3]]].mean()
    assert off(ours.values, slope(value, x)) < 1e-6
    others = tuple((Target(label=label), pytest.approx(-1 / 3)) for label in (order[0], order[2], order[3]))
    assert isinstance(ours.target, Contrast)
    assert ours.target.terms == ((Target(label=order[1]), 2.0), *others)
    assert ours.target.top == 0, "it can be sent as it is"


@pytest.mark.parametrize("method", [name for name in METHODS if name != "occlusion"])
def test_every_method_takes_contrasts(method: str) -> None:
    """Half the weights make half the map, or a quarter where the map is a product of two."""
    model = prepared("mobilenet_v2")
    x = pictures(model, 1)
    samples = SMALL.get(method, {})
    whole = explained(model, x, Contrast(((A, 1.0), (B, -1.0))), method, **samples)
    half = explained(model, x, Contrast(((A, 0.5), (B, -0.5))), method, **samples)
    single = explained(model, x, A, method, **samples)
    factor = 0.25 if method == "guided_grad_cam" else 0.5
    assert off(half.values, factor * whole.values) < 1e-4
    assert off(single.values, whole.values) > 0.01


@pytest.mark.parametrize(
    ("method", "parameters"),
    [("gradient", {}), ("grad_cam", {"signed": True}), ("occlusion", {"patch": 0.5, "stride": 1})],
)
def test_targets_that_are_asked_together_are_those_alone(method: str, parameters: dict[str, Any]) -> None:
    model = in_double("mobilenet_v2")
    x, other = pictures(model, 2).split(1)
    sums = [Contrast(((A, 1.0),), top=3), Contrast(((A, 1.0), (B, -2.0)))]
    targets = [A, Target(rank=2), *sums, Similarity(model.card.grad_cam_layer, pixels(other))]
    together = runs.answers(model, x, [runs.call(model, method, each, **parameters) for each in targets])
    for target, ours in zip(targets, together, strict=True):
        lone = runs.answer(model, x, method, target, **parameters)
        assert off(ours.values, lone.values) < 1e-6
        assert ours.target_value == pytest.approx(lone.target_value, rel=1e-6)


def test_a_class_that_is_contrasted_with_itself_by_rank_is_refused() -> None:
    model = prepared("squeezenet1_1")
    x = pictures(model, 1)
    best = int(logits_of(model, x).argmax())
    target = Contrast(((Target(rank=1), 1.0), (Target(label=best), -1.0)))
    with pytest.raises(NotApplicable, match=f"class {best} is contrasted with itself"):
        explained(model, x, target)


def test_the_others_of_a_top_that_is_named_whole_are_refused() -> None:
    model = prepared("squeezenet1_1")
    target = Contrast(((Target(rank=1), 1.0), (Target(rank=2), 1.0)), top=2)
    with pytest.raises(NotApplicable, match="names all of the top 2 classes"):
        explained(model, pictures(model, 1), target)


def test_what_cancels_out() -> None:
    assert cancelled([(A, 0.1), (B, 1.0), (A, -0.1)]) == A
    assert cancelled([(A, 1.0), (B, -1.0)]) is None
    assert cancelled([(A, 1.0), (A, 1.0)]) is None


# Similarity


def features(model: Prepared, x: Tensor) -> Tensor:
    kept: list[Tensor] = []
    hook = model.network.get_submodule(LAYER).register_forward_hook(lambda m, a, out: kept.append(out.clone()))
    model(x)
    hook.remove()
    return kept[0]


def test_a_similarity_is_the_cosine_of_mean_features() -> None:
    model = in_double("squeezenet1_1")
    x = pictures(model, 1)
    other = pixels(pictures(model, 1, seed=5))
    ours = explained(model, x, Similarity(LAYER, other))
    with torch.no_grad():
        goal = features(model, torch.from_numpy(other).permute(2, 0, 1)[None].double() / 255).mean((2, 3))
    x.requires_grad_()
    value = F.cosine_similarity(features(model, x).mean((2, 3)), goal)[0]
    assert ours.target_value == pytest.approx(value.item(), rel=1e-9)
    assert 0 < ours.target_value < 1
    assert off(ours.values, slope(value, x)) < 1e-6
    assert isinstance(ours.target, Similarity)
    assert ours.target.image is None, "it does not travel back"


def test_the_other_picture_may_have_another_size() -> None:
    model = in_double("squeezenet1_1")
    x = pictures(model, 1)
    own = pixels(x)
    large = np.kron(own, np.ones((2, 2, 1), np.uint8))
    found = [explained(model, x, Similarity(LAYER, other)).target_value for other in (own, large)]
    assert found[0] == pytest.approx(1, abs=1e-3), "it is the same picture but for rounding"
    assert found[1] < found[0]


def test_grad_cam_of_a_similarity_may_be_by_its_own_layer() -> None:
    """There the parts of all positions are known, and add up to 0, since a cosine does not depend on lengths."""
    model = in_double("squeezenet1_1")
    x = pictures(model, 1)
    other = pixels(pictures(model, 1, seed=5))
    ours = explained(model, x, Similarity(LAYER, other), "grad_cam", layer=LAYER, signed=True)
    with torch.no_grad():
        act = features(model, x)[0]
        goal = features(model, torch.from_numpy(other).permute(2, 0, 1)[None].double() / 255)[0].mean((1, 2))
    mean = act.mean((1, 2))
    cosine = F.cosine_similarity(mean, goal, dim=0)
    weights = goal / (mean.norm() * goal.norm()) - cosine * mean / mean.norm() ** 2
    parts = (act * weights.view(-1, 1, 1)).sum(0) / act[0].numel()
    assert ours.coarse is not None
    assert off(torch.from_numpy(ours.coarse), parts) < 1e-5
    assert abs(ours.coarse.sum()) < 1e-5 * np.abs(ours.coarse).sum()


def share(values: np.ndarray) -> float:
    """The share of what is positive that lies in the left half."""
    positive = np.clip(values, 0, None)
    return float(positive[:, : values.shape[1] // 2].sum() / positive.sum())


def test_of_two_photos_side_by_side_each_target_finds_its_own() -> None:
    """A cat and a cup of espresso: a contrast finds either, and so does the similarity to the photo alone."""
    model = prepared("imagenet")
    sides = [
        torch.from_numpy(np.array(photo.open().convert("RGB").resize((224, 224)))).permute(2, 0, 1)[None] / 255
        for photo in photos("cat", "coffee")
    ]
    together = torch.cat(sides, 3)
    cat, espresso = (Target(label=int(logits_of(model, side).argmax())) for side in sides)
    left = explained(model, together, Contrast(((cat, 1.0), (espresso, -1.0))), "grad_cam")
    right = explained(model, together, Contrast(((espresso, 1.0), (cat, -1.0))), "grad_cam")
    assert share(left.values) > 0.9
    assert share(right.values) < 0.1
    for side, bound in zip(sides, ((0.9, 1.0), (0.0, 0.1)), strict=True):
        like = explained(model, together, Similarity(model.card.grad_cam_layer, pixels(side)), "grad_cam")
        assert bound[0] <= share(like.values) <= bound[1]


# Maximize


def test_a_contrast_is_climbed_as_the_sum_of_its_terms() -> None:
    model = in_double("squeezenet1_1")
    x = pictures(model, 1)[..., :48, :64]
    contrast = (Summand(2.0, Contrast(((A, 1.0), (B, -0.5)))), Summand(1.0, Contrast(((Target(rank=1), 1.0),), top=3)))
    logits = logits_of(model, x)
    order = logits.argsort(descending=True).tolist()
    expected = 2 * logits[3] - logits[7] + logits[order[0]] - logits[order[1:3]].mean()
    made = making.maximizing(x, [contrast], making.recipe("plain", start="image", steps=1))
    result, reports = making.run(model, made)
    assert making.losses(reports, "objective")[0].item() == pytest.approx(expected.item(), rel=1e-9)
    target = result[0].goal[1].target
    assert isinstance(target, Contrast)
    assert [each.label for each, _ in target.terms] == order[:3]
