"""What is served of networks as people write them: the same as in plain torch, or a refusal that says what to do.

The networks are those of `kinds.py` and, where the folder is there, those of ../shared/cases.
"""

import sys
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from methods import attacks
from methods.runs import answer
from paths import CASES
from torch import Tensor, nn
from zoo import CPU

from gradserve.v1 import common_pb2 as pb
from gradserve_server.api.pictures.images import ModelInput
from gradserve_server.api.reply import provenance
from gradserve_server.api.request import Bound
from gradserve_server.engine.engine import Engine
from gradserve_server.engine.events import Ended
from gradserve_server.engine.job import Job
from gradserve_server.methods.attack import GoalSpec
from gradserve_server.methods.attack.certificate import CertifyArguments, certify
from gradserve_server.methods.attack.input_transform import InputTransform
from gradserve_server.methods.influence.coverage import covered
from gradserve_server.methods.influence.gradients import Pass
from gradserve_server.models.behaviour import varied
from gradserve_server.models.catalogue import PRECISIONS, ModelSpec
from gradserve_server.models.loading import LoadError, load
from gradserve_server.models.preparation import prepare
from gradserve_server.models.prepared import Prepared
from gradserve_server.pool.wire import Outcome, Task

if CASES.is_file() and "cases" not in sys.modules:
    found = spec_from_file_location("cases", CASES)
    sys.modules["cases"] = module_from_spec(found)
    found.loader.exec_module(sys.modules["cases"])

ONE_CHANNEL = {"channels": 1, "mean": (0.45,), "std": (0.22,)}
SIZE = {"height": 64, "width": 64, "resize": 64, "mean": (0.48, 0.45, 0.4), "std": (0.22, 0.23, 0.24)}
RANDOM, DEPENDENT = "something in its forward is random", "depend on the other images of its batch"
NO_GRADIENT = "cannot be differentiated by the image"


class Kind(NamedTuple):
    """A network and what is served of it."""

    builder: str
    refused: str = ""  # What the refusal says; empty where the network is served.
    no_gradient: bool = False
    unbatched: bool = False  # Whether every image has a pass of its own.
    unfolded: bool = False  # Whether it is not folded, with a note.
    untouched: bool = False  # Whether it is neither folded nor has the CPU's kernels, with a note.
    casts: bool = False  # Whether it casts inside, so that there is no float64.
    no_fast: bool = False
    inside: bool = False  # Whether what goes into its last module, a softmax, is served.
    facts: dict[str, Any] = {}  # noqa: RUF012  # of its catalogue entry

    @property
    def name(self) -> str:
        """For the test's name."""
        return f"{self.builder}{self.facts.get('arguments', '')}{self.facts.get('head', '')}"


def with_arguments(builder: str, how: str, refused: str = "", **facts: Any) -> Kind:
    """One of rare_kinds whose builder is told how."""
    return Kind(f"rare_kinds:{builder}", refused, facts={"arguments": {"how": how}}, **facts)


def of_size(side: int, **facts: Any) -> dict[str, Any]:
    """Facts of a network of another size."""
    return {"height": side, "width": side, "resize": side, **facts}


