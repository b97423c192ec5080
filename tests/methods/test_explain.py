"""Methods on a linear model, where every attribution has a closed form; targets and maps on real networks."""

from collections.abc import Callable
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor
from zoo import inputs, off, pictures, prepared

from gradserve_server.engine.differentiate import differentiate
from gradserve_server.engine.engine import Engine
from gradserve_server.engine.job import Job, Steps
from gradserve_server.engine.objective import NotApplicable, logit
from gradserve_server.engine.query import Part, Query, Tap
from gradserve_server.methods.explain import METHODS, ExplainArguments, Explained, Target, explain, rows_of
from gradserve_server.methods.explain.averages import baseline_of, blurred, gauss_legendre
from gradserve_server.methods.explain.occlusion import grid, occlusion_rows
from gradserve_server.models.prepared import Prepared
from gradserve_server.models.rules import Relevance

from .runs import SMALL, answer, answers, call, job_of

LABEL = 2


def slope(model: Prepared) -> Tensor:
    """The linear model's gradient by the pixels, [3, H, W]."""
    (weight, _) = model.network.parameters()
    return (weight[LABEL].view(3, 8, 12) / model.std).detach()


def covered_by_hand(model: Prepared, x: Tensor) -> Tensor:
    """Pixel by pixel: the mean, over the patches that cover it, of what the patch takes away."""
    side, step = 3, 2
    lost = ((x[0] - 0.5) * slope(model)).sum(0)
    tops, lefts = ([*range(0, length - side, step), length - side] for length in lost.shape)
    drops = {(i, j): lost[i : i + side, j : j + side].sum() for i, j in product(sorted(set(tops)), sorted(set(lefts)))}
    values = torch.empty_like(lost)
    for y, z in product(range(8), range(12)):
        over = [drop for (i, j), drop in drops.items() if i <= y < i + side and j <= z < j + side]
        values[y, z] = sum(over) / len(over)
    return values


CLOSED_FORMS: list[tuple[str, dict[str, object], Callable[[Prepared, Tensor], Tensor]]] = [
    ("gradient", {}, lambda m, x: slope(m).abs().sum(0)),
    ("gradient", {"reduce": "max"}, lambda m, x: slope(m).abs().amax(0)),
    ("gradient", {"reduce": "signed"}, lambda m, x: slope(m).sum(0)),
    ("gradient_x_input", {}, lambda m, x: (slope(m) * x[0]).sum(0)),
    ("gradient_x_input", {"reduce": "sum"}, lambda m, x: (slope(m) * x[0]).abs().sum(0)),
    ("smooth_grad", {"samples": 5}, lambda m, x: slope(m).abs().sum(0)),
    ("smooth_grad", {"samples": 5, "statistic": "square"}, lambda m, x: slope(m).square().sum(0)),
    ("integrated_gradients", {"steps": 5}, lambda m, x: (slope(m) * x[0]).sum(0)),
    (
        "integrated_gradients",
        {"steps": 2, "baseline": "mean"},
        lambda m, x: (slope(m) * (x - x.mean((2, 3), keepdim=True))[0]).sum(0),
    ),
    ("gradient_shap", {"samples": 5, "baselines": "black"}, lambda m, x: (slope(m) * x[0]).sum(0)),
    (
        "gradient_shap",
        {"samples": 5, "baselines": "mean", "reduce": "sum"},
        lambda m, x: (slope(m) * (x - x.mean((2, 3), keepdim=True))[0]).abs().sum(0),
    ),
    ("occlusion", {"patch": 3 / 8, "stride": 2 / 3}, covered_by_hand),
]


@pytest.mark.parametrize(("method", "parameters", "form"), CLOSED_FORMS)
def test_closed_form(method: str, parameters: dict[str, object], form: Callable[[Prepared, Tensor], Tensor]) -> None:
    model = prepared("linear")
    x = pictures(model, 1)
    ours = answer(model, x, method, Target(label=LABEL), **parameters)
    assert off(ours.values, form(model, x)) < 1e-5
    assert ours.target_value == pytest.approx(model(x)[0, LABEL].item(), rel=1e-5)
    assert (ours.target, ours.done) == (Target(label=LABEL), ours.asked)


def test_every_method_is_tested_against_something() -> None:
    from .test_captum import TABLE
    from .test_lrp import TESTED
    from .test_perturbation import TESTED as PERTURBING

    untested = set(METHODS) - {row[0] for row in CLOSED_FORMS} - set(TABLE) - TESTED - PERTURBING
    assert not untested, f"no row of CLOSED_FORMS, or of test_captum's TABLE, is of {', '.join(untested)}"


