"""One pass for many: every row gets what it would get alone, and the model is left as it was."""

import gc
import weakref
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from zoo import CPU, in_double, normalised, off, pictures, prepared, unmodified

from gradserve_server.engine.differentiate import differentiate
from gradserve_server.engine.objective import NotApplicable, Objective, channel, log_prob, logit, unit
from gradserve_server.engine.query import Answer, Part, Query, Tap
from gradserve_server.models.card import Layer
from gradserve_server.models.catalogue import ModelSpec
from gradserve_server.models.digest import digest
from gradserve_server.models.preparation import prepare
from gradserve_server.models.prepared import Prepared
from gradserve_server.models.taps import first_tensor

SAME = 1e-4


def part(query: Query) -> Part:
    return Part(query, range(len(query.images)))


def alone(model: Prepared, query: Query) -> Answer:
    return differentiate(model, [part(query)])[0]


def together(model: Prepared, queries: list[Query]) -> list[Answer]:
    return differentiate(model, [part(query) for query in queries])


def tensors(answer: Answer) -> list[Tensor | None]:
    return [answer.logits, answer.value, answer.image_grad, *answer.acts, *answer.act_grads]


def equal(ours: Answer, reference: Answer, tolerance: float = SAME) -> None:
    """Where both have it: early stops leave the logits out."""
    for a, b in zip(tensors(ours), tensors(reference), strict=True):
        if a is not None and b is not None:
            assert a.shape == b.shape
            assert torch.equal(a, b) if not b.any() else off(a, b) <= tolerance


def as_near(ours: Answer, lone: Answer, double: Answer) -> None:
    """Equal up to rounding, or no further from float64 than three times the lone answer."""
    for a, b, reference in zip(tensors(ours), tensors(lone), tensors(double), strict=True):
        if a is not None and b is not None and reference is not None and b.any():
            assert off(a, b) <= SAME or off(a, reference) <= 3 * off(b, reference)


def weighted(act: Tensor, grad: Tensor) -> Tensor:
    return (act * grad).sum(1)


# By name: the layers that the rows below use, outermost first.
MODELS = [
    ("resnet18", "layer1.1.bn2", "layer3", "layer4.1.relu:0"),
    ("mobilenet_v2", "features.3", "features.11.conv.0.1", "features.17.conv.3"),
    ("densenet121", "features.denseblock1", "features.transition2", "features.denseblock4.denselayer2.norm1"),
    ("googlenet", "maxpool1", "inception4a.branch2", "inception5a.branch3.1.bn"),
]


def mixture(model: Prepared, early: str, middle: str, late: str) -> list[Query]:
    """Everything at once: rules, targets, units, taps, an algebra of objectives, queries of one row and of two."""
    x = pictures(model, 11)
    algebra = 0.2 * channel(middle, 3) - log_prob(5) + 2 * logit(7) - unit(late, 2, 0, 1)
    return [
        Query(x[0:1], logit(3), "image"),
        Query(x[1:2], logit(5), "image", rule="deconvnet"),
        Query(x[2:4], logit(700), "image", taps=(Tap(middle), Tap(early)), rule="guided"),
        Query(x[4:5], log_prob(5), "image", taps=(Tap(late, "input"), Tap(middle, reduce=weighted))),
        Query(x[5:6], unit(middle, 4, 1, 1), "image", taps=(Tap(early),)),
        Query(x[6:8], channel(early, 2), "image"),
        Query(x[8:9], algebra, "image", taps=(Tap(late),)),
        Query(x[9:10], algebra, "image", taps=(Tap(early, "input"), Tap(late)), rule="deconvnet"),
        Query(x[10:11], logit(3), "image", rule="guided"),
    ]


@pytest.mark.parametrize(
    ("make", "row"),
    [(in_double, row) for row in MODELS] + [(prepared, row) for row in MODELS[:2]],
    ids=lambda each: each[0] if isinstance(each, tuple) else each.__name__,
)
def test_a_mixed_batch_equals_lone_passes(make: Callable[[str], Prepared], row: tuple[str, str, str, str]) -> None:
    """In float64 for all; in fp32 the rounding of another batch size turns some ReLUs of the deep random networks.

    On some processors also of those that are compared: then both stay as near to float64 as fp32 does.
    """
    model, double = make(row[0]), in_double(row[0])
    queries, precise = mixture(model, *row[1:]), mixture(double, *row[1:])
    for ours, query, exactly in zip(together(model, queries), queries, precise, strict=True):
        lone = alone(model, query)
        if make is in_double:
            equal(ours, lone, 1e-9)
        else:
            as_near(ours, lone, alone(double, exactly))
        assert ours.image_grad is not None
        assert ours.image_grad.shape == query.images.shape
        assert len(ours.acts) == len(query.taps)


