"""What influence is compared with: cheaper scores of training examples for a test example."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap


def gradients(network: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Of each example's loss by all weights: [N, P]."""
    weights = {name: p.detach() for name, p in network.named_parameters()}

    def loss(w: dict[str, Tensor], image: Tensor, label: Tensor) -> Tensor:
        return F.cross_entropy(functional_call(network, w, (image[None],)), label[None])

    found = vmap(grad(loss), (None, 0, 0), chunk_size=100)(weights, x, y)
    return torch.cat([found[name].flatten(1) for name in weights], 1)


def gradient_dot(network: nn.Module, x: Tensor, y: Tensor, x_test: Tensor, y_test: Tensor) -> Tensor:
    """Inner products of loss gradients (Charpiat et al. 2019): what a step on i does for the test loss. [tests, N]."""
    return gradients(network, x_test, y_test) @ gradients(network, x, y).T


def trac_in(checkpoints: Sequence[nn.Module], x: Tensor, y: Tensor, x_test: Tensor, y_test: Tensor) -> Tensor:
    """The same, summed over checkpoints of one training (TracInCP, Pruthi et al. 2020): [tests, N]."""
    return sum((gradient_dot(each, x, y, x_test, y_test) for each in checkpoints), torch.tensor(0.0))


def same_class(y: Tensor, y_test: Tensor) -> Tensor:
    """Whether labels agree, without any model: [tests, N]."""
    return (y_test[:, None] == y).float()


def similarity(features: Tensor, features_test: Tensor, y: Tensor, y_test: Tensor) -> Tensor:
    """Cosine of features, negative where labels differ: [tests, N]."""
    cosines = F.normalize(features_test, dim=1) @ F.normalize(features, dim=1).T
    return cosines * (2 * same_class(y, y_test) - 1)
