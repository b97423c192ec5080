"""Which layers a target depends on, what Grad-CAM takes by default, ReLUs that are no modules, names twice."""

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.densenet import DenseNet
from zoo import CPU, inputs, off, prepared

from gradserve_server.api.arguments.targets import known_layer
from gradserve_server.api.errors import Violations
from gradserve_server.api.maps.cam_layers import cam_layer
from gradserve_server.api.rpcs.explanation import method_warnings
from gradserve_server.engine.differentiate import differentiate
from gradserve_server.engine.objective import channel, logit
from gradserve_server.engine.query import Part, Query, Tap
from gradserve_server.methods.explain import Call
from gradserve_server.methods.explain.cam import weighted_sum
from gradserve_server.methods.targets import Target
from gradserve_server.models.catalogue import PRECISIONS, ModelSpec
from gradserve_server.models.preparation import prepare
from gradserve_server.models.prepared import Prepared
from gradserve_server.models.probe import probe
from gradserve_server.models.rules import Rule

HERE = "models.test_flow"


@cache
def served(builder: str, **facts: Any) -> Prepared:
    spec = {"name": "m", "builder": f"{HERE}:{builder}", "weights": "random", "height": 24, "width": 32, **facts}
    return prepare(ModelSpec.model_validate({"precisions": PRECISIONS, **spec}), CPU)


def resolved(model: Prepared, layer: str, target: Target) -> tuple[str, str]:
    """What Grad-CAM takes, and what is wrong with it."""
    violations = Violations()
    taken = cam_layer(layer, target, model.card, "m", violations)
    return taken, "; ".join(text for _, text in violations.invalid)


def conv(inputs: int, outputs: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, 1, 1), nn.ReLU())


class Branches(nn.Module):
    """Two branches that meet, one that leads nowhere, one that is cut off, and a gate of one position."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.left, self.right = conv(3, 8), conv(8, 6), conv(8, 6)
        self.dead, self.cut, self.after_cut = conv(8, 4), conv(8, 6), conv(6, 6)
        self.gate, self.last, self.head = nn.Conv2d(8, 6, 1), conv(6, 7), nn.Linear(7, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        left, right = self.left(x), self.right(x)
        self.dead(right.repeat(1, 2, 1, 1)[:, :8])
        cut = self.after_cut(self.cut(x).detach())
        gate = self.gate(x.mean((2, 3), keepdim=True)).sigmoid()
        return self.head(self.last(left * gate + right + cut).mean((2, 3)))  # type: ignore[no-any-return]


def branches() -> nn.Module:
    return Branches()


UNITS = {
    "right.1": "right.0",
    "left.0": "stem",  # The last map before it that reaches it; `dead` and `right` are no part of it.
    "right.0": "stem",
    "dead.0": "right",
    "after_cut.0": "cut",
    "gate": "stem",
    "last.0": "after_cut",
    "head": "last",
}


@pytest.mark.parametrize("unit", UNITS)
def test_a_units_default_layer_reaches_it(unit: str) -> None:
    model = served("branches")
    taken, wrong = resolved(model, "", Target(layer=unit, channel=1))
    if unit != "after_cut.0":
        assert not wrong
        assert taken.removesuffix(".1") == UNITS[unit].removesuffix(".1")
        x = torch.rand(2, 3, 24, 32, generator=torch.Generator().manual_seed(0))
        (found,) = differentiate(model, [Part(Query(x, channel(unit, 1), "taps", (Tap(taken),)), range(2))])
        assert found.act_grads[0] is not None
        assert found.act_grads[0].any()
    else:
        assert "no layer with spatial extent runs before after_cut.0 and reaches it" in wrong


REFUSED = [
    ("dead", Target(label=1), "the logits do not depend on what dead gives"),
    ("cut", Target(rank=1), "the logits do not depend on what cut gives"),
    ("left.0", Target(layer="right.1"), "the target's layer right.1 does not depend on what left.0 gives"),
    ("dead.1", Target(layer="last.0"), "the target's layer last.0 does not depend on what dead.1 gives"),
    ("last", Target(layer="left.0"), "last does not run before the target's layer left.0"),
]


@pytest.mark.parametrize(("layer", "target", "text"), REFUSED)
def test_a_layer_that_does_not_reach_the_target_is_refused(layer: str, target: Target, text: str) -> None:
    assert text in resolved(served("branches"), layer, target)[1]


@pytest.mark.parametrize("layer", ["stem", "left.0", "right", "after_cut.1", "last"])
def test_layers_that_reach_the_logits_are_taken(layer: str) -> None:
    assert resolved(served("branches"), layer, Target(rank=1)) == (layer, "")


def test_reach_is_where_gradients_are() -> None:
    """Every pair of layers of a small network, against a gradient of its own for each."""
    model = served("branches")
    layers = [layer for layer in model.card.layers if layer.channels]
    x = torch.rand(2, 3, 24, 32, generator=torch.Generator().manual_seed(0))
    for target in layers:
        names = [layer.name for layer in layers if layer.number < target.number]
        if not names:
            continue
        taps = tuple(Tap(name) for name in names)
        (found,) = differentiate(model, [Part(Query(x, channel(target.name, 0), "taps", taps), range(2))])
        for name, grad in zip(names, found.act_grads, strict=True):
            layer = model.card.layer(name)
            assert layer is not None
            if grad is not None and grad.any():
                assert model.card.reaches(layer, target), (name, target.name)
            elif model.card.reaches(layer, target):  # All of it may be cut by a ReLU.
                assert target.kind in ("ReLU", "Sequential"), (name, target.name)


def test_googlenets_branches_are_kept_apart() -> None:
    model = prepared("googlenet")
    taken, wrong = resolved(model, "", Target(layer="inception4a.branch2.0.bn", channel=3))
    assert (taken, wrong) == ("inception3b", "") or not taken.startswith("inception4a.branch1")
    x = inputs("googlenet")[1]
    query = Query(x, channel("inception4a.branch2.0.bn", 3), "taps", (Tap(taken),))
    (found,) = differentiate(model, [Part(query, range(1))])
    assert found.act_grads[0] is not None
    assert found.act_grads[0].any()


def test_a_unit_after_the_last_attention_looks_at_the_usual_layer() -> None:
    """Later layers of a ViT reach it too, but through the class token alone."""
    model = prepared("vit_b_32")
    assert resolved(model, "", Target(layer="heads.head", channel=3)) == (model.card.grad_cam_layer, "")


# ---- ReLUs that are called as functions ------------------------------------------------------------------------------


class Functional(nn.Module):
    """Its activations are no modules; the last works in place on what a container gives."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3, 1, 1), nn.Conv2d(8, 8, 3, 1, 1)
        self.c = nn.Sequential(nn.Conv2d(8, 8, 3, 2, 1), nn.BatchNorm2d(8))
        self.own, self.d, self.head = conv(8, 8), nn.Conv2d(8, 8, 1), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.b(F.relu6(self.a(x))))
        x = self.own(x).clamp(min=0)  # This clamps what is rectified already.
        x = F.relu(self.d(x).add_(x))  # No module gave this sum.
        x = F.relu(self.c(self.b(x)), inplace=True)
        return self.head(x.mean((2, 3)))  # type: ignore[no-any-return]


