"""What a network's outputs mean: found, declared, or refused with what to do."""

from pathlib import Path

import heads
import pytest
import torch
from heads import KINDS, SIZE
from safetensors.torch import save_file
from torch import Tensor
from zoo import CPU

from gradserve_server.models.catalogue import PRECISIONS, ModelSpec
from gradserve_server.models.loading import LoadError
from gradserve_server.models.outputs import NoLogits
from gradserve_server.models.preparation import prepare
from gradserve_server.models.prepared import Prepared

IMAGES = torch.rand(3, 3, SIZE["height"], SIZE["width"], generator=torch.Generator().manual_seed(4))


def loaded(head: str | None = None, builder: str = "heads:network", **arguments: object) -> Prepared:
    spec = {"name": "m", "builder": builder, "arguments": arguments, **SIZE, "head": head, "precisions": ("exact",)}
    return prepare(ModelSpec.model_validate(spec), CPU)


def normalised(images: Tensor) -> Tensor:
    mean, std = (torch.tensor(SIZE[name]).view(3, 1, 1) for name in ("mean", "std"))
    return (images - mean) / std


def close(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", KINDS)
def test_logits_and_their_gradient_are_those_of_the_scores(name: str) -> None:
    kind = KINDS[name]
    spec = ModelSpec.model_validate({"name": name, "precisions": PRECISIONS, **kind.entry})
    model = prepare(spec, CPU)
    assert model.card.head == kind.head
    assert model.card.precisions == PRECISIONS
    own = IMAGES.clone().requires_grad_()
    right = kind.logits(normalised(own))
    weights = torch.randn(right.shape, generator=torch.Generator().manual_seed(2))
    (slope,) = torch.autograd.grad((right * weights).sum(), own)
    assert len(model.card.classes) == right.shape[1]
    for precision, logits_off, slope_off in (("exact", 1e-5, 1e-4), ("balanced", 1e-5, 2e-2), ("fast", 5e-2, 3e-1)):
        x = IMAGES.clone().requires_grad_()
        logits = model.at(precision)(x)
        (grad,) = torch.autograd.grad((logits * weights).sum(), x)
        assert float((logits - right).detach().abs().max() / right.detach().abs().max()) < logits_off
        assert float((grad - slope).norm() / slope.norm()) < slope_off


SOFTMAXES = [
    *("softmax_method", "softmax_function", "softmax_torch", "softmax_special", "softmax_in_tuple", "softmax_in_dict"),
    *("softmax_of_maps", "softmax_of_temperature", "softmax_detached", "softmax_of_detached"),
    *("log_softmax_function", "log_softmax_method", "softmax_in_inference"),
]
SIGMOIDS = ["sigmoid_torch", "sigmoid_expit", "sigmoid_function", "sigmoid_in_place", "sigmoid_viewed", "log_sigmoid"]


@pytest.mark.parametrize("end", SOFTMAXES)
def test_every_softmax_is_recognised(end: str) -> None:
    model = loaded(outputs=5, end=end)
    scores = heads.trunk(outputs=5)(normalised(IMAGES))
    close(model(IMAGES), scores / 2 if end == "softmax_of_temperature" else scores)
    assert any("it ends in a" in note for note in model.card.notes)
    assert not any(note.startswith("SOFTMAX_OUTPUTS") for note in model.card.notes)


@pytest.mark.parametrize("end", SIGMOIDS)
def test_every_sigmoid_is_recognised(end: str) -> None:
    model = loaded(outputs=3, end=end)
    assert model.card.head == "multilabel"
    close(model(IMAGES), heads.trunk(outputs=3)(normalised(IMAGES)))


@pytest.mark.parametrize(
    "end", ["sigmoid_torch", "sigmoid_squeezed", "sigmoid_squeezed_before", "log_sigmoid", "sigmoid_logarithm"]
)
def test_a_single_sigmoid_is_binary(end: str) -> None:
    model, score = loaded(outputs=1, end=end), heads.trunk(outputs=1)(normalised(IMAGES))
    assert model.card.head == "binary"
    close(model(IMAGES), torch.cat([-score, score], 1))


@pytest.mark.parametrize(
    ("end", "outputs", "head"),
    [("Softmax", 5, "softmax"), ("LogSoftmax", 5, "softmax"), ("Sigmoid", 5, "multilabel"), ("Sigmoid", 1, "binary")],
)
def test_modules_at_the_end_are_recognised(end: str, outputs: int, head: str) -> None:
    model = loaded(builder="heads:sequential", outputs=outputs, end=end)
    assert model.card.head == head
    close(model(IMAGES)[:, -1], heads.trunk(outputs=outputs)(normalised(IMAGES))[:, -1])


@pytest.mark.parametrize("end", ["softmax_by_hand", "softmax_averaged"])
def test_probabilities_without_a_softmax_are_served_by_their_logarithms(end: str) -> None:
    model = loaded(outputs=5, end=end)
    right = heads.network(5, end)(normalised(IMAGES))
    close(model(IMAGES).softmax(1), right)
    close(model(IMAGES), right.log())
    assert any(note.startswith("SOFTMAX_OUTPUTS") for note in model.card.notes)


def test_logarithms_of_probabilities_stay_finite() -> None:
    model = loaded(outputs=5, end="softmax_by_hand", strength=600.0)
    x = IMAGES.clone().requires_grad_()
    logits = model(x)
    assert logits.isfinite().all()
    assert logits.min() < -80
    (grad,) = torch.autograd.grad(logits.sum(), x)
    assert grad.isfinite().all()


@pytest.mark.parametrize("names", [(), ("cat",), ("dog", "cat")])
def test_a_binary_head_has_two_classes(names: tuple[str, ...]) -> None:
    entry = {**KINDS["one_logit"].entry, "labels": names or None}
    card = prepare(ModelSpec.model_validate({"name": "m", **entry}), CPU).card
    assert card.classes == {0: ("class 0", "class 1"), 1: ("not cat", "cat"), 2: ("dog", "cat")}[len(names)]


def test_names_of_a_binary_head_are_one_or_two() -> None:
    entry = {**KINDS["one_logit"].entry, "labels": ("dog", "cat", "cow")}
    says = r"its entry has 3 labels, but the network has 2 classes; give one for each, .*NO and YES, or YES alone\)"
    with pytest.raises(LoadError, match=says):
        prepare(ModelSpec.model_validate({"name": "m", **entry}), CPU)


LARGE = torch.tensor([-60.0, 0.0, 0.0]).view(3, 1, 1).expand(2, 3, SIZE["height"], SIZE["width"])
WRITTEN = ["softmax_written_through_data", "softmax_of_erased_scores"]


@pytest.mark.parametrize(
    "end", [*WRITTEN, "smoothed", "log_softmax_averaged", "softmax_logarithm", "log_softmax_powers"]
)
def test_probabilities_are_those_of_plain_torch(end: str) -> None:
    model, network = loaded(outputs=5, end=end), heads.network(5, end)
    for images in (IMAGES, *((LARGE,) if end in WRITTEN else ())):
        x = normalised(images)
        assert bool(heads.is_large(network.trunk(x)).any()) == (images is LARGE)
        right = network(x)
        right = right.softmax(1) if end.startswith("log_softmax_a") else right
        right = right.exp() if end == "softmax_logarithm" else right
        close(model(images).softmax(1), right)


def test_what_is_written_into_a_softmax_under_inference_mode_for_some_images_is_refused_for_these() -> None:
    model = loaded(outputs=5, end="softmax_written_in_inference")
    close(model(IMAGES), heads.trunk(outputs=5)(normalised(IMAGES)))
    with pytest.raises(NoLogits, match=r"comes out of a softmax .* but not for this one; return it the same way"):
        model(LARGE)


@pytest.mark.parametrize("end", ["softmax_logarithm", "log_softmax_powers", "sigmoid_logarithm"])
def test_logarithms_and_powers_of_endings_are_recognised(end: str) -> None:
    model = loaded(outputs=3, end=end)
    assert model.card.head == ("multilabel" if end.startswith("sigmoid") else "softmax")
    close(model(IMAGES), heads.trunk(outputs=3)(normalised(IMAGES)))


@pytest.mark.parametrize(
    ("end", "outputs", "eps"),
    [("softmax_in_float16", 5, 1e-3), ("softmax_in_bfloat16", 5, 8e-3), ("sigmoid_in_float16", 3, 1e-3)],
)
def test_endings_in_half_precision_are_recognised(end: str, outputs: int, eps: float) -> None:
    model, scores = loaded(outputs=outputs, end=end), heads.trunk(outputs=outputs)(normalised(IMAGES))
    assert model.card.head == ("softmax" if outputs == 5 else "multilabel")
    torch.testing.assert_close(model(IMAGES), scores, rtol=eps, atol=eps)


@pytest.mark.parametrize("head", [None, "multilabel", "softmax"])
@pytest.mark.parametrize(
    "end", ["centred", "all_zero", "small", "negative", "masked", "powers", "rectified", "clamped"]
)
def test_ordinary_logits_are_never_refused(end: str, head: str | None) -> None:
    model = loaded(head, outputs=5, end=end)
    assert model.card.head == (head or "softmax")
    close(model(IMAGES), heads.network(5, end)(normalised(IMAGES)))


@pytest.mark.parametrize("end", ["nothing", "small", "negative", "powers", "rectified", "all_zero", "clamped"])
def test_one_ordinary_logit_is_never_refused(end: str) -> None:
    close(loaded("binary", outputs=1, end=end)(IMAGES)[:, 1:], heads.network(1, end)(normalised(IMAGES)))


REFUSED = {
    (1, "nothing", None): r'single number .* head = "binary" .* labels = \[NO, YES\]',
    (1, "squeezed", None): r"single number",
    (1, "nothing", "softmax"): r'says head = "softmax", but it has a single output; if .* write head = "binary"',
    (1, "sigmoid_torch", "multilabel"): r'says head = "multilabel", but it has a single output',
    (1, "softmax_method", None): r"softmax over a single output, which says the same for every image",
    (1, "softmax_method", "binary"): r"softmax over a single output, which says the same for every image",
    (1, "sigmoid_by_hand", None): r"single output stays within \[0, 1\]",
    (1, "sigmoid_by_hand", "binary"): r"stays within \[0, 1\] .* does not come out of torch.sigmoid",
    (2, "half_of_a_softmax", None): r"single output stays within \[0, 1\]",
    (2, "half_of_a_softmax", "binary"): r"stays within \[0, 1\] .* let it return the logit",
    (2, "nothing", "binary"): r'has 2 outputs; binary is a single logit; leave head out .* "multilabel"',
    (2, "softmax_method", "binary"): r"has 2 outputs; binary is a single logit",
    (3, "sigmoid_torch", "binary"): r"has 3 outputs",
    (3, "softmax_method", "multilabel"): r"probabilities that sum to 1; leave head out",
    (3, "log_softmax_method", "multilabel"): r"probabilities that sum to 1; leave head out",
    (3, "softmax_by_hand", "multilabel"): r"probabilities that sum to 1; leave head out",
    (3, "sigmoid_torch", "softmax"): r'ends in a sigmoid .* write head = "multilabel"',
    (3, "sigmoid_by_hand", None): r"do not sum to 1: they look like probabilities of independent labels",
    (3, "sigmoid_by_hand", "multilabel"): r"do not come out of torch.sigmoid; let it return the logits",
    (3, "one_hot", None): r"whole numbers",
    (3, "softmax_over_images", None): r"softmax, but .* its dimension is not that of the classes",
    (3, "sigmoid_written_in_place", None): r"do not come out of torch.sigmoid",
    (3, "sigmoid_by_powers", None): r"do not come out of torch.sigmoid",
    (3, "sigmoid_shifted", None): r"do not come out of torch.sigmoid",
    (3, "sigmoid_of_checked", None): r"do not come out of torch.sigmoid",
    (3, "sigmoid_of_checked", "multilabel"): r"do not come out of torch.sigmoid",
    (1, "sigmoid_saturated", "binary"): r"same for every test image; look at its weights",
    (3, "sigmoid_saturated", None): r"same for every test image; look at its weights",
    (1, "decisions", "binary"): r"whole numbers \(float32\) and nothing between",
    (3, "decisions", None): r"whole numbers \(float32\) and nothing between",
    (3, "decisions", "multilabel"): r"whole numbers \(float32\) and nothing between",
    (3, "one_hot_floats", None): r"whole numbers \(float32\) and nothing between",
    (3, "one_hot_floats", "softmax"): r"whole numbers \(float32\) and nothing between",
    (3, "softmax_rounded_to_whole", None): r"whole numbers \(float32\) and nothing between",
    (5, "softmax_of_one", None): r"same for every test image; .* dimension of its softmax",
    (5, "softmax_of_one_behind", None): r"same for every test image; .* dimension of its softmax",
    (5, "softmax_of_one", "softmax"): r"same for every test image; .* dimension of its softmax",
    (5, "softmax_without_first", None): r"only a part of what that gives",
    (5, "percent", None): r"scaled or shifted; let it return the probabilities",
    (5, "percent", "softmax"): r"scaled or shifted",
    (5, "percent", "multilabel"): r"scaled or shifted",
    (5, "bytes", None): r"scaled or shifted",
    (5, "softmax_from_minus_one", None): r"scaled or shifted",
    (5, "softmax_negative", None): r"scaled or shifted",
    (3, "sigmoid_doubled", None): r'scaled or shifted; .* write head = "softmax"',
    (3, "percent_of_second", "binary"): r"scaled or shifted",
    (3, "sigmoid_logarithm_by_hand", None): r'never exceed 0, so that they look like log.* write head = "softmax"',
    (3, "sigmoid_logarithm_by_hand", "multilabel"): r"never exceed 0, so that they look like logarithms",
    (1, "sigmoid_logarithm_by_hand", "binary"): r"never exceed 0, so that they look like logarithms",
    (3, "log_softmax_by_hand", "multilabel"): r"probabilities that sum to 1; leave head out",
    (2, "log_softmax_of_second", "binary"): r"only a part of what that gives",
    (5, "log_softmax_negative", None): r"negatives of logarithms of probabilities",
    (5, "log_softmax_negative", "softmax"): r"negatives of logarithms of probabilities",
    (5, "softmax_rounded", None): r"almost probabilities that sum to 1 \(rounded",
    (5, "softmax_written_in_place", None): r"backward pass fails: .*expected version 0 instead\.; .* writing in place",
    (3, "powers_doubled_in_place", None): r"backward pass fails: .*expected version 0 instead\.; .* writing in place",
    (5, "none", None): r"returns no scores \(\[4, 0\]\)",
}


@pytest.mark.parametrize(("outputs", "end", "head"), REFUSED)
def test_contradictions_are_refused(outputs: int, end: str, head: str | None) -> None:
    with pytest.raises(LoadError, match=REFUSED[outputs, end, head]):
        loaded(head, outputs=outputs, end=end)


@pytest.mark.parametrize(
    ("outputs", "end", "head"),
    [
        (3, "nothing", "softmax"),
        (3, "softmax_method", "softmax"),
        (3, "sigmoid_method", "multilabel"),
        (3, "sigmoid_by_hand", "softmax"),  # The catalogue calls scores in [0, 1] logits.
        (3, "sigmoid_doubled", "softmax"),  # They are not the sigmoid's output.
        (1, "sigmoid_method", "binary"),
        (1, "squeezed", "binary"),
    ],
)
def test_declarations_that_fit_are_taken(outputs: int, end: str, head: str | None) -> None:
    model = loaded(head, outputs=outputs, end=end)
    assert model.card.head == (head or "softmax")
    ended = heads.ENDS[end](heads.trunk(outputs=outputs)(normalised(IMAGES)))
    scores = heads.trunk(outputs=outputs)(normalised(IMAGES)) if end.endswith("method") else ended
    close(model(IMAGES)[:, -1], scores.view(3, outputs)[:, -1])


@pytest.mark.parametrize("head", [None, "multilabel"])
def test_outputs_in_the_unit_of_a_network_that_takes_only_pictures_are_refused(head: str | None) -> None:
    assert loaded(outputs=3, builder="heads:checked", end="sigmoid_method").card.head == "multilabel"
    with pytest.raises(LoadError, match=r"stay within \[0, 1\] for all test images"):
        loaded(head, outputs=3, builder="heads:checked", end="sigmoid_by_hand")


def test_two_probabilities_of_one_sigmoid_sum_to_one() -> None:
    model, score = loaded(outputs=1, end="sigmoid_and_its_rest"), heads.trunk(outputs=1)(normalised(IMAGES))
    assert model.card.head == "softmax"
    close(model(IMAGES).softmax(1)[:, 1:], score.sigmoid())


def test_a_file_with_one_output_fits_a_binary_head(tmp_path: Path) -> None:
    save_file(heads.trunk(outputs=1).state_dict(), tmp_path / "one.safetensors")
    entry = {"name": "m", "builder": "heads:trunk", "arguments": {"outputs": 4}, **SIZE, "head": "binary"}
    model = prepare(ModelSpec.model_validate({**entry, "weights": str(tmp_path / "one.safetensors")}), CPU)
    score = heads.trunk(outputs=1)(normalised(IMAGES))
    close(model(IMAGES), torch.cat([-score, score], 1))


@pytest.mark.parametrize("end", ["softmax_detached", "softmax_of_detached"])
def test_a_detached_softmax_has_no_gradient(end: str) -> None:
    model = loaded(outputs=5, end=end)
    assert "cannot be differentiated by the image" in model.card.no_gradient
    close(model(IMAGES), heads.trunk(outputs=5)(normalised(IMAGES)))
    assert not model(IMAGES.clone().requires_grad_()).requires_grad


def test_attention_inside_is_no_head() -> None:
    card = prepare(ModelSpec(name="v", builder="narrow_vit_b_32", weights="random", precisions=("exact",)), CPU).card
    assert card.head == "softmax"
    assert not any("it ends in" in note for note in card.notes)
