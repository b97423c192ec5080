"""Which networks relevance can be propagated through, and what is refused with which reason."""

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from zoo import prepared

from gradserve_server.models.outputs import PLAIN
from gradserve_server.models.relevance import convolutions
from gradserve_server.models.relevance.convolutions import Convolution, plain_after
from gradserve_server.models.relevance.mode import RelevanceRules
from gradserve_server.models.relevance.probe import Applicability, applicability
from gradserve_server.models.relu import ReLURules
from gradserve_server.models.rules import Relevance


class Net(nn.Module):
    """Two convolutions with something between them."""

    def __init__(
        self, between: Callable[[Tensor], Tensor], *parts: nn.Module, before: Callable[..., Tensor] | None = None
    ):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.parts = nn.ModuleList(parts)
        self.between, self.before, self.head = between, before, nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        if self.before is not None:
            x = self.before(x)
        x = self.second(self.between(self.first(x)))
        return self.head(F.relu(x).mean((2, 3)))  # type: ignore[no-any-return]


class Own(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x * 2

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return grads[0] * 2


def of(network: nn.Module) -> Applicability:
    torch.manual_seed(0)
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.3)
    example = torch.rand(2, 3, 12, 16)
    return applicability(network.eval().requires_grad_(False), example, PLAIN)


def recurrent() -> nn.Module:
    rows = nn.GRU(4, 4, batch_first=True)
    return Net(lambda x: rows(x.flatten(2).transpose(1, 2))[0].transpose(1, 2).unflatten(2, x.shape[2:]), rows)


def transposed() -> nn.Module:
    up = nn.ConvTranspose2d(4, 4, 2, 2)
    return Net(lambda x: F.relu(up(x)), up)


def normed() -> nn.Module:
    norm = nn.BatchNorm2d(4)
    return Net(lambda x: norm(F.relu(x)), norm)


def compiled() -> nn.Module:
    part = torch.jit.script(nn.Conv2d(4, 4, 1))  # type: ignore[no-untyped-call]
    return Net(part, part)


def dynamic() -> nn.Module:
    """A convolution whose weight is made of the image."""
    return Net(lambda x: F.conv2d(x, x.mean((0, 2, 3)).view(1, 4, 1, 1).expand(4, 4, 1, 1)))


REFUSED: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "squeeze and excitation": (lambda: Net(lambda x: x * x.mean((2, 3), keepdim=True).sigmoid()), "squeeze-and-exc"),
    "a product": (lambda: Net(lambda x: F.relu(x) * x), "a product of two activations"),
    "a division": (lambda: Net(lambda x: x / (1 + F.relu(x).sum())), "a division by an activation"),
    "a norm": (lambda: Net(lambda x: F.normalize(x)), "division|Norm"),
    "a square": (lambda: Net(lambda x: x.square()), "Pow"),
    "SiLU": (lambda: Net(F.silu), "SiLU"),
    "sigmoid": (lambda: Net(torch.sigmoid), "Sigmoid"),
    "where": (lambda: Net(lambda x: torch.where(x > 0.1, x, 1)), "Where"),
    "a function of its own": (lambda: Net(Own.apply), "Own .an autograd function"),
    "a BatchNorm after a ReLU": (normed, "a BatchNorm that could not be folded"),
    "a transposed convolution": (transposed, "a convolution that no rule reaches"),
    "compiled": (compiled, "Conv|compiled|convolution"),
    "a weight of the image": (dynamic, "a convolution that no rule reaches"),
    "recurrent": (recurrent, "there is no rule for what it has: "),
    "written over": (lambda: Net(lambda x: _overwritten(x)), "cannot be put on the network|no rule"),
    "a slope of the image": (lambda: Net(lambda x: F.prelu(x, x.mean((0, 2, 3)))), "a product of two activations"),
    "products without scales": (lambda: Net(_einsum), "a product of two activations"),
    "a write into a part": (lambda: Net(_written), "writes into a part of a tensor"),
    "two of something first": (
        lambda: Net(lambda x: F.gelu(torch.stack([x, 2 * x])).sum(0)),
        "an operation sees 2 rows",
    ),
    "three of something first": (
        lambda: Net(lambda x: F.gelu(torch.stack([x] * 3)).sum(0)),
        "an operation sees 3 rows",
    ),
    "no gradient": (lambda: Net(lambda x: x.detach()), "no gradient"),
    "nothing to rule": (
        lambda: nn.Sequential(nn.Flatten(), nn.Linear(3 * 12 * 16, 5)),
        "no layer that its rules change",
    ),
}
_keep = nn.Conv2d(4, 4, 1).requires_grad_(False)


class Attention(nn.Module):
    """Self-attention over patches, as one call."""

    def __init__(self, *, need_weights: bool, batch_first: bool) -> None:
        super().__init__()
        self.need_weights, self.batch_first = need_weights, batch_first
        self.first, self.head = nn.Conv2d(3, 8, 4, 4), nn.Linear(8, 5)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=batch_first)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.first(x).flatten(2).transpose(1, 2)
        if not self.batch_first:
            tokens = tokens.transpose(0, 1)
        tokens = self.attention(tokens, tokens, tokens, need_weights=self.need_weights)[0]
        return self.head(tokens.mean(1 if self.batch_first else 0))  # type: ignore[no-any-return]