def functional() -> nn.Module:
    return Functional()


def test_functional_relus_are_layers_after_their_modules() -> None:
    card = served("functional").card
    names = [layer.name for layer in card.layers]
    assert [name for name in names if "+relu" in name] == ["a+relu", "b+relu:0", "b+relu", "own+relu", "c+relu"]
    assert names.index("c+relu") == names.index("c") + 1
    assert card.grad_cam_layer == "c+relu"
    layer = card.layer("c+relu")
    assert layer is not None
    assert (layer.kind, layer.layout, layer.channels, layer.height, layer.width) == ("relu", "nchw", 8, 12, 16)


class Hidden(nn.Module):
    """ReLUs that cannot be tapped by what a module gives: two of one tensor, and one that is written over later."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 1), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        y = self.b(F.relu(x) + 0.5 * F.relu(x))
        y.clamp_(min=0)
        y += x
        return self.head(y.mean((2, 3)))  # type: ignore[no-any-return]


def hidden() -> nn.Module:
    return Hidden()


def test_relus_that_cannot_be_told_are_no_layers() -> None:
    assert [layer.name for layer in served("hidden").card.layers] == ["a", "b", "head"]


def by_hand(model: Prepared, x: Tensor) -> tuple[Tensor, Tensor]:
    """What the last ReLU gives and the gradient by it, of plain torch."""
    net: Any = model.network
    first = net.own(F.relu(net.b(F.relu6(net.a(model.normalised(x))))))
    first = F.relu(net.d(first) + first)
    out = F.relu(net.c(net.b(first))).requires_grad_()
    (grad,) = torch.autograd.grad(net.head(out.mean((2, 3)))[:, 2].sum(), out)
    return out, grad


@pytest.mark.parametrize("wrt", ["image", "taps"])
@pytest.mark.parametrize("relu", ["plain", "guided", "deconvnet"])
@pytest.mark.parametrize("precision", ["exact", "balanced"])
def test_they_can_be_tapped(wrt: Any, relu: Rule, precision: Any) -> None:
    model = served("functional")
    x = torch.rand(2, 3, 24, 32, generator=torch.Generator().manual_seed(0))
    taps = (Tap("c+relu"), Tap("c"), Tap("b+relu:0"), Tap("c+relu", "input"))
    query = Query(x, logit(2), wrt, taps, relu)
    (found,) = differentiate(model.at(precision), [Part(query, range(2))])
    out, grad = by_hand(model, x)
    assert off(found.acts[0], out) < 1e-5
    assert found.act_grads[0] is not None
    assert off(found.act_grads[0], grad) < (1e-5 if precision == "exact" else 0.01)
    assert found.acts[1].min() < 0, "the module's own output is not rectified"
    assert torch.equal(found.acts[1], found.acts[3])
    assert found.acts[2].min() == 0
    (alone,) = differentiate(model.at(precision), [Part(Query(x, logit(2), wrt, (), relu), range(2))])
    assert alone.logits is not None
    assert found.logits is not None
    assert off(found.logits, alone.logits) < 1e-5, "listening changes nothing"
    if alone.image_grad is not None:
        assert off(found.image_grad, alone.image_grad) < 1e-5


def test_a_pass_may_end_there() -> None:
    model = served("functional")
    x = torch.rand(2, 3, 24, 32, generator=torch.Generator().manual_seed(0))
    query = Query(x, channel("c+relu", 3), "image", (Tap("c"),))
    (found,) = differentiate(model, [Part(query, range(2))])
    assert found.logits is None
    assert off(found.value, by_hand(model, x)[0][:, 3].mean((1, 2))) < 1e-5  # type: ignore[arg-type]
    assert torch._C._len_torch_function_stack() == 0


def dense() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = DenseNet(8, (2, 2, 2), 16, num_classes=5)
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.data.uniform_(0.5, 1.5)
                module.bias.data.normal_(0, 0.3)
    return net


def test_densenets_map_is_the_rectified_one() -> None:
    """Selvaraju et al. take the last rectified maps: here those after a ReLU that is no module."""
    model = served("dense", height=64, width=96)
    assert model.card.grad_cam_layer == "features+relu"
    x = torch.rand(1, 3, 64, 96, generator=torch.Generator().manual_seed(1))
    network: Any = dense().eval()
    maps = F.relu(network.features((x - model.mean) / model.std)).detach().requires_grad_()
    score = network.classifier(F.adaptive_avg_pool2d(maps, (1, 1)).flatten(1))[0, 2]
    (grad,) = torch.autograd.grad(score, maps)
    query = Query(
        x, logit(2), "taps", (Tap("features+relu", reduce=weighted_sum), Tap("features", reduce=weighted_sum))
    )
    (found,) = differentiate(model, [Part(query, range(1))])
    reference = weighted_sum(maps, grad)
    assert off(found.acts[0], reference) < 1e-4
    assert off(found.acts[1], reference) > 0.05


# ---- one module under two names --------------------------------------------------------------------------------------


class Aliased(nn.Module):
    """A backbone that is kept, and its layers once more in a Sequential, which runs."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Module()
        self.backbone.stem = conv(3, 8)
        self.backbone.again = nn.ReLU()
        self.features = nn.Sequential(self.backbone.stem, nn.Conv2d(8, 8, 3), self.backbone.again, self.backbone.again)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x).mean((2, 3)))  # type: ignore[no-any-return]


