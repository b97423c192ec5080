"""Every method against Captum on the engine's own prepared module, and against a reference by hand where Captum errs.

Captum 0.9 hooks modules that are an `nn.ReLU`. It does not see functional ReLUs (GoogLeNet's, one of DenseNet's) nor
ReLU6 (MobileNetV2's, EfficientNet-Lite0's), and then returns something else without a word.
"""

import warnings
from collections.abc import Callable

import pytest
import torch
from captum.attr import (
    Deconvolution,
    GuidedBackprop,
    GuidedGradCam,
    IntegratedGradients,
    LayerAttribution,
    LayerGradCam,
    Occlusion,
    Saliency,
)
from torch import Tensor, nn
from zoo import inputs, off

from gradserve_server.engine.job import Job
from gradserve_server.methods.explain import METHODS, Target
from gradserve_server.models.prepared import Prepared

from .handmade import ruled_gradient
from .runs import answer

Record = Callable[[str, object], None]

SAME = 1e-4
STEPS = 6

CNNS = ["alexnet", "vgg11_bn", "resnet18", "densenet121", "googlenet", "mobilenet_v2", "imagenet"]
TRAINED = ["trained-mobilenet_v2", "trained-squeezenet1_0", "trained-resnet20"]
UNSEEN_RELUS = ["densenet121", "googlenet", "mobilenet_v2", "trained-mobilenet_v2", "imagenet"]
NO_RELUS = ["convnext_tiny", "vit_b_32", "swin_t"]


class Pixels(nn.Module):
    """The prepared model as a module that takes images in [0, 1]."""

    def __init__(self, model: Prepared) -> None:
        super().__init__()
        self.model, self.network = model, model.network

    def forward(self, images: Tensor) -> Tensor:
        return self.model(images)


def case(name: str) -> tuple[Prepared, Tensor, int]:
    """A model, a picture (the goldfinch for ImageNet's) and the class it sees there."""
    model, images = inputs(name, 2)
    x = images[1:]
    with torch.no_grad():
        return model, x, int(model(x).argmax())


def cam_module(model: Prepared) -> str:
    """Where Captum can look: DenseNet's last ReLU is no module."""
    return model.card.grad_cam_layer.partition("+")[0]


def parameters_of(method: str, model: Prepared) -> dict[str, object]:
    return TABLE[method][0] | ({"layer": cam_module(model)} if METHODS[method].default_layer else {})


def layer_of(pixels: Pixels) -> nn.Module:
    return pixels.network.get_submodule(cam_module(pixels.model))


def cam(pixels: Pixels, x: Tensor, label: int) -> Tensor:
    coarse = LayerGradCam(pixels, layer_of(pixels)).attribute(x, label, relu_attributions=True)
    return LayerAttribution.interpolate(coarse, tuple(x.shape[2:]), "bilinear")


