"""Taps of weights: what a layer's weight gradient is made of, from rows that share a pass with others."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from zoo import CPU, off, pictures

from gradserve_server.engine.differentiate import differentiate
from gradserve_server.engine.objective import log_odds, log_prob
from gradserve_server.engine.query import Part, Query, Tap
from gradserve_server.models.catalogue import EMBEDDED
from gradserve_server.models.preparation import prepare
from gradserve_server.models.prepared import Prepared

SAME = 1e-5


def conv_gradient(x: Tensor, grad: Tensor) -> Tensor:
    """[N, Cin, H, W], [N, Cout, H, W] -> [N, Cout, Cin * 9] of a 3x3 convolution with padding 1."""
    return torch.einsum("nop,nip->noi", grad.flatten(2), F.unfold(x, 3, padding=1))


def linear_gradient(x: Tensor, grad: Tensor) -> Tensor:
    return torch.einsum("no,ni->noi", grad, x)


def by_autograd(model: Prepared, image: Tensor, label: int, module: nn.Module) -> Tensor:
    module.weight.requires_grad_(True)
    try:
        logits = model(image)
        value = logits.log_softmax(1)[0, label] - torch.log1p(-logits.softmax(1)[0, label])
        return torch.autograd.grad(value, module.weight)[0].flatten(1)
    finally:
        module.weight.requires_grad_(False)


def test_rows_in_company_get_their_own_weight_gradients() -> None:
    model = prepare(EMBEDDED["digits"], CPU, torch.float64, fold=False)
    assert not model.card.folded
    x = pictures(model, 5)
    taps = (Tap("0.3", "weight", conv_gradient), Tap("2", "weight", linear_gradient))
    queries = [
        Query(x[:1], log_odds(3), "taps", taps),
        Query(x[1:3], log_odds(7), "taps", taps[1:]),
        Query(x[3:], log_prob(2), "taps", (Tap("0.3", "weight", conv_gradient), Tap("0.3", reduce=torch.mul))),
    ]
    first, second, third = differentiate(model, [Part(q, range(len(q.images))) for q in queries])
    for name, found in zip(("0.3", "2"), first.acts, strict=True):
        assert off(found[0], by_autograd(model, x[:1], 3, model.network.get_submodule(name))) < SAME
    for i in (0, 1):
        assert off(second.acts[0][i], by_autograd(model, x[1 + i : 2 + i], 7, model.network.get_submodule("2"))) < SAME
    assert third.acts[0].shape == (2, 32, 24 * 9)
    assert third.acts[1].shape == (2, 32, 8, 8)


def test_log_odds_do_not_saturate() -> None:
    model = prepare(EMBEDDED["digits"], CPU, torch.float64, fold=False)
    image = torch.zeros(1, 3, 8, 8, dtype=torch.float64)
    image[:, :, :, 3:5] = 1.0  # This draws a one.
    (sure,) = differentiate(model, [Part(Query(image, log_odds(1)), range(1))])
    p = sure.logits.softmax(1)[0, 1]
    assert off(sure.value, torch.log(p / (1 - p)).view(1)) < 1e-9
    (faint,) = differentiate(model, [Part(Query(image, log_odds(1), "image"), range(1))])
    (loss,) = differentiate(model, [Part(Query(image, log_prob(1), "image"), range(1))])
    assert off((1 - p) * faint.image_grad, loss.image_grad) < 1e-6


def test_unfolding_changes_nothing_but_the_names() -> None:
    folded, plain = prepare(EMBEDDED["cifar10"], CPU), prepare(EMBEDDED["cifar10"], CPU, fold=False)
    x = pictures(folded, 2)
    assert off(plain(x), folded(x)) < 1e-4
    assert folded.card.folded.keys() <= {layer.name for layer in plain.card.layers}