MIXED = ("flipped", "sorted", "centred", "flipped in fours")
DIFFERENTIATED = ("plain", "enabled", "backward", "func")
OWN = [
    *(Kind(f"kinds:norm_with_{what}") for what in ("activation", "scale", "hook", "own_forward")),
    *(Kind(f"kinds:conv_{what}") for what in ("with_shift", "quantised", "parametrised", "with_hooks")),
    *(Kind(f"kinds:{name}") for name in ("conv_masked_in_forward", "listed_and_named", "in_two_containers")),
    *(Kind(f"kinds:{name}") for name in ("conv_called_twice", "weight_shared")),
    Kind("kinds:depends_on_size", unfolded=True),
    *(Kind(f"kinds:{name}") for name in ("head_of_angles", "head_with_hook", "head_scaled_after")),
    *(Kind(f"kinds:{name}") for name in ("aux_branches", "own_transform")),
    *(Kind(f"kinds:output_{what}") for what in ("object", "pair", "dict", "list_of_maps")),
    Kind("kinds:output_ambiguous", r"unclear which are the logits"),
    Kind("kinds:output_of_maps", r"a dict with features of shape \[\d+, 20, \d+, \d+\], and none of it is a score"),
    Kind("kinds:through_numpy", no_gradient=True, unbatched=True, no_fast=True),
    Kind("kinds:without_gradient", no_gradient=True),
    *(Kind(f"kinds:{name}", RANDOM) for name in ("noisy", "drops_blocks")),
    *(Kind(f"kinds:{name}", DEPENDENT) for name in ("divides_by_maximum", "subtracts_batch_mean")),
    Kind("kinds:without_statistics", DEPENDENT),
    *(Kind(f"kinds:{name}", unbatched=True) for name in ("branches_by_maximum", "loops_by_value")),
    *(Kind(f"kinds:{name}") for name in ("writes_over_input", "views_maps", "in_data_parallel")),
    Kind("kinds:casts_inside", casts=True, no_fast=True),
    Kind("kinds:one_channel", facts=ONE_CHANNEL),
    Kind("kinds:one_channel", "channels = 1"),
    Kind("kinds:scripted_part", "TorchScript"),
    Kind("kinds:weights_of_complex_numbers", casts=True),
    Kind("kinds:two_outputs_of_which_one_is_clear"),
    Kind("kinds:otherwise_for_larger_batches", DEPENDENT),
    Kind("kinds:remembers_in_an_attribute", RANDOM),
    Kind("kinds:overflows", "infinite or NaN, for every test image"),
    *(Kind(f"kinds:norm_{what}", "writes over its own norm1.mean") for what in ("of_first_batch", "that_drifts")),
    Kind("kinds:positions_resized_for_good", "writes over its own places"),
    *(
        Kind(
            "kinds:feature_of_a_hook",
            no_gradient=frozen,
            untouched=True,
            no_fast=True,
            facts={"arguments": {"fixed": fixed, "frozen": frozen}},
        )
        for fixed, frozen in ((True, True), (True, False), (False, True), (False, False))
    ),
    Kind("kinds:weight_written_by_image", "writes over its own deep.weight"),
    *(Kind("kinds:random_beside_masked", RANDOM, facts={"arguments": {"hidden": x}}) for x in (-1e9, -float("inf"))),
    *(Kind("kinds:mean_beside_masked", DEPENDENT, facts={"arguments": {"hidden": x}}) for x in (-1e9, -float("inf"))),
    *(Kind(f"kinds:{name}", DEPENDENT) for name in ("nan_for_dark", "white_changes_all")),
    *(
        Kind("kinds:branches_after", unbatched=True, facts={"arguments": {"what": what}})
        for what in ("script", "vmap", "nonzero", "mask", "written")
    ),
    Kind("kinds:squeezed", r"\[6\] for one image and a tensor \[4, 6\] for 4"),
    Kind("kinds:weights_lent", unfolded=True),
    *(Kind(f"kinds:{name}") for name in ("by_a_constant", "named_tuple_inside", "two_views_stacked")),
    *(Kind(f"kinds:{name}") for name in ("in_graph_module", "called_by_keyword", "called_past_hooks")),
    *(with_arguments("rows", how, unbatched=True) for how in MIXED),
    *(with_arguments("rows", how) for how in ("repeated", "two crops")),
    *(Kind("rare_kinds:queries", facts={"arguments": {"count": count}}) for count in (2, 5)),
    *(with_arguments("offset", f"dependent{beside}", DEPENDENT) for beside in ("", " masked")),
    *(with_arguments("offset", f"random{beside}", RANDOM) for beside in ("", " masked")),
    with_arguments("offset", "none", no_fast=True),
    with_arguments("offset", "none masked"),
    with_arguments("offset", "folded", no_fast=True),
    Kind("rare_kinds:output_of_own_class"),
    Kind("rare_kinds:output_beside_complex", no_fast=True),
    Kind("rare_kinds:output_complex", r"returns complex numbers; return scores that are real"),
    *(Kind(f"rare_kinds:output_{what}", "a nested or sparse tensor; return a dense") for what in ("sparse", "nested")),
    *(with_arguments("differentiates", how, r"differentiates \(torch.autograd") for how in DIFFERENTIATED),
    *(with_arguments("exported", how, "program of torch.export") for how in ("program", "module", "unflattened")),
    *(with_arguments("quantised", how, "before its weights were quantised") for how in ("dynamic", "static")),
]
RELUS = ("module", "functional", "inplace", "method", "clamp", "clamp_min", "threshold", "times_mask", "maximum")
PLAIN_CASES = [
    *("plain", "norm_act", "weight_standardised", "conv_with_hook", "old_weight_norm", "new_weight_norm", "spectral"),
    *("pruned", "aliased", "two_norms", "cosine_head", "aux_used", "aux_named", "transform_input"),
    *("two_classes", "three_classes", "four_classes", "tuple_out", "dict_out"),
    *("map_out", "constant_out", "in_place_input", "side_branch", "grey", "dense", "parallel", "compiled"),
    *("half_model", "dead_relu", "overflowing", "softmax_twin"),
]
SHARED = [
    *(Kind(f"cases:{name}") for name in PLAIN_CASES),
    Kind("cases:aliased_resnet", facts=of_size(32)),
    *(Kind(f"cases:{name}", inside=True) for name in ("softmax_out", "log_softmax_out")),
    Kind("cases:one_logit", "single number"),
    Kind("cases:one_logit", facts={"head": "binary"}),
    *(Kind(f"cases:{name}", no_gradient=True) for name in ("no_grad_backbone", "detached_backbone")),
    *(Kind(f"cases:{name}", no_gradient=True) for name in ("inference_backbone", "no_grad_all")),
    Kind("cases:functional_dropout", RANDOM),
    Kind("cases:batch_statistics", DEPENDENT),
    Kind("cases:by_value", unbatched=True),
    Kind("cases:one_channel", facts=ONE_CHANNEL),
    Kind("cases:double_out", casts=True, no_fast=True),
    *(Kind(f"cases:{name}", "TorchScript") for name in ("scripted", "traced")),
    *(Kind("cases:relu_kind", facts={"arguments": {"kind": kind}}) for kind in (*RELUS, "leaky0", "reference")),
    *(
        Kind("cases:tokens", facts={"arguments": {"extra": extra, "after": after, "pool": pool}})
        for extra, after, pool in ((1, 0, "cls"), (0, 0, "mean"), (2, 0, "cls"), (5, 0, "mean"), (0, 1, "cls"))
    ),
]
TIMM = {
    **dict.fromkeys(("test_byobnet", "test_convnext", "test_efficientnet", "test_efficientnet_evos", "test_nfnet"), 64),
    "test_resnet": 64,
    "mobilenetv3_small_050": 64,
}
VITS = (
    {"name": "test_vit", "img_size": 64},
    {"name": "deit_tiny_distilled_patch16_224", "img_size": 64, "depth": 4},
)


