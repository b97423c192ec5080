"""Relevance against zennit, and against doubles by hand where zennit has no rule: sums, ReLU6, transformers."""

from collections.abc import Callable
from copy import deepcopy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from zennit.attribution import Gradient
from zennit.canonizers import SequentialMergeBatchNorm
from zennit.composites import EpsilonGammaBox, EpsilonPlus, EpsilonPlusFlat
from zennit.core import Composite
from zoo import CPU, in_double, inputs, normalised, off, pictures, prepared, unmodified

from gradserve_server.engine.differentiate import differentiate
from gradserve_server.engine.objective import logit
from gradserve_server.engine.query import Answer, Part, Query
from gradserve_server.methods.explain import Target
from gradserve_server.models.catalogue import ModelSpec
from gradserve_server.models.loading import load
from gradserve_server.models.preparation import prepare_source
from gradserve_server.models.prepared import Prepared
from gradserve_server.models.relevance.mode import RelevanceRules
from gradserve_server.models.relu import ReLURules
from gradserve_server.models.rules import ConvolutionRule, Relevance, Rule

from . import attention_by_hand, relevance_by_hand
from .runs import answer

TESTED = {"lrp"}  # The methods that have their references here.
Record = Callable[[str, object], None]
LABEL = 3
RULES: tuple[ConvolutionRule, ...] = ("z_plus", "gamma", "epsilon")


def worst(ours: Tensor | np.ndarray, reference: Tensor) -> float:
    """The largest error, as a share of the largest relevance."""
    difference = torch.as_tensor(ours).double() - reference.double()
    return float(difference.abs().max() / reference.abs().max())


def asked(model: Prepared, x: Tensor, rule: Rule, label: int = LABEL) -> Answer:
    return differentiate(model, [Part(Query(x, logit(label), "image", rule=rule), range(len(x)))])[0]


def relevance(model: Prepared, x: Tensor, rule: Relevance) -> Tensor:
    found = asked(model, x, rule).relevance
    assert found is not None
    return found


def box(**canonizers: object) -> Composite:
    low, high = (normalised(torch.full((1, 3, 1, 1), value)) for value in (0.0, 1.0))
    return EpsilonGammaBox(low=low, high=high, **canonizers)


COMPOSITES: dict[str, tuple[Relevance, Callable[..., Composite]]] = {
    "z+": (Relevance(), EpsilonPlus),
    "z+, flat": (Relevance(input="flat"), EpsilonPlusFlat),
    "gamma, box": (Relevance("gamma", 0.25, "box"), box),
}


@pytest.mark.parametrize("composite", COMPOSITES)
@pytest.mark.parametrize(("name", "bound"), [("trained-squeezenet1_0", 1e-5), ("vgg11_bn", 1e-3), ("alexnet", 1e-3)])
def test_equals_zennit(name: str, bound: float, composite: str, record_property: Record) -> None:
    """Linear layers of vgg11 and alexnet differ by zennit's epsilon of 1e-6."""
    model, images = inputs(name, 2)
    x = images[1:]
    rule, make = COMPOSITES[composite]
    canonizers = [SequentialMergeBatchNorm()] if name.endswith("_bn") else []
    with Gradient(model=unmodified(name), composite=make(canonizers=canonizers)) as attribute:
        chosen = F.one_hot(torch.tensor([LABEL]), len(model.card.classes))
        _, reference = attribute(normalised(x).requires_grad_(), lambda logits: chosen * logits)
    error = worst(relevance(model, x, rule), reference)
    record_property("off", error)
    assert error < bound


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("name", ["resnet18", "trained-resnet20", "mobilenet_v2", "trained-mobilenet_v2"])
def test_equals_the_double_by_hand(name: str, rule: ConvolutionRule, record_property: Record) -> None:
    """Residual sums, option-A shortcuts, ReLU6 and depthwise convolutions."""
    x = inputs(name, 2)[1][1:]
    reference, _ = relevance_by_hand.relevance(unmodified(name, torch.float64), normalised(x.double()), LABEL, rule)
    double = worst(relevance(in_double(name), x.double(), Relevance(rule)), reference)
    single = worst(relevance(prepared(name), x, Relevance(rule)), reference)
    record_property("off", (double, single))
    assert double < 1e-10
    assert single < 1e-4


@pytest.mark.parametrize("name", ["vit_b_32", "swin_t"])
def test_transformers_equal_the_double_by_hand(name: str, record_property: Record) -> None:
    """AttnLRP in torchvision's ViT and Swin: GELU, LayerNorm, attention as one call and as products."""
    x = inputs(name, 2)[1][1:]
    reference = attention_by_hand.relevance(unmodified(name, torch.float64), normalised(x.double()), LABEL)
    double = worst(relevance(in_double(name), x.double(), Relevance("epsilon")), reference)
    single = worst(relevance(prepared(name), x, Relevance("epsilon")), reference)
    record_property("off", (double, single))
    assert double < 1e-9
    assert single < 1e-3
    plain = asked(prepared(name), x, "plain").image_grad
    assert plain is not None
    assert off(plain * (x - prepared(name).mean), reference) > 0.1, "the rules change nothing here"


