"""Differentiate against plain autograd: values, logits and gradients by pixels and layers; and how gradients travel."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from zoo import in_double, off, pictures

from gradserve_server.engine.engine import Engine
from gradserve_server.engine.events import Ended
from gradserve_server.engine.job import Job
from gradserve_server.engine.objective import NotApplicable
from gradserve_server.engine.query import Query
from gradserve_server.methods.differentiate import DifferentiateArguments, Differentiated, differentiate, encode
from gradserve_server.methods.goals import Goal, Summand
from gradserve_server.methods.targets import Contrast, Direction, Similarity, Target
from gradserve_server.models.prepared import Prepared

LAYERS = {"squeezenet1_1": ("features.5", "features.10"), "mobilenet_v2": ("features.4", "features.14")}
NAMES = list(LAYERS)
CHANNEL, WEIGHT = 5, -0.25
Score = Callable[[Tensor, dict[str, Tensor]], Tensor]  # From logits [n, classes] and layers [n, C, h, w] to [n].


def job(x: Tensor, arguments: DifferentiateArguments, name: str = "job", **facts: Any) -> Job:
    return Job(name, "model", lambda job: differentiate(job, x, arguments), **facts)


def ran(model: Prepared, *jobs: Job, rows: int | None = None) -> dict[str, Any]:
    """The results of jobs that run together, by their names; raises what ended one."""
    engine = Engine({"model": model}, rows=rows)
    for each in jobs:
        engine.submit(each)
    results = {}
    while not engine.idle:
        for event in engine.step():
            if isinstance(event, Ended):
                if event.error is not None:
                    raise event.error
                results[event.job.id] = event.result
    return results


def differentiated(model: Prepared, x: Tensor, *goals: Goal, **arguments: Any) -> Differentiated:
    """The answer of a job that is alone."""
    facts = {"wrt": "taps" if arguments.get("layer") else "image", **arguments}
    result: Differentiated = ran(model, job(x, DifferentiateArguments(goals, **facts)))["job"]
    return result


def by_autograd(
    model: Prepared, x: Tensor, score: Score, layers: tuple[str, ...] = (), layer: str = ""
) -> tuple[Tensor, Tensor, Tensor]:
    """Values, logits and the gradient by the pixels [n, H, W, 3] or a layer, in one pass of plain torch."""
    kept: dict[str, Tensor] = {}
    hooks = []
    for name in {*layers, *([layer] if layer else [])}:
        module = model.network.get_submodule(name)

        def keep(_: Any, __: Any, out: Tensor, name: str = name) -> Tensor:
            kept[name] = out if out.requires_grad else out.detach().requires_grad_()
            return kept[name].clone()

        hooks.append(module.register_forward_hook(keep))
    images = x.contiguous(memory_format=torch.channels_last).requires_grad_(not layer)
    with torch.enable_grad():
        logits = model(images)
        values = score(logits, kept)
        (grad,) = torch.autograd.grad(values.sum(), kept[layer] if layer else images)
    [hook.remove() for hook in hooks]
    return values.detach(), logits.detach(), grad if layer else grad.permute(0, 2, 3, 1)


def goals_of(model: Prepared, name: str) -> dict[str, tuple[Goal, Score, tuple[str, ...]]]:
    """Each kind of term, with its score written in torch and the layers that this reads."""
    early, late = LAYERS[name]
    classes, channels = len(model.card.classes), model.card.layer(late).channels  # type: ignore[union-attr]
    generator = torch.Generator().manual_seed(1)
    factors = torch.randn(classes, generator=generator).numpy()
    vector = torch.randn(channels, generator=generator).to(model.dtype)
    unit = vector / vector.norm()
    sum_ = (Summand(2.0, Target(label=3)), Summand(WEIGHT, Target(layer=early, channel=CHANNEL, position=(2, 1))))
    contrast = Contrast(((Target(label=3), 1.0), (Target(label=7), -0.5)))
    return {
        "class": ((Summand(target=Target(label=3)),), lambda z, _: z[:, 3], ()),
        "rank": ((Summand(target=Target(rank=2)),), lambda z, _: z.sort(1, descending=True).values[:, 1], ()),
        "unit": (
            (Summand(target=Target(layer=late, channel=CHANNEL, position=(1, 2))),),
            lambda z, at: at[late][:, CHANNEL, 1, 2],
            (late,),
        ),
        "channel": (
            (Summand(target=Target(layer=late, channel=CHANNEL)),),
            lambda z, at: at[late][:, CHANNEL].mean((1, 2)),
            (late,),
        ),
        "direction": (
            (Summand(target=Direction(late, tuple(vector.tolist()))),),
            lambda z, at: torch.einsum("nchw,c->nhw", at[late], unit).mean((1, 2)),
            (late,),
        ),
        "vector over the logits": (
            (Summand(WEIGHT, factors=factors),),
            lambda z, _: WEIGHT * (z * torch.from_numpy(factors).to(z)).sum(1),
            (),
        ),
        "sum": (sum_, lambda z, at: 2 * z[:, 3] + WEIGHT * at[early][:, CHANNEL, 2, 1], (early,)),
        "contrast": ((Summand(target=contrast),), lambda z, _: z[:, 3] - 0.5 * z[:, 7], ()),
        "similarity": similarity_to_another(model, late),
    }


def similarity_to_another(model: Prepared, layer: str) -> tuple[Goal, Score, tuple[str, ...]]:
    """The cosine of a layer's features and those of another picture."""
    other = (pictures(model, 1, seed=9)[0].permute(1, 2, 0) * 255).round().byte().numpy()
    features = features_of(model, layer, other)
    return (
        (Summand(target=Similarity(layer, other)),),
        lambda z, at: F.cosine_similarity(at[layer].mean((2, 3)), features),
        (layer,),
    )