OTHERS = [
    *(Kind("kinds:of_timm", facts=of_size(side, arguments={"name": name})) for name, side in TIMM.items()),
    *(Kind("kinds:of_timm", facts=of_size(64, arguments=arguments)) for arguments in VITS),
    Kind("kinds:mixer", facts=of_size(128)),
]
NOTHING_TO_ATTACK = ("cases:constant_out", "cases:dead_relu")
KINDS = [*OWN, *OTHERS, *(SHARED if CASES.is_file() else [])]
SERVED = [kind for kind in KINDS if not kind.refused]
DIFFERENTIABLE = [kind for kind in SERVED if not kind.no_gradient]


def by_name(kinds: list[Kind]) -> Any:
    return pytest.mark.parametrize("kind", kinds, ids=lambda kind: kind.name)


def spec_of(kind: Kind) -> ModelSpec:
    return ModelSpec.model_validate(
        {"name": "it", "builder": kind.builder, "precisions": PRECISIONS, **SIZE, **kind.facts}
    )


@cache
def _prepared(name: str, dtype: torch.dtype, fold: bool) -> Prepared:
    return prepare(spec_of(next(kind for kind in KINDS if kind.name == name)), CPU, dtype, fold=fold)


@pytest.fixture(scope="module", autouse=True)
def _forget() -> Iterator[None]:
    """Frees the memory of all these networks."""
    yield
    _prepared.cache_clear()
    _reference.cache_clear()