def _every_second(x: Tensor) -> Tensor:
    """A mask of attention [L, L] that leaves every token the even ones."""
    return (torch.arange(x.shape[-2]) % 2 == 0).expand(x.shape[-2], -1)


def _overwritten(x: Tensor) -> Tensor:
    y = F.relu(x).clone()
    z = _keep(y)
    y.mul_(2)
    return z + y


def _written(x: Tensor) -> Tensor:
    y = x.clone()
    y[:, :2].sigmoid_()
    return y


def _einsum(x: Tensor) -> Tensor:
    return torch.einsum("nchw,ndhw->ncdhw", x, x).sum(2)


@pytest.mark.parametrize("case", REFUSED)
def test_what_has_no_rule_is_refused(case: str) -> None:
    build, reason = REFUSED[case]
    found = of(build())
    assert found.refused
    assert found.input_refused
    assert re.search(reason, found.refused), found.refused


TAKEN: dict[str, Callable[[], nn.Module]] = {
    "ReLU": lambda: Net(F.relu),
    "a ReLU by a mask": lambda: Net(lambda x: x * (x > 0)),
    "clamp": lambda: Net(lambda x: x.clamp(0, 6)),
    "maximum": lambda: Net(lambda x: torch.maximum(x, torch.zeros(()))),
    "leaky": lambda: Net(lambda x: F.leaky_relu(x, 0.1)),
    "PReLU": lambda: Net(prelu := nn.PReLU(4), prelu),
    "nearest": lambda: Net(lambda x: F.interpolate(x, scale_factor=2.0, mode="nearest-exact")),
    "attention with weights": lambda: Attention(need_weights=True, batch_first=True),
    "attention with weights, rows second": lambda: Attention(need_weights=True, batch_first=False),
    "masked attention": lambda: Net(lambda x: F.scaled_dot_product_attention(x, x, x, attn_mask=_every_second(x))),
    "pooling": lambda: Net(lambda x: F.interpolate(F.max_pool2d(F.avg_pool2d(x, 2), 2), scale_factor=2.0)),
    "residual": lambda: Net(lambda x: x + F.relu(x)),
    "channels": lambda: Net(lambda x: torch.cat([x[:, 2:], x[:, :2].flip(1)], 1).roll(1, 2)),
    "GELU": lambda: Net(F.gelu),
    "attention": lambda: Net(lambda x: (x @ x.transpose(2, 3)).softmax(3) @ x),
}


@pytest.mark.parametrize("case", TAKEN)
def test_what_has_a_rule_is_taken(case: str) -> None:
    assert of(TAKEN[case]()) == Applicability("", "")


class Halves(nn.Module):
    """Looks at both halves of each image by itself; `inner` says in which order they lie."""

    def __init__(self, *, inner: bool) -> None:
        super().__init__()
        self.inner, self.conv, self.head = inner, nn.Conv2d(3, 4, 3), nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        halves = torch.stack(x.chunk(2, 3), 0 if self.inner else 1).flatten(0, 1)
        means = F.relu(self.conv(halves)).mean((2, 3)).unflatten(0, (2, -1) if self.inner else (-1, 2))
        return self.head(means.sum(0 if self.inner else 1))  # type: ignore[no-any-return]


def test_images_in_several_rows_are_taken_where_each_ones_lie_together() -> None:
    assert not of(Halves(inner=False)).refused
    assert "do not lie one after another" in of(Halves(inner=True)).refused


INPUTS: dict[str, Callable[..., Tensor]] = {
    "shifted": lambda x: x - 0.5,
    "flipped": lambda x: x.flip(1),
    "two ways": lambda x: x + F.pad(x, (0, 0, 1, 0))[:, :, 1:],
}


@pytest.mark.parametrize("case", INPUTS)
def test_input_rules_need_a_convolution_that_takes_the_image(case: str) -> None:
    found = of(Net(F.relu, before=INPUTS[case]))
    assert not found.refused
    assert "its image goes into something else than a convolution" in found.input_refused


@pytest.mark.parametrize(
    "before", [lambda x: F.pad(x, (0, 1, 0, 1)), lambda x: F.pad(x, (1, 1, 1, 1), "reflect"), torch.clone]
)
def test_input_rules_see_through_padding(before: Callable[..., Tensor]) -> None:
    assert of(Net(F.relu, before=before)) == Applicability("", "")


TORCHVISIONS = {
    "alexnet": "",
    "resnet18": "",
    "googlenet": "",
    "inception_v3": "",
    "squeezenet1_1": "",
    "mobilenet_v2": "",
    "shufflenet_v2_x0_5": "",
    "mnasnet0_5": "",
    "imagenet": "",
    "vit_b_32": "",
    "swin_t": "",
    "convnext_tiny": "",
    "densenet121": "BatchNorm",
    "regnet_y_400mf": "squeeze-and-excitation",
    "mobilenet_v3_small": "squeeze-and-excitation",
    "efficientnet_b0": "squeeze-and-excitation",
}