@pytest.mark.parametrize("baseline", ["black", "mean", "blur", "noise"])
def test_integrated_gradients_are_complete(baseline: str) -> None:
    model = prepared("linear")
    x = pictures(model, 1)
    ours = answer(model, x, "integrated_gradients", Target(label=LABEL), seed=3, steps=4, baseline=baseline)
    run = Job("same", "model", lambda job: iter(()), seed=3).run()
    drop = (model(x) - model(baseline_of(x, baseline, run)))[0, LABEL].item()
    assert abs(drop) > 1e-3
    assert ours.completeness_gap == pytest.approx(0, abs=1e-6)
    assert ours.values.sum() == pytest.approx(drop, abs=1e-5)


def test_the_completeness_gap_is_the_quadratures_error() -> None:
    model, x = inputs("squeezenet1_1")
    drop = (model(x) - model(torch.zeros_like(x)))[0, 3].item()
    coarse, fine = (answer(model, x, "integrated_gradients", Target(label=3), steps=steps) for steps in (2, 30))
    assert fine.completeness_gap == pytest.approx(fine.values.sum() - drop, abs=1e-5)
    assert abs(fine.completeness_gap or 0) < 0.1 * abs(coarse.completeness_gap or 0)


@pytest.mark.parametrize("count", [2, 3, 50, 501])
def test_gauss_legendre(count: int) -> None:
    nodes, weights = np.polynomial.legendre.leggauss(count)
    ours = gauss_legendre(count)
    assert np.allclose(ours[0], (nodes + 1) / 2, rtol=0, atol=1e-14)
    assert np.allclose(ours[1], weights / 2, rtol=1e-8, atol=0)
    assert ours[1].sum() == pytest.approx(1, abs=1e-13)


def test_var_grad_of_a_linear_model_is_nothing() -> None:
    model = prepared("linear")
    x = pictures(model, 1)
    ours = answer(model, x, "smooth_grad", Target(label=LABEL), samples=6, statistic="variance")
    assert np.abs(ours.values).max() < 1e-6 * slope(model).square().max().item()


@pytest.mark.parametrize("chunk", [1, 4, 7])
def test_chunks_change_nothing(chunk: int) -> None:
    model, x = inputs("resnet18")
    calls = [call(model, "smooth_grad", samples=7), call(model, "occlusion", patch=0.5, stride=0.5)]
    calls.append(call(model, "integrated_gradients", steps=7))
    whole = answers(model, x, calls, seed=5)
    for ours, reference in zip(answers(model, x, calls, seed=5, chunk=chunk), whole, strict=True):
        assert off(ours.values, reference.values) < 1e-4


def test_the_seed_decides_the_noise() -> None:
    model = prepared("linear")
    x = pictures(model, 1)
    one, same, other = (
        answer(model, x, "integrated_gradients", baseline="noise", seed=seed).values for seed in (1, 1, 2)
    )
    assert np.array_equal(one, same)
    assert off(one, other) > 0.1


@pytest.mark.parametrize("size", [(8, 12), (224, 224), (31, 57), (1, 9)])
@pytest.mark.parametrize(("patch", "stride"), [(1 / 7, 0.5), (0.01, 1.0), (1.0, 1.0), (0.4, 0.01)])
def test_patches_cover_every_pixel_and_stay_inside(size: tuple[int, int], patch: float, stride: float) -> None:
    side, tops, lefts = grid(size, patch, stride)
    for starts, length in ((tops, size[0]), (lefts, size[1])):
        assert set().union(*(range(s, s + side) for s in starts)) == set(range(length))
        assert len(set(starts)) == len(starts)
    assert occlusion_rows({"patch": patch, "stride": stride}, size) == len(tops) * len(lefts) + 1


def test_the_cost_of_a_call_is_its_rows() -> None:
    model = prepared("resnet18")
    x = pictures(model, 1)
    for method in METHODS:
        made = call(model, method, Target(label=1), **SMALL.get(method, {}))
        engine = Engine({"model": model})
        job = job_of(x, [made])
        engine.submit(job)
        while not engine.idle:
            engine.step()
        assert job.rows == rows_of(made, (64, 96), model.card), method


