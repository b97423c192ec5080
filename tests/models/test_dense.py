"""Heads as convolutions, against windows of the feature map, the networks' own logits, and gradients."""

from copy import deepcopy
from dataclasses import replace
from functools import lru_cache

import pytest
import torch
from dense_answers import answer, dense_head, every_class, largest_difference, picture
from torch import Tensor, nn
from zoo import CPU, prepared, unmodified

from gradserve_server.methods.targets import Target
from gradserve_server.models import dense as trying
from gradserve_server.models.catalogue import EMBEDDED, ModelSpec
from gradserve_server.models.dense import DenseModel, try_head
from gradserve_server.models.loading import Source, load
from gradserve_server.models.preparation import prepare, prepare_source
from gradserve_server.models.prepared import Prepared
from gradserve_server.models.reach import last_map
from gradserve_server.models.trial import SharedTrial

BEHIND_A_MEAN = ["resnet18", "mobilenet_v2", "squeezenet1_1", "densenet121", "googlenet", "imagenet"]
TILED = ["resnet18", "mobilenet_v2", "squeezenet1_1", "imagenet", "alexnet", "vgg11_bn"]


@lru_cache(2)
def connected(name: str) -> tuple[Prepared, Source]:
    """A network of linear layers on a map at the size that it was made for; and its author's own."""
    facts = {"name": name, "builder": f"narrow_{name}", "weights": "random", "precisions": ("exact",)}
    spec = ModelSpec.model_validate({**facts, "height": 224, "width": 224, "resize": 224})
    source = load(spec)
    return prepare_source(spec, source, CPU, torch.float32), source


def model_of(name: str) -> Prepared:
    return connected(name)[0] if name in ("alexnet", "vgg11_bn") else prepared(name)


@pytest.mark.parametrize("name", ["alexnet", "vgg11_bn"])
def test_linear_layers_as_a_convolution_are_what_they_are_on_windows_of_the_map(name: str) -> None:
    model, source = connected(name)
    head, side = dense_head(model), {"alexnet": 6, "vgg11_bn": 7}[name]
    assert (head.refused, head.side, head.least) == ("", side, {"alexnet": 223, "vgg11_bn": 224}[name])
    network, x = source.network.eval(), picture(290, 330)
    with torch.no_grad():
        features = last_map(model, head.layer, model.normalised(x))
        right = on_windows(network, features, side)
        found = DenseModel(model, head).scores(features)[0]
    assert largest_difference(found, right) <= 1e-6


def on_windows(network: nn.Module, features: Tensor, side: int) -> Tensor:
    """What the linear layers make of every window of a map, [outputs, h, w]."""
    windows = features.unfold(2, side, 1).unfold(3, side, 1)[0].permute(1, 2, 0, 3, 4)
    scores: Tensor = network.classifier(windows.flatten(2)).permute(2, 0, 1)  # type: ignore[operator]
    return scores


@pytest.mark.parametrize("name", ["alexnet", "vgg11_bn"])
def test_the_map_is_what_the_untouched_network_gives_in_double(name: str) -> None:
    model, source = connected(name)
    network, x = deepcopy(source.network).eval().double(), picture(290, 330)
    with torch.no_grad():
        images = model.normalised(x).double()
        right = on_windows(network, network.features(images), dense_head(model).side)  # type: ignore[operator]
        whole = network(images)[0]
    found = answer(model, x, *every_class(model))
    assert largest_difference(found.scores, right) <= 1e-5
    assert float((torch.from_numpy(found.probabilities) - right.softmax(0)).abs().max()) <= 1e-6
    assert largest_difference(found.logits, whole) <= 1e-5


@pytest.mark.parametrize("name", ["alexnet", "vgg11_bn"])
def test_at_the_models_own_size_the_map_has_one_cell(name: str) -> None:
    model, source = connected(name)
    x = picture(224, 224)
    found = answer(model, x, *every_class(model))
    with torch.no_grad():
        right = source.network.eval()(model.normalised(x))[0]
    assert found.scores.shape[1:] == (1, 1)
    assert largest_difference(found.scores[:, 0, 0], right) <= 1e-5


@pytest.mark.parametrize("name", BEHIND_A_MEAN)
def test_the_mean_of_the_map_is_the_networks_logits(name: str) -> None:
    model = prepared(name)
    assert dense_head(model).refused == ""
    network = load(EMBEDDED[name]).network.eval() if name == "imagenet" else unmodified(name)
    x = picture(193, 262)
    with torch.no_grad():
        right = network(model.normalised(x))[0]
    found = answer(model, x, *every_class(model))
    assert found.scores[0].size > 1
    assert largest_difference(found.scores.mean((1, 2), dtype="f8"), right) <= 1e-5
    assert largest_difference(found.logits, right) <= 1e-5


@pytest.mark.parametrize("name", TILED)
def test_tiles_give_what_the_whole_picture_gives(name: str) -> None:
    model = model_of(name)
    head = dense_head(model)
    assert head.untiled == ""
    long, short = head.least_tile + 3 * head.stride + 5, max(head.least, 2 * head.stride + 3)
    for size in [(short, long), (long, short), *([(long, long)] if name == "squeezenet1_1" else [])]:
        check_tiles(model, picture(*size))