def served(kind: Kind, dtype: torch.dtype = torch.float32, fold: bool = True) -> Prepared:
    """The network as the engine uses it."""
    return _prepared(kind.name, dtype, fold)


def built(kind: Kind) -> nn.Module:
    """The network afresh from its author's code, in eval mode."""
    module, _, function = kind.builder.partition(":")
    network = getattr(import_module(module), function)(**kind.facts.get("arguments", {}))
    return network.eval().float().requires_grad_(False)


def plain(kind: Kind, images: Tensor, network: nn.Module | None = None) -> tuple[Tensor, Tensor]:
    """Logits and the gradient of each image's highest, image by image in plain torch, in the images' number format."""
    network = built(kind) if network is None else network
    network = network if kind.casts else network.to(images.dtype)
    spec = spec_of(kind)
    logits, gradients = [], []
    for image in images.split(1):
        image = image.clone().requires_grad_()
        x = image if spec.mean is None or len(spec.mean) == 3 else grey(image)
        mean, std = (torch.tensor(each, dtype=image.dtype).view(-1, 1, 1) for each in (spec.mean, spec.std))
        with torch.inference_mode(False):
            logits.append(logits_of(kind, network, (x - mean) / std).to(image.dtype))
        if not kind.no_gradient:
            gradients.append(torch.autograd.grad(logits[-1].amax(1).sum(), image, allow_unused=True)[0])
    return torch.cat(logits).detach(), torch.cat(gradients) if gradients else images.new_zeros(0)