def watched(steps: Steps, queries: list[Query]) -> Steps:
    """Notes what a method asks for."""
    asked = next(steps)
    while True:
        queries += [asked] if isinstance(asked, Query) else asked
        try:
            asked = steps.send((yield asked))
        except StopIteration as stop:
            return stop.value


@pytest.mark.parametrize("name", METHODS)
def test_the_row_of_a_method_says_what_it_does(name: str) -> None:
    """What it differentiates by, whether it rules ReLUs, which parameter is a layer, which excludes units."""
    model, x = inputs("resnet18")
    row, made = METHODS[name], call(model, name, Target(label=1), **SMALL.get(name, {}))
    queries: list[Query] = []
    engine = Engine({"model": model})
    engine.submit(Job("job", "model", lambda job: watched(explain(job, x, ExplainArguments((made,))), queries)))
    while not engine.idle:
        engine.step()
    assert row.wrt == max((query.wrt for query in queries), key=["nothing", "taps", "image"].index)
    rules = {query.rule for query in queries}
    assert row.guided == bool(rules & {"guided", "deconvnet"})
    own = set() if row.relevance is None else {row.relevance(made.parameters)}
    assert own == {rule for rule in rules if isinstance(rule, Relevance)}
    assert row.default_layer == ("layer" in made.parameters)
    assert row.class_targets_only in ("", *made.parameters)


def autograd(score: Tensor, by: Tensor) -> Tensor:
    return torch.autograd.grad(score, by)[0][0].abs().sum(0)


def test_log_prob() -> None:
    model, x = inputs("resnet18")
    x.requires_grad_()
    reference = autograd(model(x).log_softmax(1)[0, 7], x)
    ours = answer(model, x.detach(), "gradient", Target(label=7), log_prob=True)
    assert off(ours.values, reference) < 1e-4
    assert off(ours.values, answer(model, x.detach(), "gradient", Target(label=7)).values) > 1e-3


def test_log_prob_of_a_unit_is_refused() -> None:
    model, x = inputs("resnet18")
    with pytest.raises(NotApplicable, match="class targets only"):
        answer(model, x, "gradient", Target(layer="layer1", channel=1), log_prob=True)


@pytest.mark.parametrize("rank", [1, 2, 1000])
def test_rank(rank: int) -> None:
    model, x = inputs("resnet18")
    label = model(x)[0].argsort(descending=True)[rank - 1].item()
    ours = answer(model, x, "gradient", Target(rank=rank))
    assert ours.target == Target(label=label)
    assert off(ours.values, answer(model, x, "gradient", Target(label=label)).values) == 0


@pytest.mark.parametrize(
    ("method", "parameters"),
    [(name, {}) for name, method in METHODS.items() if method.one_row] + [("gradient", {"log_prob": True})],
)
def test_a_rank_needs_no_pass_of_its_own(method: str, parameters: dict[str, bool]) -> None:
    model, x = inputs("resnet18")
    engine = Engine({"model": model})
    engine.submit(job_of(x, [call(model, method, Target(rank=2), **parameters)]))
    (ended,) = engine.step()
    label = model(x)[0].argsort(descending=True)[1].item()
    reference = answer(model, x, method, Target(label=label), **parameters)
    assert ended.result[0].target == Target(label=label)
    assert off(ended.result[0].values, reference.values) == 0


UNITS: list[tuple[str, str, int, tuple[int, int] | None, Callable[[Tensor], Tensor]]] = [
    ("resnet18", "layer2.0.bn1", 5, (2, 7), lambda out: out[0, 5, 2, 7]),
    ("resnet18", "layer3", 5, None, lambda out: out[0, 5].mean()),
    ("resnet18", "layer4.1.relu:0", 222, (1, 1), lambda out: out[0, 222, 1, 1]),
    ("resnet18", "fc", 11, None, lambda out: out[0, 11]),
    ("alexnet", "classifier.1", 4, None, lambda out: out[0, 4]),
    ("vit_b_32", "encoder.layers.encoder_layer_3", 5, (2, 4), lambda out: out[0, 1 + 2 * 7 + 4, 5]),
    ("vit_b_32", "encoder.layers.encoder_layer_3", 5, None, lambda out: out[0, 1:, 5].mean()),
    ("swin_t", "features.5", 5, (1, 3), lambda out: out[0, 1, 3, 5]),
    ("swin_t", "features.5", 5, None, lambda out: out[0, :, :, 5].mean()),
]


