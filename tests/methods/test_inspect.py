"""Inspect against arithmetic, and against plain hooks on networks that nobody has made ready."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from paths import DATA
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torchvision.models import vgg16
from zoo import CPU, SPECS, inputs, off, prepared, unmodified

from gradserve.v1 import inspect_pb2
from gradserve_server.api.rpcs import inspect_replies, inspect_views
from gradserve_server.api.rpcs.inspect_views import every_layer, table_layers
from gradserve_server.engine.costs import GRADIENT_COST
from gradserve_server.engine.objective import NotApplicable, ranked_log_prob
from gradserve_server.engine.scores import score
from gradserve_server.methods.inspect.activations import ActivationsArguments
from gradserve_server.methods.inspect.receptive_field import effective_size
from gradserve_server.methods.inspect.table import TableArguments
from gradserve_server.methods.inspect.weights import PART, ShownWeights, WeightsArguments
from gradserve_server.methods.inspect.weights import shown as show
from gradserve_server.models.catalogue import EMBEDDED, ModelSpec
from gradserve_server.models.contents import parameter_count, with_contents
from gradserve_server.models.loading import load
from gradserve_server.models.preparation import prepare
from gradserve_server.models.prepared import Prepared
from gradserve_server.models.probe import probe

from .inspecting import checked, field_of, inspected, multiply_adds, outputs

RESNET20 = {
    "bn1": 3,
    "layer1.0": 7,
    "layer1.2": 15,
    "layer2.0": 21,
    "layer2.2": 37,
    "layer3.0": 49,
    "layer3.2": 81,
}
COUNTED = ["alexnet", "vgg11_bn", "resnet18", "densenet121", "googlenet", "mobilenet_v2", "squeezenet1_1"]
COUNTED += [
    "mnasnet0_5",
    "shufflenet_v2_x0_5",
    "mobilenet_v3_small",
    "efficientnet_b0",
    "convnext_tiny",
    "vit_b_32",
    "imagenet",
]
COUNTED += ["trained-resnet20", "linear"]


def plain(name: str) -> nn.Module:
    """The untouched network."""
    return load(SPECS[name]).network.eval() if name in ("imagenet", "linear") else unmodified(name)


def standardised(name: str, images: Tensor) -> Tensor:
    """What the untouched network takes."""
    card = prepared(name).card
    mean, std = (torch.tensor(each).view(3, 1, 1) for each in (card.mean, card.std))
    return (images - mean) / std


def statistics(name: str, images: Tensor, labels: tuple[int, ...] = (), **facts: Any) -> Any:
    """What the table tells of some images."""
    model = prepared(name)
    layers = tuple(layer.name for layer in table_layers(model.card) if model.card.layer(layer.name))
    layers = tuple(each for each in layers if model.card.layer(each).layout != "other")  # type: ignore[union-attr]
    return inspected(model, TableArguments(layers, len(images), labels, loss=True), images, **facts)


def shown(model: Prepared, layer: str, **fields: Any) -> ShownWeights:
    message = inspect_pb2.WeightsView(layer=layer, **fields)
    return inspected(model, checked(lambda wrong: inspect_views.weights(message, model.card, wrong)))  # type: ignore[no-any-return]


# Receptive fields


def arithmetic(features: nn.Sequential) -> Iterator[tuple[str, int, int]]:
    """Name, size and stride of the field of every layer of a chain."""
    size, stride = 1, 1
    for name, module in features.named_children():
        if isinstance(module, nn.Conv2d | nn.MaxPool2d):
            kernel, step = (each if isinstance(each, int) else each[0] for each in (module.kernel_size, module.stride))
            size, stride = size + (kernel - 1) * stride, stride * step
        yield f"features.{name}", size, stride


@pytest.mark.parametrize("layer", RESNET20)
def test_the_receptive_fields_of_resnet20_are_those_of_arithmetic(layer: str) -> None:
    field = field_of(prepared("trained-resnet20"), layer)
    top, left, bottom, right = field.extent
    size, stride = RESNET20[layer], 2 ** (int(layer[5]) - 1) if layer.startswith("layer") else 1
    assert (bottom - top, right - left) == (size, size)
    assert field.stride == (stride, stride)
    assert not any(field.at_borders)
    assert top - stride * field.unit[0] == -(size - 1) // 2
    if size > 15:  # By an earlier measurement of the same network.
        assert 0.3 < field.effective / size < 0.5


@pytest.mark.parametrize("layer", ["features.1", "features.3", "features.5", "features.10", "features.13"])
def test_the_receptive_fields_of_vgg11_are_those_of_arithmetic(layer: str) -> None:
    expected = {name: (size, stride) for name, size, stride in arithmetic(plain("vgg11_bn").features)}  # type: ignore[arg-type]
    _agrees(layer, *expected[layer])


@pytest.mark.parametrize("layer", ["features.17", "features.20"])
def test_and_so_are_those_that_need_larger_pictures(layer: str) -> None:
    expected = {name: (size, stride) for name, size, stride in arithmetic(plain("vgg11_bn").features)}  # type: ignore[arg-type]
    _agrees(layer, *expected[layer])


def _agrees(layer: str, size: int, stride: int) -> None:
    field = field_of(prepared("vgg11_bn"), layer)
    top, left, bottom, right = field.extent
    assert (bottom - top, right - left) == (size, size)
    assert field.stride in ((stride, stride), (None, None))


@pytest.mark.parametrize(
    ("name", "layer", "sizes"),
    [("efficientnet_b0", "features.1", 4), ("vit_b_32", "encoder.layers.encoder_layer_0", 1)],
)
def test_squeezes_and_attention_see_the_whole_picture(name: str, layer: str, sizes: int) -> None:
    model = prepared(name)
    field = field_of(model, layer)
    assert all(field.at_borders)
    assert field.picture == (model.card.height << (sizes - 1), model.card.width << (sizes - 1))
    assert field.stride == (None, None)


def test_patches_do_not_overlap() -> None:
    field = field_of(prepared("vit_b_32"), "conv_proj")
    assert field.extent == (96, 96, 128, 128)
    assert field.stride == (32, 32)


@pytest.mark.parametrize(("name", "layer"), [("trained-resnet20", "layer1.2"), ("alexnet", "features.2")])
def test_the_field_of_one_channel_is_that_of_all(name: str, layer: str) -> None:
    """Behind a max pool, which hands a gradient to one pixel of its window, a channel takes many pictures."""
    whole, *ones = (field_of(prepared(name), layer, **each) for each in ({}, {"channel": 0}, {"channel": 5}))
    assert [one.extent for one in ones] == [whole.extent] * 2


def test_a_field_whose_edge_float32_may_have_lost_is_not_told_as_exact() -> None:
    model = prepare(ModelSpec(name="sigmoids", builder="networks:sigmoids", height=32, width=32), CPU)
    fields = [field_of(model, str(i)) for i in range(0, 40, 2)]
    sizes = [field.extent[2] - field.extent[0] for field in fields]
    assert sizes[:8] == [3, 5, 7, 9, 11, 13, 15, 17]
    assert not any(field.faint for field in fields[:8])
    assert sizes[-1] < 3 + 2 * 19
    assert all(field.faint or size == 3 + 2 * i for i, (field, size) in enumerate(zip(fields, sizes, strict=True)))
    message = inspect_pb2.ReceptiveField()
    inspect_replies.fill_field(message, "38", fields[-1])
    assert (message.at_least, message.whole_picture) == (True, False)


def test_a_channel_that_never_fires_has_no_field() -> None:
    model = prepared("trained-resnet20")
    act = outputs(plain("trained-resnet20"), standardised("trained-resnet20", inputs("trained-resnet20", 64)[1]))[
        "layer2.0"
    ]
    (dead,) = (act.amax((0, 2, 3)) == 0).nonzero()[:, 0].tolist()
    with pytest.raises(NotApplicable, match=r"on 64 random pictures no pixel changes layer2\.0: its channel does"):
        field_of(model, "layer2.0", channel=dead)


def test_the_effective_size_of_known_gradients() -> None:
    uniform = np.zeros((9, 9))
    uniform[3:6, 3:6] = 1
    assert effective_size(uniform, (4.5, 4.5)) == pytest.approx(3 * 0.9**0.5)
    point = np.zeros((9, 9))
    point[4, 4] = 1
    assert effective_size(point, (4.5, 4.5)) == pytest.approx(0.9**0.5)


# Weights


@pytest.mark.parametrize("name", ["trained-resnet20", "mobilenet_v2", "alexnet", "vit_b_32", "imagenet"])
def test_weights_are_those_of_the_file(name: str) -> None:
    model, state = prepared(name), plain(name).state_dict()
    layers = [layer for layer in every_layer(model.card) if layer.weight]
    assert len(layers) >= 5
    for layer in layers:
        weight = state.get(f"{layer.name}.weight", state.get(f"{layer.name}.in_proj_weight"))
        assert off(model.weights(layer.name), weight) < (1e-7 if layer.name in model.card.folded else 1e-12), layer.name


def test_what_is_shown_is_the_strongest() -> None:
    model = prepared("trained-resnet20")
    weight = plain("trained-resnet20").state_dict()["layer2.1.conv1.weight"]
    found = shown(model, "layer2.1.conv1", count=5, inputs=3, values=True)
    norms = weight.flatten(1).norm(dim=1)
    assert found.channels.tolist() == norms.argsort(descending=True)[:5].tolist()
    assert found.norms == pytest.approx(norms[found.channels].numpy(), rel=1e-6)
    assert off(found.values, weight[found.channels]) < 1e-7
    for row, channel in enumerate(found.channels):
        strongest = weight[channel].flatten(1).norm(dim=1).argsort(descending=True)[:3]
        assert found.inputs[row].tolist() == strongest.tolist()
        assert off(found.maps[row], weight[channel][strongest]) < 1e-7
    assert shown(model, "layer2.1.conv1", channels=[7, 2]).channels.tolist() == [7, 2]


class Largest(TorchDispatchMode):
    """Keeps the largest number of bytes that an operation gave, views left out."""

    size = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if isinstance(out, Tensor) and not out._is_view():
            self.size = max(self.size, out.nbytes)
        return out


def test_large_layers_are_not_copied() -> None:
    model = prepare(EMBEDDED["digits"], CPU)
    weight = torch.rand(8192, 1024)
    with pytest.MonkeyPatch.context() as patch, Largest() as largest:
        patch.setattr(Prepared, "weights", lambda *_: weight)
        found = show(model, WeightsArguments("2", (), 5, None, None, channels_last=False, values=False))
    assert largest.size <= 8 * PART < weight.nbytes * 2
    norms = weight.double().norm(dim=1)
    assert found.norms.tolist() == norms.sort(descending=True).values[:5].tolist()
    assert found.largest == weight.max()


def test_filters_of_the_image_keep_their_colours() -> None:
    found = shown(prepared("trained-resnet20"), "conv1", count=4)
    assert found.maps.shape == (4, 3, 3, 3)
    assert off(found.maps, plain("trained-resnet20").state_dict()["conv1.weight"][found.channels]) < 1e-7


def test_a_linear_layer_on_a_map_is_shown_as_maps() -> None:
    model = prepare(EMBEDDED["digits"], CPU)
    weight = load(EMBEDDED["digits"]).network.state_dict()["2.weight"]
    found = shown(model, "2", channels=[3], inputs=5, values=True)
    own = weight[3].reshape(32, 2, 2)  # As nn.Flatten lays the map down.
    strongest = own.flatten(1).norm(dim=1).argsort(descending=True)[:5]
    assert found.inputs[0].tolist() == strongest.tolist()
    assert off(found.maps[0], own[strongest]) == 0
    assert off(found.values[0], own) == 0  # type: ignore[index]


def test_a_linear_layer_on_no_map_is_shown_as_lines() -> None:
    weight = plain("alexnet").state_dict()["classifier.6.weight"]
    found = shown(prepared("alexnet"), "classifier.6", channels=[3])
    assert found.maps.shape == (1, 1, 1, weight.shape[1])
    assert off(found.maps[0, 0, 0], weight[3]) == 0


def test_a_linear_layers_inputs_lie_as_the_image_does() -> None:
    model = prepared("linear")
    layer = next(each for each in every_layer(model.card) if each.weight)
    weight = plain("linear").state_dict()[f"{layer.name}.weight"]
    found = shown(model, layer.name, channels=[1, 0])
    shape = (3, model.card.height, model.card.width)
    assert found.maps.shape == (2, *shape)
    assert off(found.maps, weight[[1, 0]].reshape(2, *shape)) == 0


# Activations


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("trained-resnet20", "layer2.1"),
        ("trained-resnet20", "bn1"),
        ("mobilenet_v2", "features.3"),
        ("imagenet", "blocks.3"),
    ],
)
def test_activations_are_those_of_the_untouched_network(name: str, layer: str) -> None:
    model, x = inputs(name)
    own = outputs(plain(name), standardised(name, x))[layer][0]
    found = inspected(model, ActivationsArguments(layer, (), 4, "max"), x)
    order = own.amax((1, 2)).argsort(descending=True)[:4]
    assert found.channels.tolist() == order.tolist()
    assert off(found.maps, own[order]) < 1e-5
    assert found.means == pytest.approx(own[order].mean((1, 2)).numpy(), rel=1e-4, abs=1e-6)
    by_name = inspected(model, ActivationsArguments(layer, (5, 0), 1, "mean"), x)
    assert by_name.channels.tolist() == [5, 0]
    assert off(by_name.maps, own[[5, 0]]) < 1e-5


def test_tokens_are_shown_as_maps() -> None:
    model, x = inputs("vit_b_32")
    layer = "encoder.layers.encoder_layer_3"
    own = outputs(plain("vit_b_32"), standardised("vit_b_32", x))[layer][0, 1:].T.reshape(-1, 7, 7)
    found = inspected(model, ActivationsArguments(layer, (2, 9), 1, "mean"), x)
    assert off(found.maps, own[[2, 9]]) < 1e-5


# The table


@pytest.mark.parametrize("name", COUNTED)
def test_the_table_agrees_with_own_counts(name: str) -> None:
    card, network = prepared(name).card, plain(name)
    x = torch.zeros(1, 3, card.height, card.width)
    rows, own = {layer.name: layer for layer in table_layers(card)}, outputs(network, x)
    assert card.parameters == sum(parameter.numel() for parameter in network.parameters())
    assert sum(row.parameters for row in rows.values()) <= card.parameters
    for module_name, module in network.named_modules():
        row = rows.get(module_name)
        if row is None or module_name not in own:
            continue
        assert row.values == own[module_name].numel(), module_name
        assert row.shape == own[module_name].shape[1:] or own[module_name].shape[0] != 1, module_name
        if not any(module.children()):
            assert row.parameters == sum(each.numel() for each in module.parameters()), module_name
    assert round(card.gflop * 1e9 / 2) == multiply_adds(network, x)
    assert sum(row.multiply_adds for row in rows.values()) == multiply_adds(network, x)
    kinds = nn.Conv2d | nn.Linear | nn.MaxPool2d | nn.AvgPool2d | nn.AdaptiveAvgPool2d
    leaves = {each: module for each, module in network.named_modules() if isinstance(module, kinds) and each in own}
    counted = {each: own[each].numel() for each in leaves if rows[each].counted}
    assert {row.name for row in rows.values() if row.counted} == counted.keys()
    assert all(isinstance(leaves[each], nn.AdaptiveAvgPool2d) for each in leaves.keys() - counted.keys())


def test_the_figures_of_vgg16() -> None:
    """138,357,544 parameters, and 15.2 million values after convolutions, pools and linear layers, with the input."""
    torch.manual_seed(0)
    network = vgg16(weights=None).eval().requires_grad_(False)
    layers = with_contents(probe(network, torch.randn(2, 3, 224, 224)).layers, network)
    assert parameter_count(network) == sum(layer.parameters for layer in layers) == 138_357_544
    after = sum(layer.values for layer in layers if layer.counted)
    sizes = [(64, 224, 2), (128, 112, 2), (256, 56, 3), (512, 28, 3), (512, 14, 3)]
    by_hand = sum(width * side**2 * count + width * (side // 2) ** 2 for width, side, count in sizes)
    assert after == by_hand + 4096 + 4096 + 1000
    assert round((after + 3 * 224 * 224) / 1e6, 1) == 15.2
    assert sum(layer.multiply_adds for layer in layers) == 15_470_264_320


@pytest.fixture(scope="module")
def cifar() -> tuple[Tensor, tuple[int, ...]]:
    if not DATA.is_dir():
        pytest.skip("needs the photos in ../shared/data")
    with np.load(DATA / "cifar10-test-1000.npz") as file:
        pixels, labels = file["images"][:500], file["labels"][:500]
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255, tuple(labels.tolist())


def test_statistics_are_those_of_plain_hooks(cifar: tuple[Tensor, tuple[int, ...]]) -> None:
    images, labels = cifar
    found, network = statistics("trained-resnet20", images, labels), plain("trained-resnet20")
    own = outputs(network, standardised("trained-resnet20", images))
    for name, act in own.items():
        if name not in found.layers or act.dim() < 2:
            continue
        each, flat = found.layers[name], act.double().flatten(2) if act.dim() > 2 else act.double()[..., None]
        low, high = (getattr(flat, bound)((0, 2)) for bound in ("amin", "amax"))
        if isinstance(network.get_submodule(name), nn.ReLU) or name.startswith("layer"):
            assert each.dead_share == (high == low).double().mean().item(), name
        assert each.mean == pytest.approx(flat.mean().item(), rel=1e-4, abs=1e-5)
        assert each.std == pytest.approx(flat.std(unbiased=False).item(), rel=1e-4)
    assert found.layers["layer2.0"].dead_share == 1 / 32
    assert found.layers["layer3.0"].dead_share == 1 / 64
    loss = F.cross_entropy(own["linear"], torch.tensor(labels)).item()
    assert found.loss == pytest.approx(loss, rel=1e-4)


@pytest.mark.parametrize("labelled", [True, False])
def test_the_gradient_is_that_of_the_loss(cifar: tuple[Tensor, tuple[int, ...]], labelled: bool) -> None:
    images, labels = cifar[0][:12], cifar[1][:12]
    found = statistics("trained-resnet20", images, labels if labelled else ())
    network, kept = plain("trained-resnet20"), dict[str, Tensor]()
    for name in ("layer1.0", "layer3.2"):
        network.get_submodule(name).register_forward_hook(lambda _, __, out, name=name: kept.setdefault(name, out))
    logits = network(standardised("trained-resnet20", images).requires_grad_())
    classes = torch.tensor(labels) if labelled else logits.argmax(1)
    grads = torch.autograd.grad(F.cross_entropy(logits, classes, reduction="sum"), list(kept.values()))
    for name, grad in zip(kept, grads, strict=True):
        norm = grad.flatten(1).norm(dim=1).mean().item()
        assert found.layers[name].gradient_norm == pytest.approx(norm, rel=1e-3), name


@pytest.mark.parametrize("head", ["softmax", "multilabel"])
def test_the_loss_of_the_predicted_class_is_that_of_its_head(head: Any) -> None:
    logits = torch.tensor([[0.5, -1.0, 2.0], [3.0, 1.0, -2.0]])
    found = score([(ranked_log_prob(1), range(2))], 2, {"": logits}, head)[:, 0]
    own = logits.log_softmax(1).amax(1) if head == "softmax" else F.logsigmoid(logits).amax(1)
    assert off(found, own) < 1e-7


def test_the_price_of_the_table_has_its_statistics() -> None:
    """On a CPU they take longer than the gradient does in networks of many thin layers."""
    card = prepared("mobilenet_v2").card
    layers = tuple(layer.name for layer in table_layers(card) if card.layer(layer.name))
    few, all_of_them = (
        inspect_views.row_cost(TableArguments(names, 1, (), loss=True), card) for names in (layers[:1], layers)
    )
    assert all_of_them > 2 * few > 2 * GRADIENT_COST * card.gflop


def test_statistics_in_parts_are_those_of_all(cifar: tuple[Tensor, tuple[int, ...]]) -> None:
    whole, parts = (statistics("trained-resnet20", cifar[0][:20], chunk=chunk) for chunk in (32, 3))
    for name, each in whole.layers.items():
        other = parts.layers[name]
        assert other.dead_share == each.dead_share
        figures = (other.mean, other.std, other.gradient_norm)
        assert figures == pytest.approx((each.mean, each.std, each.gradient_norm), rel=1e-4, abs=1e-6)