@pytest.mark.parametrize(("name", "early", "middle", "late"), MODELS)
def test_company_of_other_rules_leaves_every_bit(name: str, early: str, middle: str, late: str) -> None:
    model = prepared(name)
    x = pictures(model, 6)
    rules = ["plain", "plain", "guided", "guided", "deconvnet", "deconvnet"]
    mixed = together(model, [Query(x[i : i + 1], logit(i), "image", rule=rules[i]) for i in range(6)])  # type: ignore[arg-type]
    for rule in ("plain", "guided", "deconvnet"):
        pure = together(model, [Query(x[i : i + 1], logit(i), "image", rule=rule) for i in range(6)])  # type: ignore[arg-type]
        for i in (i for i in range(6) if rules[i] == rule):
            equal(mixed[i], pure[i], tolerance=0)
        assert all(off(mixed[i].image_grad, pure[i].image_grad) > 0.01 for i in range(6) if rules[i] != rule)


def test_company_of_other_targets_leaves_every_bit() -> None:
    model = prepared("resnet18")
    x = pictures(model, 3)
    one = together(model, [Query(x[i : i + 1], logit(7), "image") for i in range(3)])
    other = together(model, [Query(x[i : i + 1], logit(7 if i == 1 else 9), "image") for i in range(3)])
    equal(other[1], one[1], tolerance=0)
    assert off(other[0].image_grad, one[0].image_grad) > 0.01


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 1e38])
def test_a_row_that_is_not_finite_stays_alone(bad: float) -> None:
    model = prepared("resnet18")
    x = pictures(model, 3)
    queries = [Query(x[i : i + 1], logit(7), "image", taps=(Tap("layer3"),)) for i in range(3)]
    broken = replace(queries[1], images=torch.full_like(x[:1], bad))
    healthy, hurt = together(model, queries), together(model, [queries[0], broken, queries[2]])
    assert not hurt[1].finite
    for i in (0, 2):
        assert hurt[i].finite
        equal(hurt[i], healthy[i], tolerance=0)


def test_rows_of_a_query_may_come_in_parts() -> None:
    model = prepared("resnet18")
    query = Query(pictures(model, 5), logit(3), "image", taps=(Tap("layer4"),))
    whole = alone(model, query)
    first, rest = differentiate(model, [Part(query, range(2)), Part(query, range(2, 5))])
    for a, b, c in zip(tensors(first), tensors(rest), tensors(whole), strict=True):
        assert a is not None
        assert b is not None
        assert off(torch.cat([a, b]), c) < SAME  # type: ignore[arg-type]


def test_values_follow_the_algebra() -> None:
    model = prepared("resnet18")
    x = pictures(model, 2)
    parts = [logit(3), log_prob(5), unit("layer3", 4, 1, 2), channel("layer2.0.bn1", 6), channel("fc", 9)]
    single = [alone(model, Query(x, p)).value for p in parts]
    factors = [1.0, -2.0, 0.5, 3.0, -1.0]
    total = parts[0] - 2 * parts[1] + parts[2] * 0.5 + 3 * parts[3] + -parts[4]
    assert isinstance(total, Objective)
    value = alone(model, Query(x, total)).value
    assert off(value, sum(f * v for f, v in zip(factors, single, strict=True))) < SAME


# What the layers really gave: hooks on the network that copy at once, before anything can be written over.


class Truth:
    """Activations and gradients of every call of every module in one pass of its own, for one score of the logits."""

    def __init__(self, network: torch.nn.Module, x: Tensor, label: int) -> None:
        self.acts: dict[tuple[str, int], Tensor] = {}
        self.inputs: dict[tuple[str, int], Tensor] = {}
        self.grads: dict[tuple[str, int], Tensor] = {}
        calls = Counter[str]()

        def hook(name: str) -> Any:
            def on_output(module: torch.nn.Module, args: Any, out: Any) -> None:
                tensor, place = first_tensor(out), (name, calls[name])
                calls[name] += 1
                if tensor is not None:
                    self.acts[place] = tensor.detach().clone()
                    tensor.register_hook(lambda grad: self.grads.__setitem__(place, grad.clone()))

            return on_output

        def before(name: str) -> Any:
            return lambda module, args: self.inputs.__setitem__((name, calls[name]), args[0].detach().clone())

        handles = [m.register_forward_hook(hook(name)) for name, m in network.named_modules()]
        handles += [
            m.register_forward_pre_hook(before(n)) for n, m in network.named_modules() if not list(m.children())
        ]
        network(x.clone().requires_grad_())[:, label].sum().backward()
        for handle in handles:
            handle.remove()


