"""Projected gradients of single examples against autograd's whole ones."""

import pytest
import torch
from torch import nn
from zoo import off

from gradserve_server.methods.influence.coverage import _layer, covered
from gradserve_server.methods.influence.gradients import MAX_EXACT_CLASSES, expectation_classes
from gradserve_server.methods.influence.indexing.bases import SecondMoment
from gradserve_server.methods.influence.layers import Projection, parameters

from . import small

MODULES = {
    "linear": (nn.Linear(5, 4), (3, 5)),
    "linear on tokens, no bias": (nn.Linear(5, 4, bias=False), (3, 7, 5)),
    "convolution": (nn.Conv2d(4, 6, 3), (3, 4, 8, 9)),
    "stride, padding": (nn.Conv2d(4, 6, (3, 5), stride=(2, 1), padding=(1, 2), bias=False), (3, 4, 9, 8)),
    "dilation": (nn.Conv2d(4, 6, 3, dilation=2, padding=3), (3, 4, 8, 8)),
    "groups": (nn.Conv2d(4, 6, 3, groups=2, padding=1), (3, 4, 8, 8)),
    "depthwise": (nn.Conv2d(4, 8, 3, groups=4, stride=2, bias=False), (3, 4, 8, 8)),
}


@pytest.mark.parametrize("name", MODULES)
def test_a_projection_is_that_of_the_whole_gradient(name: str) -> None:
    module, shape = MODULES[name]
    module.double().requires_grad_(True)
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(shape, generator=generator, dtype=torch.float64)
    out = module(x)
    by_output = torch.randn(out.shape, generator=generator, dtype=torch.float64)
    layer = _layer("it", module)
    left = torch.randn(layer.outputs, 2, generator=generator, dtype=torch.float64)
    right = torch.randn(layer.columns, 3, generator=generator, dtype=torch.float64)
    ours = Projection(layer, left, right)(x, by_output)
    for i in range(len(x)):
        grads = torch.autograd.grad(module(x[i : i + 1]), list(module.parameters()), by_output[i : i + 1])
        whole = torch.cat([grads[0].flatten(1), *(g[:, None] for g in grads[1:])], 1)
        assert off(ours[i], (left.T @ whole @ right).flatten()) < 1e-12
    summed = torch.autograd.grad(out, list(module.parameters()), by_output)
    whole = torch.cat([summed[0].flatten(1), *(g[:, None] for g in summed[1:])], 1)
    assert off(layer.gradient(x, by_output), whole) < 1e-12
    assert parameters(module).shape == whole.shape


def test_what_is_covered() -> None:
    layers, share = covered(small.model())
    assert [layer.name for layer in layers] == ["0", "2", "5"]
    assert share == 1.0
    assert sum(layer.outputs * layer.columns for layer in layers) == sum(
        p.numel() for p in small.model().network.parameters()
    )


def test_a_sketch_finds_the_leading_directions() -> None:
    generator = torch.Generator().manual_seed(0)
    scales = 2.0 ** -torch.arange(1500, dtype=torch.float64)
    rows = torch.randn(300, 1500, generator=generator, dtype=torch.float64) * scales
    wide = SecondMoment(1500, 6, generator)
    assert wide.test is not None
    wide.add(rows[:100])
    wide.add(rows[100:])
    exact = torch.linalg.eigh(rows.T @ rows).eigenvectors.flip(1)[:, :6]
    cosines = torch.linalg.svdvals(wide.basis().T @ exact)
    assert cosines.min() > 0.9999


def test_expectations_over_many_classes_are_unbiased() -> None:
    generator = torch.Generator().manual_seed(0)
    p = torch.rand(1, 40, generator=generator, dtype=torch.float64).pow(4)
    p = p / p.sum()
    assert p.shape[1] > MAX_EXACT_CLASSES
    values = torch.arange(40.0, dtype=torch.float64)
    means = []
    for _ in range(2000):
        drawn = list(expectation_classes(p, generator))
        assert sum(weight.item() for _, weight in drawn) == pytest.approx(1)
        means.append(sum((values[c] * weight).item() for c, weight in drawn))
    spread = torch.tensor(means).std().item() / len(means) ** 0.5
    assert abs(sum(means) / len(means) - (p[0] @ values).item()) < 4 * spread
    few = list(expectation_classes(p[:, :5] / p[:, :5].sum(), generator))
    assert [c.item() for c, _ in few] == [0, 1, 2, 3, 4]