def score_of_layer(model: Prepared, x: Tensor, layer: str, score: Callable[[Tensor], Tensor]) -> Tensor:
    """The score of a layer's own output, taken in a pass of its own."""
    name, _, turn = layer.partition(":")
    scores: list[Tensor] = []
    module = model.network.get_submodule(name)
    handle = module.register_forward_hook(lambda module, args, out: scores.append(score(out.clone())))
    model(x)
    handle.remove()
    return scores[int(turn or -1)]


@pytest.mark.parametrize(("name", "layer", "channel", "position", "score"), UNITS)
def test_units(
    name: str, layer: str, channel: int, position: tuple[int, int] | None, score: Callable[[Tensor], Tensor]
) -> None:
    model, x = inputs(name)
    target = Target(layer=layer, channel=channel, position=position)
    ours = answer(model, x, "gradient", target)
    x.requires_grad_()
    value = score_of_layer(model, x, layer, score)
    assert off(ours.values, autograd(value, x)) < 1e-4
    assert ours.target_value == pytest.approx(value.item(), rel=1e-3, abs=1e-5)
    assert ours.target == target


def test_a_unit_outside_the_map_is_refused() -> None:
    model = prepared("resnet18")
    x = pictures(model, 1)[:, :, :32, :32]
    with pytest.raises(NotApplicable, match=r"outside the layer's 1x1 map"):
        answer(model, x, "gradient", Target(layer="layer4", channel=1, position=(1, 2)))


def cam_by_hand(act: Tensor, grad: Tensor, size: tuple[int, int]) -> Tensor:
    """Of a layer's map as [h, w, C]: Selvaraju et al. 2017, equations 1 and 2."""
    weights = grad.sum((0, 1)) / (act.shape[0] * act.shape[1])
    coarse = torch.einsum("hwc,c->hw", act, weights).relu()
    return F.interpolate(coarse[None, None], size, mode="bilinear")[0, 0]


MAPS: list[tuple[str, str, Callable[[Tensor], Tensor]]] = [
    ("vit_b_32", "encoder.layers.encoder_layer_11.ln_1", lambda t: t[0, 1:].unflatten(0, (7, 7))),
    ("swin_t", "norm", lambda t: t[0]),
    ("swin_t", "features.5", lambda t: t[0]),
    ("resnet18", "layer4", lambda t: t[0].permute(1, 2, 0)),
    ("resnet18", "layer2.0.bn2", lambda t: t[0].permute(1, 2, 0)),
    ("densenet121", "features", lambda t: t[0].permute(1, 2, 0)),
]


@pytest.mark.parametrize(("name", "layer", "as_hwc"), MAPS)
def test_grad_cam_by_hand(name: str, layer: str, as_hwc: Callable[[Tensor], Tensor]) -> None:
    model, x = inputs(name)
    label = int(model(x).argmax())
    kept: dict[str, Tensor] = {}

    def hook(module: torch.nn.Module, args: object, out: Tensor) -> None:
        kept["act"] = out.detach().clone()
        out.register_hook(lambda grad: kept.update(grad=grad))  # This is before anything writes over it.

    handle = model.network.get_submodule(layer).register_forward_hook(hook)
    model(x.clone().requires_grad_())[0, label].backward()
    handle.remove()
    reference = cam_by_hand(as_hwc(kept["act"]), as_hwc(kept["grad"]), tuple(x.shape[2:]))
    ours = answer(model, x, "grad_cam", Target(label=label), layer=layer)
    assert ours.values.shape == tuple(x.shape[2:])
    assert ours.coarse is not None
    assert ours.coarse.shape == as_hwc(kept["act"]).shape[:2]
    assert off(ours.values, reference) < 1e-4


@pytest.mark.parametrize("name", ["resnet18", "trained-mobilenet_v2", "imagenet"])
def test_other_cams_are_the_same_maps_where_a_linear_layer_follows_a_mean(name: str) -> None:
    """HiResCAM (Draelos, Carin 2020) and Grad-CAM++ (Chattopadhay et al. 2018), as the docs say of them."""
    model, x = inputs(name)
    place = Tap(model.card.grad_cam_layer)
    (found,) = differentiate(model, [Part(Query(x, logit(3), "taps", (place,)), range(1))])
    act, grad = found.acts[0], found.act_grads[0]
    assert grad is not None
    hires = (act * grad).sum(1).relu()[0]
    assert off(answer(model, x, "grad_cam", Target(label=3)).coarse, hires) < 1e-5  # type: ignore[arg-type]
    shares = grad.square() / (2 * grad.square() + grad.pow(3) * act.sum((2, 3), keepdim=True) + 1e-30)
    plus = ((shares * grad.relu()).sum((2, 3), keepdim=True) * act).sum(1).relu()[0]
    layer = torch.as_tensor(answer(model, x, "layer_cam", Target(label=3)).coarse)
    assert F.cosine_similarity(plus.flatten(), layer.flatten(), 0) > 0.999


