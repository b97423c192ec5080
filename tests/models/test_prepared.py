"""Making ready changes nothing that can be seen: the prepared network against the author's own, freshly built."""

import pytest
import torch
from lengths import length
from torch import Tensor, nn
from zoo import in_double, inputs, normalised, off, photos, pictures, unmodified

from gradserve_server.accel.convolutions import Packed
from gradserve_server.accel.cpu_mode import available
from gradserve_server.models.catalogue import ModelSpec
from gradserve_server.models.preparation import prepare

CNNS = ["alexnet", "vgg11_bn", "resnet18", "densenet121", "googlenet", "mobilenet_v2"]
TRAINED = ["trained-mobilenet_v2", "trained-squeezenet1_0", "trained-resnet20"]
OTHERS = ["shufflenet_v2_x0_5", "mobilenet_v3_small", "efficientnet_b0", "swin_t"]


def score_and_gradient(model: object, images: Tensor) -> tuple[Tensor, Tensor]:
    """Logits, and the gradient of each picture's highest."""
    images = images.clone().requires_grad_()
    logits = model(images)  # type: ignore[operator]
    return logits.detach(), torch.autograd.grad(logits.amax(1).sum(), images)[0]


@pytest.mark.parametrize("name", CNNS + TRAINED + OTHERS)
def test_equals_the_unmodified_network_in_float64(name: str) -> None:
    model = in_double(name)
    images = (photos if name.startswith("trained") else pictures)(model, 1)
    network = unmodified(name, torch.float64)
    logits, gradient = score_and_gradient(model, images)
    own_logits, own_gradient = score_and_gradient(lambda x: network(normalised(x)), images)
    assert off(logits, own_logits) < 1e-6
    assert off(gradient, own_gradient) < 1e-6


COUNTS = {"trained-mobilenet_v2": length(6, 48), "trained-squeezenet1_0": 6, "trained-resnet20": length(16, 64)}


@pytest.mark.parametrize("name", CNNS + TRAINED)
def test_gradients_keep_their_direction_in_fp32(name: str) -> None:
    model, images = inputs(name, COUNTS.get(name, 3))
    network = unmodified(name)
    for batch in images.split(8):
        _, gradient = score_and_gradient(model, batch)
        _, own = score_and_gradient(lambda x: network(normalised(x)), batch)
        cosine = nn.functional.cosine_similarity(gradient.flatten(1), own.flatten(1))
        assert cosine.min() > 0.999


def test_kernels_lay_their_weights_out_for_the_models_own_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first input decides, and the comparison's other size is smaller."""
    sizes: list[torch.Size] = []
    forward, input_gradient = Packed.forward, Packed.input_gradient

    def noted_forward(self: Packed, x: Tensor, bias: Tensor | None) -> Tensor:
        if self._forward is None:
            sizes.append(x.shape)
        return forward(self, x, bias)

    def noted_gradient(self: Packed, grad: Tensor, shape: torch.Size) -> Tensor:
        if self._backward is None:
            sizes.append(shape)
        return input_gradient(self, grad, shape)

    monkeypatch.setattr(Packed, "forward", noted_forward)
    monkeypatch.setattr(Packed, "input_gradient", noted_gradient)
    spec = ModelSpec(name="resnet18", weights="random", height=96, width=96, resize=96, precisions=("exact",))
    available(torch.float32)  # It has a trial of its own.
    sizes.clear()
    prepare(spec, torch.device("cpu"))
    assert {size[2] for size in sizes} == {24, 12, 6, 3}


def test_a_network_that_refuses_black_pictures_keeps_its_kernels() -> None:
    spec = ModelSpec(
        name="mine", builder="own_networks:refuses_black", height=32, width=32, resize=32, weights="random"
    )
    model = prepare(spec, torch.device("cpu"))
    assert model.card.unbatched
    assert model.kernels is not None
    assert not any("without speed-ups" in note for note in model.card.notes)