def plain(x: Tensor, layer: Layer | None = None) -> Tensor:
    """A layer's tensor, or a map, with channels second, one position per column: [N, C, positions]."""
    if layer and layer.layout in ("nhwc", "tokens"):
        x = x.flatten(1, -2).transpose(1, 2)[:, :, layer.leading :]
    return x.flatten(2) if x.dim() > 2 else x


@pytest.mark.parametrize(
    "name", ["resnet18", "alexnet", "densenet121", "googlenet", "mobilenet_v2", "squeezenet1_1", "swin_t", "vit_b_32"]
)
def test_taps_hold_what_every_layer_really_gave(name: str) -> None:
    model = prepared(name)
    x = pictures(model, 1)
    truth = Truth(model.network, model.normalised(x), 3)
    layers = [layer for layer in model.card.layers if layer.layout != "other" and layer.kind != "relu"]
    ours = alone(model, Query(x, logit(3), "image", taps=tuple(Tap(layer.name) for layer in layers)))
    grads = 0
    for layer, act, grad in zip(layers, ours.acts, ours.act_grads, strict=True):
        place = model.place(layer.name)
        real = truth.acts[place.module, place.call]
        assert off(plain(act), plain(real, layer)) < 1e-5 or not real.any(), layer.name
        assert grad is not None
        real_grad = plain(truth.grads.get((place.module, place.call), torch.zeros_like(real)), layer)
        if real_grad.any():
            grads += 1
            assert off(plain(grad), real_grad) < SAME, layer.name
        else:
            assert not grad.any(), layer.name
    assert grads > len(layers) / 2


def test_taps_hold_what_the_unfolded_network_gives_in_float64() -> None:
    model = in_double("resnet18")
    x = pictures(model, 1)
    truth = Truth(unmodified("resnet18", torch.float64), normalised(x), 3)
    names = ["bn1", "layer1.0.bn1", "layer2.0.downsample", "layer4.1.bn2", "layer4.1.relu:0", "layer4.1.relu", "fc"]
    ours = alone(model, Query(x, logit(3), "image", taps=tuple(Tap(name) for name in names)))
    for name, act, grad in zip(names, ours.acts, ours.act_grads, strict=True):
        place = model.place(name)
        assert off(act, truth.acts[place.module, place.call]) < 1e-6, name
        assert off(grad, truth.grads[place.module, place.call]) < 1e-6, name  # type: ignore[arg-type]


def test_the_unguarded_tap_would_be_wrong() -> None:
    """The reason for the clones: `out += identity` and the ReLU after it write over layer4.1.bn2's output."""
    model = prepared("resnet18")
    x = pictures(model, 1)
    kept: list[Tensor] = []
    handle = model.network.get_submodule("layer4.1.bn2").register_forward_hook(lambda m, a, out: kept.append(out))
    model(x)
    handle.remove()
    act = alone(model, Query(x, taps=(Tap("layer4.1.bn2"),))).acts[0]
    assert off(kept[0], act) > 0.1


@pytest.mark.parametrize("wrt", ["image", "taps"])
def test_input_taps(wrt: Any) -> None:
    model = prepared("resnet18")
    x = pictures(model, 1)
    places = ["layer3", "layer4.1.relu:0", "layer4.1.relu:1", "fc"]
    truth = Truth(model.network, model.normalised(x), 3)
    ours = alone(model, Query(x, logit(3), wrt, taps=tuple(Tap(name, "input") for name in places)))
    for name, act in zip(places, ours.acts, strict=True):
        place = model.place(name, "input")
        real = truth.inputs.get((place.module, place.call))
        if real is not None:
            assert off(act, real) < 1e-6, name
    assert off(ours.act_grads[3], model.network.get_submodule("fc").weight[3:4]) < 1e-6  # type: ignore[arg-type, operator]
    assert off(ours.acts[0], alone(model, Query(x, taps=(Tap("layer2"),))).acts[0]) < 1e-6


