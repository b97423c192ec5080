"""What the cards say of every family: a row each."""

from typing import NamedTuple

import pytest
import torch
from torch import nn
from zoo import CPU, inputs, prepared

from gradserve_server.models.catalogue import ModelSpec
from gradserve_server.models.loading import LoadError
from gradserve_server.models.preparation import prepare
from gradserve_server.models.probe import probe


class Facts(NamedTuple):
    """ReLUs, convolutions with a BatchNorm inside, and where Grad-CAM looks by default."""

    relus: int
    folded: int
    grad_cam: str


FAMILIES = {
    "alexnet": Facts(7, 0, "features.11"),
    "vgg11_bn": Facts(10, 8, "features.27"),
    "resnet18": Facts(17, 20, "layer4"),
    "densenet121": Facts(121, 59, "features+relu"),
    "googlenet": Facts(57, 57, "inception5b"),
    "inception_v3": Facts(94, 94, "Mixed_7c"),
    "squeezenet1_1": Facts(26, 0, "features"),
    "mobilenet_v2": Facts(35, 52, "features"),
    "mobilenet_v3_small": Facts(14, 34, "features"),
    "shufflenet_v2_x0_5": Facts(37, 56, "conv5"),
    "mnasnet0_5": Facts(35, 52, "layers"),
    "regnet_y_400mf": Facts(65, 53, "trunk_output"),
    "efficientnet_b0": Facts(0, 49, "features"),
    "convnext_tiny": Facts(0, 0, "features"),
    "vit_b_32": Facts(0, 0, "encoder.layers.encoder_layer_11.ln_1"),
    "swin_t": Facts(0, 0, "norm"),
}


@pytest.mark.parametrize("name", FAMILIES)
def test_family(name: str) -> None:
    card, facts = prepared(name).card, FAMILIES[name]
    assert (card.relus, len(card.folded), card.grad_cam_layer) == facts
    assert card.rules_refused == ("" if facts.relus else "it has no ReLU")
    assert len(card.classes) == 1000
    assert "tench" in card.classes[0]
    layer = card.layer(card.grad_cam_layer)
    assert layer is not None
    assert layer.is_map
    assert card.any_size == (name != "vit_b_32")
    assert card.head == "softmax"
    assert card.gflop > 0


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "swin_t", "vit_b_32", "googlenet"])
def test_the_layers_are_those_that_fire_in_their_order(name: str) -> None:
    model, x = inputs(name)
    fired: list[str] = []
    handles = [
        module.register_forward_hook(lambda m, a, out, name=name: fired.append(name))
        for name, module in model.network.named_modules()
        if name
    ]
    with torch.no_grad():
        model(x)
    for handle in handles:
        handle.remove()
    listed = [layer.name.partition(":")[0] for layer in model.card.layers if ":" not in layer.name]
    last = [name for i, name in enumerate(fired) if name not in fired[i + 1 :] and name not in model.card.folded]
    assert listed == last
    assert not set(model.card.folded) & {layer.name for layer in model.card.layers}
    assert set(model.card.folded.values()) <= {layer.name for layer in model.card.layers}


def test_reused_modules_have_every_call_by_index() -> None:
    names = [layer.name for layer in prepared("resnet18").card.layers if "layer4.1.relu" in layer.name]
    assert names == ["layer4.1.relu:0", "layer4.1.relu:1", "layer4.1.relu"]


def test_partly_guided_models_say_so() -> None:
    card = prepared("mobilenet_v3_small").card
    assert card.other_activations == ("Hardswish",)
    assert any(note.startswith("PARTIALLY_GUIDED") for note in card.notes)
    assert not prepared("mobilenet_v2").card.notes


def test_the_smallest_size_works_and_its_half_does_not() -> None:
    model = prepared("densenet121")
    assert model(torch.rand(1, 3, *[model.card.min_size] * 2)).shape == (1, 1000)
    with pytest.raises(RuntimeError):
        model(torch.rand(1, 3, *[model.card.min_size // 2] * 2))


def test_a_network_without_logits_is_refused() -> None:
    with pytest.raises(
        LoadError, match=r"model m: it returns a tensor \[4, 2, 2, \d+, \d+\] for 4 images of .* a score for each class"
    ):
        prepare(ModelSpec(name="m", builder="networks:maps", height=16, width=16), CPU)


def test_a_network_whose_rows_depend_on_each_other_is_refused() -> None:
    spec = ModelSpec(name="sociable", builder="networks:sociable", weights="random", height=16, width=16)
    with pytest.raises(LoadError, match="depend on the other images"):
        prepare(spec, CPU)


def test_channels_as_many_as_rows_are_no_map_with_channels_last() -> None:
    """By its shape alone, what a convolution with unequal strides gives would be 8 x 8 places of 4 channels."""
    network = nn.Sequential(nn.Conv2d(3, 8, 3, stride=(1, 2), padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(256, 5))
    layers = {layer.name: layer for layer in probe(network.eval(), torch.randn(2, 3, 8, 8)).layers}
    assert (layers["0"].shape, layers["0"].layout, layers["1"].layout) == ((8, 8, 4), "other", "other")