@cache
def _reference(name: str, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    kind = next(kind for kind in KINDS if kind.name == name)
    return plain(kind, images_of(kind).to(dtype))


def reference(kind: Kind, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """What `plain` gives for the kind's images in that number format."""
    return _reference(kind.name, dtype)


def grey(image: Tensor) -> Tensor:
    return 0.299 * image[:, :1] + 0.587 * image[:, 1:2] + 0.114 * image[:, 2:]


def logits_of(kind: Kind, network: Any, x: Tensor) -> Tensor:
    """What is served of a network for its input."""
    scores = tensor_of(network[0](x) if kind.inside else network(x))
    return torch.cat([-scores, scores], 1) if spec_of(kind).head == "binary" else scores


def tensor_of(output: Any) -> Tensor:
    """The scores in the outputs of these networks."""
    if isinstance(output, dict):
        output = next(iter(output.values()))
    if not isinstance(output, Tensor):
        output = getattr(output, "logits", None) if hasattr(output, "logits") else output[0]
    return output.flatten(1)


def ours(model: Prepared, images: Tensor) -> tuple[Tensor, Tensor]:
    """The same of the served network, batched where it may be."""
    images = images.clone().requires_grad_()
    with torch.enable_grad():
        logits = torch.cat([model(each) for each in images.split(1 if model.card.unbatched else len(images))])
        if model.card.no_gradient:
            return logits.detach(), images.new_zeros(0)
        (gradient,) = torch.autograd.grad(logits.amax(1).sum(), images, allow_unused=True)
    return logits.detach(), gradient


def distance(found: Tensor, right: Tensor) -> float:
    """Relative L2 distance, zero where both are zero."""
    return 0.0 if torch.equal(found, right) else float((found.double() - right.double()).norm() / right.double().norm())


def images_of(kind: Kind) -> Tensor:
    """Images [4, 3, H, W] of the network's size."""
    spec = spec_of(kind)
    return varied(spec.height, spec.width, seed=5)


@by_name(SERVED)
def test_logits_in_fp32(kind: Kind) -> None:
    found, right = ours(served(kind), images_of(kind))[0], reference(kind)[0]
    assert float((found - right).abs().max() / right.abs().max()) < 1e-4


@by_name([kind for kind in DIFFERENTIABLE if not kind.casts])
def test_gradients_in_float64(kind: Kind) -> None:
    found, right = ours(served(kind, torch.float64), images_of(kind).double()), reference(kind, torch.float64)
    assert distance(found[0], right[0]) < 1e-9
    assert distance(found[1], right[1]) < 1e-6


@by_name([kind for kind in DIFFERENTIABLE if not kind.casts])
def test_gradients_in_fp32_are_as_near_to_float64_as_torchs_own(kind: Kind) -> None:
    right = reference(kind, torch.float64)[1]
    own, found = reference(kind)[1], ours(served(kind), images_of(kind))[1]
    assert distance(found, right) <= max(3 * distance(own, right), 1e-5)


@by_name(SERVED)
def test_the_card_says_what_was_done(kind: Kind) -> None:
    card = served(kind).card
    assert bool(card.no_gradient) == kind.no_gradient
    assert card.unbatched == kind.unbatched
    assert kind.unfolded == any("BatchNorm is not folded" in note for note in card.notes)
    assert kind.untouched == any("served without speed-ups" in note for note in card.notes)
    assert ("fast" in card.absent) == kind.no_fast
    assert not set(card.precisions) & set(card.absent)


@pytest.mark.parametrize(("how", "named"), [("cast", "float16"), *[(each, each) for each in ("bfloat16", "float16")]])
def test_half_precision_inside_is_told(how: str, named: str) -> None:
    kind = with_arguments("half_inside", how, casts=True)
    model = prepare(spec_of(kind), CPU)
    (note,) = [note for note in model.card.notes if note.startswith("HALF_INSIDE")]
    assert f"computes in {named} by itself" in note
    found, right = ours(model, images_of(kind))[0], plain(kind, images_of(kind))[0]
    assert distance(found, right) < 2e-2  # The eps of bfloat16 is 8e-3.
    nothing = ModelInput(np.zeros(0), pb.Region())
    told = provenance(Bound(Task("t", "predict", "it", nothing.pixels), model.card, nothing), Outcome("t"))
    assert list(told.warnings) == [note]


@by_name(SERVED)
def test_no_other_is_said_to_compute_in_halves(kind: Kind) -> None:
    assert not any(note.startswith("HALF_INSIDE") for note in served(kind).card.notes)


@by_name([kind for kind in KINDS if kind.refused])
def test_a_refusal_says_why(kind: Kind) -> None:
    with pytest.raises(LoadError, match=kind.refused):
        prepare(spec_of(kind), CPU)


@by_name(SERVED)
def test_in_company_as_alone(kind: Kind) -> None:
    model = served(kind)
    engine, results = Engine({"it": model}), {}
    for i, image in enumerate(images_of(kind).split(1)):
        engine.submit(Job(str(i), "it", lambda job, x=image: predict(x)))
    while not engine.idle:
        results |= {event.job.id: event for event in engine.step() if isinstance(event, Ended)}
    right = reference(kind)[0]
    for i in range(len(right)):
        assert results[str(i)].error is None
        assert float((results[str(i)].result - right[i : i + 1]).abs().max() / right.abs().max()) < 1e-4


def predict(image: Tensor) -> Any:
    from gradserve_server.engine.query import Query

    return (yield Query(image)).logits


@by_name([kind for kind in DIFFERENTIABLE if not kind.casts])
def test_grad_cam(kind: Kind) -> None:
    model = served(kind, torch.float64)
    layer = model.card.layer(model.card.grad_cam_layer)
    if layer is None or layer.layout != "nchw" or layer.name not in dict(model.network.named_modules()):
        pytest.skip("its map is no module's output; see test_layouts.py")
    image, network = images_of(kind)[:1].double(), load(spec_of(kind)).network.double()
    kept: list[Tensor] = []
    network.get_submodule(layer.name).register_forward_hook(lambda m, a, out: (kept.append(out), out.clone())[1])
    image = image.requires_grad_()
    spec = spec_of(kind)
    mean, std = (torch.tensor(each, dtype=image.dtype).view(-1, 1, 1) for each in (spec.mean, spec.std))
    x = image if len(spec.mean) == 3 else grey(image)
    logits = logits_of(kind, network, (x - mean) / std)
    (grad,) = torch.autograd.grad(logits.amax(1).sum(), kept[-1])
    right = (kept[-1] * grad.mean((2, 3), keepdim=True)).sum(1).relu()
    found = torch.from_numpy(answer(model, image.detach(), "grad_cam").coarse)
    assert distance(found, right[0]) < 1e-5  # Maps travel in fp32.


@by_name([kind for kind in SERVED if kind.no_gradient])
def test_methods_that_need_a_gradient_are_refused(kind: Kind) -> None:
    from gradserve_server.methods.explain import METHODS

    card = served(kind).card
    for name in ("gradient", "gradient_x_input", "smooth_grad", "integrated_gradients", "guided_backprop"):
        assert NO_GRADIENT in METHODS[name].refuses(card)
    assert not METHODS["occlusion"].refuses(card)
    assert answer(served(kind), images_of(kind)[:1], "occlusion", patch=0.5, stride=1.0).values.any()


@by_name([kind for kind in DIFFERENTIABLE if kind.builder not in NOTHING_TO_ATTACK])
def test_the_certificate_of_an_attack(kind: Kind) -> None:
    model, image = served(kind), attacks.whole(images_of(kind)[:1])
    (attacked,) = attacks.attacked(model, image, "pgd", GoalSpec(label=None, loss="margin"), steps=3)
    picture = torch.from_numpy(attacked.pixels).permute(2, 0, 1)[None].float() / 255
    original = (image[0].permute(1, 2, 0) * 255).round().byte().numpy()
    arguments = CertifyArguments(original, attacked.goal, InputTransform())
    engine = Engine({"model": model})
    engine.submit(Job("c", "model", lambda job: certify(job, picture, arguments)))
    (ended,) = [event for _ in iter(lambda: engine.idle, True) for event in engine.step() if isinstance(event, Ended)]
    assert ended.error is None
    for judged, pixels in ((ended.result.before, image), (ended.result.after, picture)):
        right = plain(kind, pixels)[0][0]
        assert np.abs(judged.logits - right.numpy()).max() <= 1e-4 * float(right.abs().max())


@by_name([kind for kind in DIFFERENTIABLE if not kind.casts])
def test_weight_gradients_of_layers_that_influence_covers(kind: Kind) -> None:
    """The product that influence takes for a layer's gradient, beside the gradient that torch gives."""
    model = served(kind, torch.float64, False)
    layers, _ = covered(model)
    images = images_of(kind)[:1].double()
    run = Pass(model, images, layers)
    by_outputs = run.gradients(run.logits.amax(1)) if layers else []
    network = load(spec_of(kind)).network.double()
    for layer, x, by_output in zip(layers, run.inputs, by_outputs, strict=True):
        module: Any = network.get_submodule(layer.name)
        weights = [w.requires_grad_() for w in (module.weight, module.bias) if w is not None]
        right = torch.autograd.grad(normalised_logits(kind, network, images).amax(1).sum(), weights)
        for weight in weights:
            weight.requires_grad_(False)
        matrix = torch.cat([right[0].flatten(1), *(each[:, None] for each in right[1:])], 1)
        assert distance(layer.gradient(x, by_output), matrix) < 1e-6


def test_influence_leaves_out_what_is_not_by_image_or_not_the_layers_own() -> None:
    names = {}
    for builder in ("kinds:two_views_stacked", "kinds:weights_lent", "kinds:called_by_keyword"):
        kind = next(kind for kind in KINDS if kind.builder == builder)
        names[builder] = [layer.name for layer in covered(served(kind, torch.float64, False))[0]]
    assert names == {
        "kinds:two_views_stacked": ["head"],
        "kinds:weights_lent": ["second", "head"],
        "kinds:called_by_keyword": ["first", "second", "head"],
    }


def normalised_logits(kind: Kind, network: nn.Module, images: Tensor) -> Tensor:
    spec = spec_of(kind)
    mean, std = (torch.tensor(each, dtype=images.dtype).view(-1, 1, 1) for each in (spec.mean, spec.std))
    return logits_of(kind, network, ((images if len(spec.mean) == 3 else grey(images)) - mean) / std)