def aliased() -> nn.Module:
    return Aliased()


@pytest.mark.parametrize(
    ("alias", "name"),
    [
        ("features.0", "backbone.stem"),
        ("features.0.1", "backbone.stem.1"),
        ("features.3", "backbone.again"),
        ("features.2:0", "backbone.again:0"),
        ("features.1", "features.1"),
    ],
)
def test_a_layer_may_be_named_by_any_name_of_its_module(alias: str, name: str) -> None:
    model = served("aliased")
    assert name in [layer.name for layer in model.card.layers]
    violations = Violations()
    layer = known_layer(alias, model.card, "m", violations)
    assert layer is not None
    assert layer.name == name
    assert not violations.invalid
    assert model.place(alias) == model.place(name)
    if name != "features.3":
        assert resolved(model, alias, Target(label=1)) == (name, "")


# ---- what is not the usual layer is said -----------------------------------------------------------------------------


class Maxima(nn.Module):
    """Each of its two channels is known by its largest number alone."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = conv(3, 2), nn.Linear(2, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.stem(x).amax((2, 3)))  # type: ignore[no-any-return]


def maxima() -> nn.Module:
    return Maxima()


class Constant(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = conv(3, 4), nn.Linear(4, 5)
        nn.init.zeros_(self.head.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.stem(x).mean((2, 3)))  # type: ignore[no-any-return]


def constant() -> nn.Module:
    return Constant()


class SequenceFirst(nn.Module):
    """Tokens first, images second, as torch's transformers had it."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, 16, 8, 8)
        self.block = nn.TransformerEncoderLayer(16, 2, 32, 0.0, "gelu")
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.block(self.embed(x).flatten(2).permute(2, 0, 1)).mean(0))  # type: ignore[no-any-return]


