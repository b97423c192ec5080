"""Attacks that training and its checks need: images in [0, 1] -> images in [0, 1], at most eps away in every value."""

import copy
from collections.abc import Callable
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gradserve_server.models.embedded.cifar10.network import normalize

Logits = Callable[[Tensor], Tensor]


class FoldedTwin:
    """A bfloat16 copy of a network in evaluation mode, BatchNorm inside its convolutions: the cheap thing to attack."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.twin = copy.deepcopy(model).bfloat16().eval().requires_grad_(False)
        self.pairs: list[tuple[nn.Conv2d, nn.BatchNorm2d, nn.Conv2d]] = []
        modules = list(model.named_modules())
        for (name, conv), (bn_name, bn) in pairwise(m for m in modules if not list(m[1].children())):
            if isinstance(conv, nn.Conv2d) and isinstance(bn, nn.BatchNorm2d):
                folded = self.twin.get_submodule(name)
                assert isinstance(folded, nn.Conv2d)
                folded.bias = nn.Parameter(torch.zeros(conv.out_channels, dtype=torch.bfloat16), requires_grad=False)
                self.twin.set_submodule(bn_name, nn.Identity())
                self.pairs.append((conv, bn, folded))

    @torch.no_grad()
    def refresh(self) -> None:
        """Takes over the network's present weights and running statistics."""
        own = dict(self.twin.named_parameters())
        folded = {id(p) for _, _, twin in self.pairs for p in twin.parameters()}
        for name, parameter in self.model.named_parameters():
            if name in own and id(own[name]) not in folded:
                own[name].copy_(parameter)
        for conv, bn, twin in self.pairs:
            assert bn.running_var is not None
            assert bn.running_mean is not None
            assert twin.bias is not None
            scale = bn.weight / (bn.running_var + bn.eps).sqrt()
            twin.weight.copy_(conv.weight * scale.view(-1, 1, 1, 1))
            twin.bias.copy_(bn.bias - bn.running_mean * scale)

    def __call__(self, images: Tensor) -> Tensor:
        """Returns logits [N, 10] of images in [0, 1]."""
        logits: Tensor = self.twin(normalize(images).bfloat16())
        return logits.float()


def image_gradient(logits: Logits, images: Tensor, labels: Tensor) -> Tensor:
    """Returns d cross-entropy / d image, of the sum over the images."""
    images = images.detach().requires_grad_()
    with torch.enable_grad():
        loss = F.cross_entropy(logits(images), labels, reduction="sum")
    return torch.autograd.grad(loss, images)[0]


def uniform(like: Tensor, radius: float, generator: torch.Generator) -> Tensor:
    """Returns noise in [-radius, radius], shaped as `like`."""
    return torch.empty_like(like).uniform_(-radius, radius, generator=generator)


def noisy_fgsm(
    logits: Logits, images: Tensor, labels: Tensor, *, eps: float, noise: float, generator: torch.Generator
) -> Tensor:
    """N-FGSM (de Jorge et al. 2022): one sign step of eps from uniform noise, not projected: the noise augments."""
    noisy = images + uniform(images, noise, generator)
    return (noisy + eps * image_gradient(logits, noisy, labels).sign()).clamp(0, 1)


def pgd(
    logits: Logits, images: Tensor, labels: Tensor, *, eps: float, step: float, steps: int, generator: torch.Generator
) -> Tensor:
    """PGD (Madry et al. 2018), Linf, from a random start; the images after the last step."""
    adversarial = (images + uniform(images, eps, generator)).clamp(0, 1)
    for _ in range(steps):
        moved = adversarial + step * image_gradient(logits, adversarial, labels).sign()
        adversarial = images + (moved - images).clamp(-eps, eps)
        adversarial = adversarial.clamp(0, 1).detach()
    return adversarial