def features_of(model: Prepared, layer: str, image: np.ndarray) -> Tensor:
    """[1, C], by a forward pass of plain torch."""
    kept = []
    hook = model.network.get_submodule(layer).register_forward_hook(lambda m, a, out: kept.append(out.clone()))
    with torch.no_grad():
        model((torch.from_numpy(image).permute(2, 0, 1)[None].to(model.dtype)) / 255)
    hook.remove()
    return kept[0].mean((2, 3))


KINDS = [
    "class",
    "rank",
    "unit",
    "channel",
    "direction",
    "vector over the logits",
    "sum",
    "contrast",
    "similarity",
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", NAMES)
def test_the_gradient_by_pixels_is_that_of_autograd_to_the_bit(name: str, kind: str) -> None:
    model = in_double(name)
    x = pictures(model, 1)
    goal, score, layers = goals_of(model, name)[kind]
    values, logits, grad = by_autograd(model, x, score, layers)
    found = raw(model, x, goal)
    assert torch.equal(found.image_grad.permute(0, 2, 3, 1), grad)
    ours = differentiated(model, x, goal)
    assert ours.values == pytest.approx(values.numpy(), rel=1e-12)
    assert ours.gradient is not None
    assert np.array_equal(ours.gradient, grad.float().numpy())
    if ours.logits is not None:
        assert np.array_equal(ours.logits, logits.float().numpy())
    assert (ours.logits is None) == (kind in ("unit", "channel", "direction", "similarity"))


def raw(model: Prepared, x: Tensor, goal: Goal) -> Any:
    """The engine's answer to the query that Differentiate makes of a goal, in the model's own type."""
    engine, answers = Engine({"model": model}), []

    def watched(job: Job) -> Any:
        steps = differentiate(job, x, DifferentiateArguments((goal,), "image"))
        try:
            request = next(steps)
            while True:
                answer = yield request
                answers.append(answer)
                request = steps.send(answer)
        except StopIteration as stop:
            return stop.value

    engine.submit(Job("job", "model", watched))
    while not engine.idle:
        engine.step()
    return answers[-1][0]


@pytest.mark.parametrize("kind", ["class", "unit", "sum", "similarity"])
@pytest.mark.parametrize("name", NAMES)
def test_the_gradient_by_a_layer_is_that_of_autograd_to_the_bit(name: str, kind: str) -> None:
    model = in_double(name)
    x, layer = pictures(model, 1), LAYERS[name][0]
    goal, score, layers = goals_of(model, name)[kind]
    values, _, grad = by_autograd(model, x, score, layers, layer)
    ours = differentiated(model, x, goal, layer=layer)
    assert ours.values == pytest.approx(values.numpy(), rel=1e-12)
    assert ours.gradient is not None
    assert np.array_equal(ours.gradient, grad.float().numpy())


@pytest.mark.parametrize("layer", ["", "features.5"])
def test_in_company_every_row_is_what_it_is_alone(layer: str) -> None:
    """Rows of several jobs with goals and rules of their own share passes; in float64, far below 1e-6."""
    model = in_double("squeezenet1_1")
    x, kinds = pictures(model, 8), goals_of(model, "squeezenet1_1")
    wrt: Any = "taps" if layer else "image"
    first = DifferentiateArguments(tuple(kinds[kind][0] for kind in ("class", "rank", "sum", "contrast")), wrt, layer)
    second = DifferentiateArguments((kinds["vector over the logits"][0],), wrt, layer, "guided")
    third = DifferentiateArguments((kinds["similarity"][0],), wrt, layer, "deconvnet")
    shares = {"first": (x[:4], first), "second": (x[4:7], second), "third": (x[7:], third)}
    together = ran(model, *(job(*share, name=name) for name, share in shares.items()), rows=8)
    for name, (images, arguments) in shares.items():
        for i in range(len(images)):
            goals = arguments.goals[i : i + 1] if len(arguments.goals) > 1 else arguments.goals
            lone = differentiated(model, images[i : i + 1], *goals, wrt=wrt, layer=layer, rule=arguments.rule)
            assert off(torch.from_numpy(together[name].gradient[i]), torch.from_numpy(lone.gradient[0])) < 1e-6
            assert together[name].values[i] == pytest.approx(lone.values[0], rel=1e-9)


@pytest.mark.parametrize("rule", ["guided", "deconvnet"])
def test_the_rules_are_those_of_explain(rule: Any) -> None:
    model = in_double("squeezenet1_1")
    x = pictures(model, 1)
    ours = differentiated(model, x, (Summand(target=Target(label=3)),), rule=rule)
    plain = differentiated(model, x, (Summand(target=Target(label=3)),))
    engine, kept = Engine({"model": model}), []

    def method(job: Job) -> Any:
        kept.append((yield Query(x, Target(label=3).objective(None), "image", rule=rule)))  # type: ignore[arg-type]

    engine.submit(Job("job", "model", method))
    while not engine.idle:
        engine.step()
    assert np.array_equal(ours.gradient, kept[0].image_grad.permute(0, 2, 3, 1).float().numpy())  # type: ignore[arg-type]
    assert not np.array_equal(ours.gradient, plain.gradient)  # type: ignore[arg-type]


def test_others_of_the_top_are_those_of_each_row() -> None:
    model = in_double("squeezenet1_1")
    x = pictures(model, 3)
    ours = differentiated(model, x, (Summand(target=Contrast(((Target(rank=2), 1.0),), top=4)),))

    def score(z: Tensor, _: Any) -> Tensor:
        best = z.sort(1, descending=True).values
        return best[:, 1] - best[:, [0, 2, 3]].mean(1)

    values, _, grad = by_autograd(model, x, score)
    assert ours.values == pytest.approx(values.numpy(), rel=1e-9)
    assert off(torch.from_numpy(ours.gradient), grad.float()) < 1e-6


@pytest.mark.parametrize("several", [False, True])
def test_a_rank_that_is_the_class_it_is_contrasted_with_is_refused(several: bool) -> None:
    model = in_double("squeezenet1_1")
    x = pictures(model, 2)
    with torch.no_grad():
        best = model(x).argmax(1).tolist()
    fine = (Summand(target=Target(rank=1)), Summand(-1.0, Target(label=(best[1] + 1) % 1000)))
    bad = (Summand(target=Contrast(((Target(rank=1), 1.0), (Target(label=best[1]), -1.0)))),)
    with pytest.raises(NotApplicable, match=rf"images\[\d\]: class {best[1]} is contrasted with itself"):
        differentiated(model, x, *([fine, bad] if several else [bad]))


def test_a_forward_pass_alone_gives_values_and_logits() -> None:
    model = in_double("squeezenet1_1")
    x = pictures(model, 2)
    ours = differentiated(model, x, (Summand(target=Target(label=3)),), wrt="nothing")
    with torch.no_grad():
        logits = model(x)
    assert ours.logits == pytest.approx(logits.numpy(), rel=1e-5)
    assert ours.values == pytest.approx(logits[:, 3].numpy(), rel=1e-9)
    assert (ours.gradient, ours.scales) == (None, None)


# How gradients travel

LARGEST = {"float32": 2**-23, "bfloat16": 2**-8, "float16": 2**-11}  # The largest relative errors of rounding.


def rows() -> Tensor:
    """Rows as different as gradients are: usual, saturated, nearly nothing, nothing, huge; with wide ranges inside."""
    wide = torch.logspace(0, -7, 4 * 6 * 3).view(4, 6, 3) * torch.where(torch.arange(3) % 2 == 0, 1.0, -1.0)
    scales = [1.0, 1e-12, 1e-30, 0.0, 3e37]
    return torch.stack([wide * scale for scale in scales])


@pytest.mark.parametrize("form", LARGEST)
def test_every_row_survives_within_the_precision_of_its_format(form: Any) -> None:
    gradient = rows()
    numbers, scales = encode(gradient, form)
    assert numbers is not None
    if form == "bfloat16":
        values = (numbers.view(np.uint16).astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    else:
        values = numbers.astype(np.float64)
    if form == "float16":
        assert scales is not None
        assert (np.frexp(scales)[0] == 0.5).all(), "a power of two"
        values *= scales.reshape(-1, 1, 1, 1)
    exact = gradient.double().numpy()
    assert (np.abs(values - exact) <= LARGEST[form] * np.abs(exact)).all()
    assert not values[3].any()


def test_plain_float16_would_lose_what_the_scale_keeps() -> None:
    saturated = rows()[1]
    assert not saturated.half().any()
    numbers, scales = encode(saturated[None], "float16")
    assert numbers is not None
    assert numbers.all()
    assert scales is not None
    assert scales[0] < 1e-15