def occlusion(pixels: Pixels, x: Tensor, label: int) -> Tensor:
    side = round(0.5 * min(x.shape[2:]))
    window, strides = (3, side, side), (3, side // 2, side // 2)
    return Occlusion(pixels).attribute(x, window, strides, baselines=0.5, target=label, perturbations_per_eval=8)


def integrated(pixels: Pixels, x: Tensor, label: int) -> Tensor:
    method = {"n_steps": STEPS, "method": "gausslegendre", "internal_batch_size": 8}
    return IntegratedGradients(pixels).attribute(x, target=label, **method)


def layer_cam(pixels: Pixels, x: Tensor, label: int) -> Tensor:
    """By hand (Jiang et al. 2021), since Captum has none."""
    kept: list[Tensor] = []
    handle = layer_of(pixels).register_forward_hook(lambda module, args, out: kept.append(out.clone()) or kept[0])
    score = pixels(x)[0, label]
    handle.remove()
    (grad,) = torch.autograd.grad(score, kept[0])
    coarse = (kept[0] * grad.clamp_min(0)).sum(1, keepdim=True).clamp_min(0)
    return LayerAttribution.interpolate(coarse, tuple(x.shape[2:]), "bilinear")


def guided_cam(pixels: Pixels, x: Tensor, label: int) -> Tensor:
    return GuidedGradCam(pixels, layer_of(pixels)).attribute(x, label, interpolate_mode="bilinear")


# By method: its parameters, Captum's attribution [1, C, H, W] (or one by hand where Captum has none), and how that
# becomes a map.
TABLE: dict[str, tuple[dict[str, object], Callable[[Pixels, Tensor, int], Tensor], str]] = {
    "gradient": ({}, lambda p, x, label: Saliency(p).attribute(x, label, abs=False), "sum"),
    "integrated_gradients": ({"steps": STEPS}, integrated, "signed"),
    "guided_backprop": ({}, lambda p, x, label: GuidedBackprop(p).attribute(x, label), "sum"),
    "deconvnet": ({}, lambda p, x, label: Deconvolution(p).attribute(x, label), "sum"),
    "grad_cam": ({}, cam, "signed"),
    "layer_cam": ({}, layer_cam, "signed"),
    "guided_grad_cam": ({}, guided_cam, "sum"),
    "occlusion": ({"patch": 0.5, "stride": 0.5}, occlusion, "one"),
}
RULED = ["guided_backprop", "deconvnet", "guided_grad_cam"]


def as_map(attribution: Tensor, how: str) -> Tensor:
    if how == "one":
        return attribution[0, 0]
    return (attribution.abs() if how == "sum" else attribution)[0].sum(0)


def captums(method: str, model: Prepared, x: Tensor, label: int) -> Tensor:
    _, attribute, how = TABLE[method]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Captum warns that it sets hooks.
        return as_map(attribute(Pixels(model), x.clone().requires_grad_(), label).detach(), how)


def by_hand(method: str, model: Prepared, x: Tensor, label: int) -> Tensor:
    rule = "deconvnet" if method == "deconvnet" else "guided"
    grad = ruled_gradient(model, x, label, rule)
    if method == "guided_grad_cam":
        grad = grad * cam(Pixels(model), x.clone().requires_grad_(), label)
    return grad.abs()[0].sum(0)


def cases() -> list[tuple[str, str]]:
    convolutional = [(name, method) for name in CNNS + TRAINED for method in TABLE]
    others = [(name, method) for name in NO_RELUS for method in ("gradient", "integrated_gradients")]
    return [case for case in convolutional if not (case[0] in UNSEEN_RELUS and case[1] in RULED)] + others


@pytest.mark.parametrize(("name", "method"), cases())
def test_equals_captum(name: str, method: str, record_property: Record) -> None:
    model, x, label = case(name)
    ours = answer(model, x, method, Target(label=label), **parameters_of(method, model))
    distance = off(ours.values, captums(method, model, x, label))
    record_property("off", distance)
    assert distance < SAME


@pytest.mark.parametrize(
    ("name", "method"), [(name, method) for name in [*UNSEEN_RELUS, "resnet18"] for method in RULED]
)
def test_really_guided(name: str, method: str, record_property: Record) -> None:
    model, x, label = case(name)
    ours = answer(model, x, method, Target(label=label), **parameters_of(method, model)).values
    reference = by_hand(method, model, x, label)
    captum_off = off(captums(method, model, x, label), reference)
    record_property("off", off(ours, reference))
    record_property("captum_off", captum_off)
    assert off(ours, reference) < SAME
    if name in UNSEEN_RELUS:
        assert captum_off > 0.1, "Captum is right here by now: move this model to the other table"
    else:
        assert captum_off < SAME


@pytest.mark.parametrize("name", ["resnet18", "trained-mobilenet_v2"])
@pytest.mark.parametrize("statistic", ["mean", "square", "variance"])
def test_smooth_grad_on_the_very_same_noise(name: str, statistic: str) -> None:
    model, x, label = case(name)
    x = 0.2 + 0.5 * x  # The noise is a share of the range that the picture has.
    run = Job("same", "model", lambda job: iter(()), seed=7).run()
    spread = 0.15 * (x.max() - x.min())
    noisy = [x + spread * run.noise(i, x) for i in range(5)]
    grads = torch.cat([Saliency(Pixels(model)).attribute(n.requires_grad_(), label, abs=False) for n in noisy])
    reference = {
        "mean": grads.mean(0),
        "square": grads.square().mean(0),
        "variance": grads.var(0, unbiased=False),
    }[statistic]
    ours = answer(model, x, "smooth_grad", Target(label=label), seed=7, samples=5, statistic=statistic)
    assert off(ours.values, reference.abs().sum(0)) < SAME