def test_attention_of_ones_own_equals_the_double_by_hand() -> None:
    """A transformer that multiplies its queries, keys and values itself."""
    spec = ModelSpec(name="own", builder="small_vits:vit", weights="random", height=32, width=40, precisions=("exact",))
    source = load(spec)
    network = deepcopy(source.network).double()
    model = prepare_source(spec, source, CPU, torch.float64)
    x = pictures(model, 1)
    reference = attention_by_hand.relevance(network, normalised(x), LABEL)
    assert worst(relevance(model, x, Relevance("epsilon")), reference) < 1e-9


@pytest.mark.parametrize("name", ["trained-squeezenet1_0", "trained-resnet20", "imagenet", "googlenet"])
def test_the_map_is_the_relevance_of_the_pixels(name: str) -> None:
    model, images = inputs(name, 2)
    x = images[1:]
    for rule in (Relevance(), Relevance("gamma", 0.5, "flat")):
        parameters = {"rule": rule.convolution, "gamma": rule.gamma, "input_rule": rule.input}
        found = answer(model, x, "lrp", Target(label=LABEL), **parameters)
        assert off(found.values, relevance(model, x, rule)[0].sum(0)) < 1e-5


KINDS: dict[str, Callable[[], nn.Module]] = {
    "plain": lambda: nn.Conv2d(6, 8, 3, bias=False),
    "depthwise": lambda: nn.Conv2d(6, 6, 3, groups=6, bias=False),
    "grouped": lambda: nn.Conv2d(6, 12, 3, groups=3, bias=False),
    "strided": lambda: nn.Conv2d(6, 8, 3, stride=(2, 1), padding=1, bias=False),
    "dilated": lambda: nn.Conv2d(6, 8, 3, dilation=2, padding=2, bias=False),
    "same": lambda: nn.Conv2d(6, 8, 4, padding="same", bias=False),
    "valid": lambda: nn.Conv2d(6, 8, 4, padding="valid", bias=False),
    "reflected": lambda: nn.Conv2d(6, 8, 3, padding=1, padding_mode="reflect", bias=False),
    "circular": lambda: nn.Conv2d(6, 8, 3, padding=1, padding_mode="circular", bias=False),
}


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("kind", KINDS)
def test_a_convolution_without_bias_conserves_relevance(kind: str, rule: ConvolutionRule) -> None:
    """Layer by layer, and with inputs of both signs: what is missing is only the stabilizer's share."""
    torch.manual_seed(0)
    layer = KINDS[kind]().double().requires_grad_(False)
    x = torch.randn(2, 6, 9, 10, dtype=torch.float64).requires_grad_()
    with RelevanceRules([Relevance(rule)] * 2, 2):
        y = layer(x)
    chosen = torch.rand_like(y) * (y > 0)  # As if a ReLU came after it.
    (g,) = torch.autograd.grad(y, x, chosen)
    shares = (g * x).flatten(1).sum(1) / (chosen * y).flatten(1).sum(1)
    assert torch.allclose(shares, torch.ones_like(shares), atol=1e-4)


@pytest.mark.parametrize("name", ["trained-resnet20", "trained-mobilenet_v2"])
def test_layers_conserve_relevance_but_for_biases(name: str) -> None:
    """No layer makes any, and those with positive inputs keep what is not their bias's; the map's sum is no test."""
    x = inputs(name, 2)[1][1:].double()
    network = unmodified(name, torch.float64)
    _, layers = relevance_by_hand.relevance(network, normalised(x), LABEL, "z_plus")
    model = in_double(name)
    convolutions = [la for la in model.card.layers if la.kind in ("Conv2d", "BatchNorm2d")]
    assert len(layers) == len(convolutions)
    shares = [float(own.abs().sum() / out.abs().sum()) for own, out in layers.values()]
    assert max(shares) < 1 + 1e-6
    assert np.median(shares) > 0.5


@pytest.mark.parametrize("top", [None, 6.0])
def test_relevance_passes_a_clipped_relu(top: float | None) -> None:
    x = torch.tensor([[-1.0, 0.5, 3.0, 8.0]] * 4).requires_grad_()
    g = torch.tensor([[2.0, -2.0, 2.0, -3.0]] * 4)
    with ReLURules([Relevance(), "plain", "guided", "deconvnet"]):
        y = F.relu(x) if top is None else F.relu6(x)
    (out,) = torch.autograd.grad(y, x, g)
    relevance = (out * x)[0]
    assert torch.allclose(relevance, torch.where(x[0] > 0, g[0] * y[0], 0))
    passed = 8.0 if top is None else 0.0
    assert out[1].tolist() == [0.0, -2.0, 2.0, -3.0 if passed else 0.0]
    assert out[2].tolist() == [0.0, 0.0, 2.0, 0.0]
    assert out[3].tolist() == [2.0, 0.0, 2.0, 0.0]