def sequence_first() -> nn.Module:
    return SequenceFirst()


class Closed(nn.Module):
    """Only its last layer can be trained, as its author made it."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = conv(3, 4), nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            x = self.stem(x).mean((2, 3))
        return self.head(x)  # type: ignore[no-any-return]


def test_without_a_gradient_there_is_no_map() -> None:
    network = Closed().eval().requires_grad_(False)
    found = probe(network, torch.randn(2, 3, 24, 32, generator=torch.Generator().manual_seed(0)))
    assert found.grad_cam_layer == ""
    assert found.notes == (
        "GRAD_CAM: no layer that gives a map has a gradient from the logits; other methods need none",
    )
    assert found.rules_refused == "its output has no gradient by the image"


NOTES: list[tuple[Callable[[], nn.Module], str, str]] = [
    (maxima, "stem", "only few positions of it have a gradient"),
    (constant, "stem", "no position of it has a gradient"),
    (sequence_first, "embed", "since what block gives later cannot be read as a map"),
]


@pytest.mark.parametrize(("builder", "layer", "text"), NOTES)
def test_an_unusual_default_layer_is_announced(builder: Callable[[], nn.Module], layer: str, text: str) -> None:
    card = served(builder.__name__).card
    (note,) = (note for note in card.notes if note.startswith("GRAD_CAM"))
    assert card.grad_cam_layer == layer
    assert f"by default it takes {layer}" in note
    assert text in note


def test_the_announcement_comes_with_the_maps() -> None:
    card = served("maxima").card
    note = next(note for note in card.notes if note.startswith("GRAD_CAM"))
    usual = Call("grad_cam", {"layer": card.grad_cam_layer}, Target(rank=1))
    assert method_warnings(usual, card) == [note]
    assert not method_warnings(Call("grad_cam", {"layer": "stem.0"}, Target(rank=1)), card)
    assert not method_warnings(Call("gradient", {}, Target(rank=1)), card)


# ---- the usual layers ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["resnet18", "densenet121", "googlenet", "mobilenet_v2", "swin_t", "regnet_y_400mf"])
def test_the_default_map_is_the_class_activation_map(name: str) -> None:
    """Where the mean over positions and one linear layer follow, it adds up to the logit without its bias.

    Swin's norm1, which others take, does not: what goes past that attention is missing.
    """
    model, x = inputs(name)
    label = int(model(x).argmax())
    layers = [model.card.grad_cam_layer, *(["features.7.1.norm1"] if name == "swin_t" else [])]
    taps = tuple(Tap(layer, reduce=weighted_sum) for layer in layers)
    (found,) = differentiate(model, [Part(Query(x, logit(label), "taps", taps), range(1))])
    head = [module for module in model.network.modules() if isinstance(module, nn.Linear)][-1]
    assert found.value is not None
    expected = (found.value[0] - head.bias[label]).item()
    sums = [act[0].sum().item() for act in found.acts]
    assert sums[0] == pytest.approx(expected, rel=1e-3)
    assert all(abs(total - expected) > 0.2 * abs(expected) for total in sums[1:])


@pytest.mark.parametrize(("name", "layer"), [("vgg11_bn", "features.27"), ("alexnet", "features.11")])
def test_before_the_last_pooling(name: str, layer: str) -> None:
    """The rectified maps of the last convolution, as in the paper; others take them pooled, at half the resolution."""
    card = prepared(name).card
    index = int(layer.partition(".")[2])
    kinds = [card.layer(f"features.{i}").kind for i in (index, index + 1)]  # type: ignore[union-attr]
    assert card.grad_cam_layer == layer
    assert kinds == ["ReLU", "MaxPool2d"]