@pytest.mark.parametrize("name", TORCHVISIONS)
def test_torchvisions_networks(name: str) -> None:
    card, reason = prepared(name).card, TORCHVISIONS[name]
    assert bool(card.relevance_refused) == bool(reason)
    assert reason in card.relevance_refused
    assert bool(card.input_rules_refused) == bool(reason)


def relevance(network: nn.Module, x: Tensor, rule: Relevance) -> Tensor:
    """The gradient of the first logit by x under the rule; x is the network's input, with values in [0, 1]."""
    x = x.detach().requires_grad_()
    with ReLURules([rule]), RelevanceRules([rule], 1) as mode:
        mode.see_input(x, torch.zeros(3, 1, 1), torch.ones(3, 1, 1))
        score = network(x)[0, 0]
    return torch.autograd.grad(score, x)[0]


@pytest.mark.parametrize("value", [0.0, 0.5, -1.0])
def test_padding_with_a_value_is_no_pixel(value: float) -> None:
    """The relevance of each window is shared out among its pixels alone, and none of it is lost but beyond the edge."""
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.ConstantPad2d(1, value), nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 64, 2)
    )
    network.requires_grad_(False).double()
    x = torch.rand(1, 3, 8, 8, dtype=torch.float64)
    found = relevance(network, x, Relevance(input="flat"))
    hidden = network[2](network[1](network[0](x)))
    shares = (hidden.flatten() * network[4].weight[0]).view(1, 4, 8, 8).sum(1, keepdim=True)
    counts = F.conv2d(torch.ones(1, 1, 8, 8, dtype=x.dtype), torch.ones(1, 1, 3, 3, dtype=x.dtype), padding=1)
    right = F.conv_transpose2d(shares / counts, torch.ones(1, 1, 3, 3, dtype=x.dtype), padding=1) / 3
    assert torch.allclose(found, right.expand_as(found), rtol=1e-5)


class Queries(nn.Module):
    """Attention to the image by queries that are parameters, as one call or by hand."""

    def __init__(self, *, by_hand: bool) -> None:
        super().__init__()
        self.by_hand, self.first, self.queries = by_hand, nn.Conv2d(3, 8, 2, 2), nn.Parameter(torch.randn(1, 1, 3, 8))
        self.head = nn.Linear(24, 2)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.first(x).flatten(2).transpose(1, 2)[:, None]
        queries = self.queries.expand(len(x), -1, -1, -1)
        if self.by_hand:
            out = (queries @ tokens.transpose(2, 3) / 8**0.5).softmax(3) @ tokens
        else:
            out = F.scaled_dot_product_attention(queries, tokens, tokens)
        return self.head(out.flatten(1))  # type: ignore[no-any-return]


def test_queries_that_are_parameters_leave_the_keys_their_share() -> None:
    maps = []
    for by_hand in (True, False):
        torch.manual_seed(0)
        network = Queries(by_hand=by_hand).requires_grad_(False).double()
        x = torch.rand(1, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
        maps.append(relevance(network, x, Relevance()))
    assert torch.allclose(*maps, rtol=1e-9)


def test_attention_with_and_without_weights_has_the_same_relevance() -> None:
    maps = []
    for need_weights in (True, False):
        torch.manual_seed(0)
        network = Attention(need_weights=need_weights, batch_first=True).eval().requires_grad_(False).double()
        x = torch.rand(1, 3, 12, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
        maps.append(relevance(network, x, Relevance()))
    assert maps[0].abs().max() > 0
    assert torch.allclose(*maps, rtol=1e-9)


@pytest.mark.parametrize("same", [True, False])
def test_the_plain_gradient_of_fewer_rows_is_taken_where_its_bits_are_those_of_all(
    monkeypatch: pytest.MonkeyPatch, same: bool
) -> None:
    torch.manual_seed(0)
    weight, x = torch.rand(5, 3, 3, 3), torch.rand(4, 3, 8, 8)
    convolution = Convolution(weight, None, [1, 1], [0, 0], [1, 1], 1)
    right = Convolution.backward
    computed: list[int] = []

    def backward(self: Convolution, g: Tensor, x: Tensor, weight: Tensor) -> Tensor:
        computed.append(len(x))
        return right(self, g, x, weight) * (1 if same or len(x) == 4 else 1 + 1e-6)

    monkeypatch.setattr(Convolution, "backward", backward)
    monkeypatch.setattr(convolutions, "_same_bits", {})
    nothing = torch.zeros(4, 5, 6, 6)  # It proves nothing, so that nothing is learnt from it.
    for g in (nothing, *torch.rand(3, 4, 5, 6, 6)):
        assert torch.equal(plain_after(2, convolution, x, g)[2:], right(convolution, g, x, weight)[2:])
    assert computed == ([4, 4, 2, 2, 2] if same else [4, 4, 2, 4, 4])