@pytest.mark.parametrize("size", [(64, 160), (160, 64)])
def test_other_sizes_are_not_transposed(size: tuple[int, int]) -> None:
    model = prepared("resnet18")
    x = torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(0))
    ours = answer(model, x, "grad_cam", Target(label=3), signed=True)
    turned = answer(model, x.transpose(2, 3), "grad_cam", Target(label=3), signed=True)
    assert ours.values.shape == size
    assert ours.coarse is not None
    assert ours.coarse.shape == (size[0] // 32, size[1] // 32)
    assert off(ours.values.T, turned.values) > 0.1, "a transposed picture is another picture"


def test_signed_grad_cam_has_the_unsigned_one_as_its_positive_part() -> None:
    model, x = inputs("resnet18")
    signed, plain = (answer(model, x, "grad_cam", Target(label=3), signed=s).coarse for s in (True, False))
    assert signed is not None
    assert signed.min() < 0
    assert np.array_equal(signed.clip(0), plain)


REFUSED = ["efficientnet_b0", "convnext_tiny", "vit_b_32", "swin_t"]


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("method", ["guided_backprop", "deconvnet", "guided_grad_cam"])
def test_guided_rules_are_refused_without_relus(name: str, method: str) -> None:
    assert "no ReLU" in METHODS[method].refuses(prepared(name).card)


@pytest.mark.parametrize("name", ["resnet18", "googlenet", "densenet121", "mobilenet_v2", "mobilenet_v3_small"])
def test_guided_rules_apply_with_relus(name: str) -> None:
    assert all(not method.refuses(prepared(name).card) for method in METHODS.values() if method.relevance is None)


def test_a_model_without_relus_and_maps_refuses_what_needs_them() -> None:
    card = prepared("linear").card
    refused = {name for name, method in METHODS.items() if method.refuses(card)}
    assert refused == {
        name for name, method in METHODS.items() if method.guided or method.relevance or method.default_layer
    }


def test_several_methods_and_targets_in_one_call() -> None:
    model, x = inputs("resnet18")
    targets = [Target(label=3), Target(rank=2), Target(layer="layer3", channel=2)]
    calls = [
        call(
            model,
            method,
            target,
            **SMALL.get(method, {}),
            **({"layer": "layer2"} if METHODS[method].default_layer else {}),
        )
        for method, target in product(METHODS, targets)
    ]
    together: list[Explained] = answers(model, x, calls)
    for made, ours in zip(calls, together, strict=True):
        alone = answers(model, x, [made])[0]
        if not alone.values.any():
            assert not ours.values.any()
            continue
        assert off(ours.values, alone.values) < 1e-4, made
        assert replace(ours, values=alone.values, coarse=None).target == alone.target


def test_a_map_of_zeros_is_flagged() -> None:
    model, x = inputs("resnet18")
    ours = answer(model, torch.zeros_like(x), "gradient_x_input", Target(label=3))
    assert not ours.values.any()
    assert [warning.partition(":")[0] for warning in ours.warnings] == ["ZERO_MAP"]
    assert not answer(model, x, "gradient_x_input", Target(label=3)).warnings


def test_a_map_that_is_cut_off_to_zeros_is_not_called_independent_of_the_image() -> None:
    model, x = inputs("resnet18")
    maps = [answer(model, x, "grad_cam", Target(label=label)) for label in range(40)]
    (warning,) = next(each.warnings for each in maps if not each.values.any())
    assert warning.startswith("ZERO_MAP: nothing at the layer speaks for the target")


def test_the_blurred_baseline_is_a_gaussian_blur() -> None:
    x = torch.rand(1, 3, 40, 30, generator=torch.Generator().manual_seed(0))
    expected = torchvision.transforms.functional.gaussian_blur(x, [13, 13], [2.0, 2.0])
    assert torch.allclose(blurred(x, 2.0), expected, atol=1e-6)