@pytest.mark.parametrize("wrt", ["image", "taps"])
def test_the_gradient_of_an_input_is_of_that_way_into_the_module(wrt: Any) -> None:
    """In a fork the tensor goes elsewhere too, and is written over later."""
    spec = ModelSpec(name="fork", builder="networks:fork", height=16, width=24)
    model = prepare(spec, CPU)
    x = pictures(model, 2)
    taps = (Tap("left", "input"), Tap("left"), Tap("same"))
    ours = alone(model, Query(x, logit(1), wrt, taps=taps))
    network: Any = model.network
    stem = network.stem(model.normalised(x))
    into_left, into_same = stem.detach().clone().requires_grad_(), stem.detach().clone().requires_grad_()
    left = network.left(into_left)
    left.retain_grad()
    network.head((left + 2 * into_same + 3 * stem).mean((2, 3)))[:, 1].sum().backward()
    for act, real in zip(ours.acts, (stem, left, stem), strict=True):
        assert off(act, real) < 1e-6
    for grad, real in zip(ours.act_grads, (into_left, left, into_same), strict=True):
        assert off(grad, real.grad) < 1e-6  # type: ignore[arg-type]


def test_inputs_have_a_layout_of_their_own() -> None:
    """Swin's `permute` takes [N, h, w, C] and gives [N, C, h, w]."""
    model = prepared("swin_t")
    taps = (Tap("permute", "input"), Tap("permute"), Tap("head", "input"))
    before, after, vector = alone(model, Query(pictures(model, 2), taps=taps)).acts
    assert before.shape == (2, 384, 2, 3)
    assert torch.equal(before, after)
    assert vector.shape == (2, 384)


def test_a_layer_of_windows_is_refused() -> None:
    """Its first dimension counts windows, so that rows of other callers would be handed out."""
    model = prepare(ModelSpec(name="windows", builder="networks:windows", height=16, width=16), CPU)
    assert [layer.layout for layer in model.card.layers] == ["other", "other"]
    with pytest.raises(NotApplicable, match="'quarters' mixes images with positions"):
        alone(model, Query(torch.rand(2, 3, 16, 16), logit(1), "image", taps=(Tap("quarters"),)))


def test_gradients_by_taps_alone_are_the_same() -> None:
    model = prepared("resnet18")
    x = pictures(model, 3)
    taps = (Tap("layer2"), Tap("layer4.1.bn2"), Tap("layer4", reduce=weighted), Tap("layer3.0", "input"))
    by_image = alone(model, Query(x, logit(3), "image", taps=taps))
    by_taps = alone(model, Query(x, logit(3), "taps", taps=taps))
    assert by_taps.image_grad is None
    equal(by_taps, replace(by_image, image_grad=None), tolerance=1e-6)


def test_rows_with_other_taps_do_not_disturb() -> None:
    model = prepared("resnet18")
    x = pictures(model, 4)
    queries = [
        Query(x[0:1], logit(3), "taps", taps=(Tap("layer4"),)),
        Query(x[1:2], logit(4), "taps", taps=(Tap("layer1"), Tap("layer4.1.bn2"))),
        Query(x[2:3], unit("layer3", 3, 1, 1), "taps", taps=(Tap("layer2"),)),
        Query(x[3:4], channel("layer2", 3), "taps", taps=(Tap("layer2"), Tap("layer4"))),
    ]
    for ours, query in zip(together(model, queries), queries, strict=True):
        equal(ours, alone(model, query))
    last = alone(model, queries[3])
    assert off(last.act_grads[0], torch.full_like(last.acts[0][:, :1], 1 / 96).expand(-1, 128, -1, -1)) > 0.9  # type: ignore[arg-type]
    assert last.act_grads[1] is not None
    assert not last.act_grads[1].any(), "layer4 comes after the score"


def test_one_call_of_a_module_under_both_its_names() -> None:
    model = prepared("resnet18")
    x = pictures(model, 2)
    queries = [
        Query(x[:1], channel("layer4.1.relu", 3), "image", taps=(Tap("layer4.1.relu:1"),)),
        Query(x[1:], channel("layer4.1.relu:1", 3), "image", taps=(Tap("layer4.1.relu:0"),)),
    ]
    for ours, query in zip(together(model, queries), queries, strict=True):
        equal(ours, alone(model, query))
    acts = alone(model, Query(x, taps=(Tap("layer4.1.relu"), Tap("layer4.1.relu:0"), Tap("layer4.1.relu:1")))).acts
    assert torch.equal(acts[0], acts[2])
    assert off(acts[0], acts[1]) > 0.1