def check_tiles(model: Prepared, x: Tensor) -> None:
    head = dense_head(model)
    whole, tiled = (answer(model, x, *every_class(model), tile=tile) for tile in (None, head.least_tile))
    assert whole.tiles == 1 < tiled.tiles
    assert largest_difference(tiled.scores, whole.scores) <= 1e-5
    assert largest_difference(tiled.logits, whole.logits) <= 1e-5
    if x.shape[3] > head.least_tile:
        halves = answer_without_margin(model, x)
        same = halves.shape == whole.scores.shape and largest_difference(halves, whole.scores) <= 1e-4
        assert not same, "tiles that do not overlap give something else"


def answer_without_margin(model: Prepared, x: Tensor) -> Tensor:
    """The scores of two halves that do not overlap."""
    head, bound = dense_head(model), DenseModel(model, dense_head(model))
    middle = x.shape[3] // 2 // head.stride * head.stride
    with torch.no_grad():
        halves = [last_map(model, head.layer, model.normalised(each)) for each in (x[..., :middle], x[..., middle:])]
        return bound.scores(torch.cat(halves, 3))[0]


@pytest.mark.parametrize("name", ["alexnet", "squeezenet1_1", "resnet18"])
def test_the_offset_is_the_middle_of_what_the_gradient_reaches(name: str) -> None:
    model = model_of(name)
    head, size = dense_head(model), 544
    stride = {"alexnet": 32, "squeezenet1_1": 16, "resnet18": 32}[name]
    assert head.stride == stride
    x = model.normalised(torch.rand(6, 3, size, size, generator=torch.Generator().manual_seed(1)))
    x = x.requires_grad_()
    kept: list[Tensor] = []
    module = model.network.get_submodule(model.place(head.layer).module)
    handle = module.register_forward_hook(lambda _, __, out: kept.append(out))
    model.network(x)
    handle.remove()
    cell = kept[0].shape[3] // 2
    (gradient,) = torch.autograd.grad(kept[0][:, :, cell, cell].sum(), x)
    columns = torch.nonzero(gradient.abs().sum((0, 1, 2))).flatten()
    assert 0 < columns[0] < columns[-1] < size - 1, "the picture is large enough"
    middle = (float(columns[0]) + float(columns[-1]) + 1) / 2
    expected = middle - stride * cell + stride * (head.side - 1) / 2
    # Where ReLUs and max pools do not hand on a gradient, the outermost pixels may be missing.
    assert abs(head.offset - expected) <= 2


def test_ranks_are_those_of_the_whole_picture() -> None:
    model = prepared("resnet18")
    found = answer(model, picture(128, 160), Target(rank=2), Target(label=7), Target(rank=1))
    order = found.logits.argsort()[::-1]
    assert found.labels == (order[1], 7, order[0])
    assert found.scores.shape[0] == 3


def test_a_head_is_tried_once_and_not_before_it_is_asked_for() -> None:
    spec = ModelSpec.model_validate({"name": "small", "builder": "squeezenet1_1", "weights": "random", "height": 64})
    model = prepare(spec, CPU)
    assert model.dense_trial.result is None, "loading has not tried it"
    assert try_head(model) is None, "others have their turns between its passes"
    found = dense_head(model)
    assert try_head(model) is found


def test_a_head_is_tried_again_where_memory_was_short(monkeypatch: pytest.MonkeyPatch) -> None:
    model = replace(model_of("squeezenet1_1"), dense_trial=SharedTrial())

    def short(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with monkeypatch.context() as patched:
        patched.setattr(trying, "last_map", short)
        with pytest.raises(torch.OutOfMemoryError):
            dense_head(model)
    assert dense_head(model).refused == ""


REFUSED = {
    "mobilenet_v3_small": "neither a global mean of scores nor one linear layer behind it",
    "convnext_tiny": "another operation stands between",
    "vit_b_32": "takes pictures of 224x224 alone",
    "alexnet": "are a convolution only where",
    "vgg11_bn": "are a convolution only where",
    "linear": "takes pictures of 12x8 alone",
}


@pytest.mark.parametrize("name", REFUSED)
def test_heads_that_are_no_convolution_are_refused_with_the_reason(name: str) -> None:
    assert REFUSED[name] in dense_head(prepared(name)).refused


def test_squeeze_and_excitation_leaves_the_mean_and_forbids_tiles() -> None:
    model = prepared("efficientnet_b0")
    head = dense_head(model)
    assert head.refused == ""
    assert "depends on the whole picture" in head.untiled
    x = picture(128, 160)
    with torch.no_grad():
        right = unmodified("efficientnet_b0")(model.normalised(x))[0]
    found = answer(model, x, *every_class(model))
    assert largest_difference(found.scores.mean((1, 2), dtype="f8"), right) <= 1e-5