# Early stop.


def test_the_forward_stops_early_with_the_same_gradient() -> None:
    model = prepared("resnet18")
    x = pictures(model, 2)
    score = unit("layer3", 3, 1, 1) + channel("layer1", 2)
    ran: list[str] = []

    def note(name: str) -> Any:
        return model.network.get_submodule(name).register_forward_hook(lambda m, a, out: ran.append(name))

    handles = [note(name) for name in ("layer3", "layer4", "fc")]
    stopped = alone(model, Query(x, score, "image", taps=(Tap("layer2"),)))
    assert ran == ["layer3"]
    whole = alone(model, Query(x, score + 0 * logit(0), "image", taps=(Tap("layer2"),)))
    assert ran == ["layer3", "layer3", "layer4", "fc"]
    for handle in handles:
        handle.remove()
    assert stopped.logits is None
    assert whole.logits is not None
    equal(stopped, whole, tolerance=1e-6)


def test_an_early_stop_keeps_no_activation_alive() -> None:
    model = prepared("resnet18")
    x = pictures(model, 2)
    alive: list[weakref.ref[Tensor]] = []
    names = ("layer1.0.conv1", "layer1", "layer2", "layer3")
    handles = [
        model.network.get_submodule(name).register_forward_hook(lambda m, a, out: alive.append(weakref.ref(out)))
        for name in names
    ]
    gc.collect()
    gc.disable()
    try:
        for wrt in ("image", "taps", "nothing"):
            alone(model, Query(x, channel("layer3.0.bn1", 3), wrt, taps=(Tap("layer2"),)))  # type: ignore[arg-type]
        assert len(alive) == 9
        assert [ref() for ref in alive] == [None] * 9
    finally:
        gc.enable()
        for handle in handles:
            handle.remove()


# Nothing is left behind.


def state(model: Prepared) -> tuple[object, ...]:
    modules = [(name, id(module), module.training) for name, module in model.network.named_modules()]
    hooks = [
        sum(len(getattr(module, kind)) for kind in ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks"))
        for module in model.network.modules()
    ]
    grads = [p.grad is None and not p.requires_grad for p in model.network.parameters()]
    modes = torch._C._len_torch_function_stack()
    return modules, hooks, grads, modes, torch.is_grad_enabled(), digest(model.network)


@pytest.mark.parametrize(("name", "early", "middle", "late"), MODELS)
def test_the_model_is_left_as_it_was(name: str, early: str, middle: str, late: str) -> None:
    model = prepared(name)
    queries = mixture(model, early, middle, late)
    images = [query.images.clone() for query in queries]
    before = state(model)
    assert set(before[1]) == {0}  # type: ignore[call-overload]
    together(model, queries)
    alone(model, Query(queries[0].images, taps=(Tap(early),)))
    alone(model, Query(queries[0].images, channel(middle, 1), "taps", taps=(Tap(early, "input"),), rule="guided"))
    assert state(model) == before
    assert all(torch.equal(query.images, image) for query, image in zip(queries, images, strict=True))
    assert not any(query.images.requires_grad for query in queries)


@pytest.fixture(scope="module")
def moody() -> Prepared:
    return prepare(ModelSpec(name="moody", builder="networks:moody", height=16, width=16), CPU)


def test_a_failing_pass_leaves_nothing_either(moody: Prepared) -> None:
    before = state(moody)
    query = Query(torch.full((1, 3, 16, 16), 1e9), logit(1), "image", taps=(Tap("often"), Tap("stem")), rule="guided")
    with pytest.raises(ArithmeticError, match="too bright"):
        alone(moody, query)
    with pytest.raises(ArithmeticError, match="too bright"):
        alone(moody, replace(query, images=-query.images, rule="deconvnet"))
    assert state(moody) == before
    assert alone(moody, replace(query, images=query.images * 1e-9)).value is not None


def test_a_layer_that_does_not_run_on_this_input_is_refused(moody: Prepared) -> None:
    before = state(moody)
    with pytest.raises(NotApplicable, match="'often' did not run"):
        alone(moody, Query(torch.rand(1, 3, 16, 30), channel("often", 1), "image"))
    assert state(moody) == before


def test_answers_do_not_share_a_graph() -> None:
    model = prepared("resnet18")
    query = Query(pictures(model, 1), logit(3), "image", taps=(Tap("layer4"), Tap("layer3", reduce=weighted)))
    for tensor in tensors(alone(model, query)):
        assert tensor is None or not tensor.requires_grad
