"""Every way of writing an activation is ruled, or told; against the network with the function replaced."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from zoo import CPU, off, prepared

from gradserve_server.methods.explain import METHODS
from gradserve_server.models.activations import MASK, UNREACHED, Activations, activations
from gradserve_server.models.catalogue import ModelSpec
from gradserve_server.models.preparation import prepare
from gradserve_server.models.prepared import Prepared
from gradserve_server.models.relu import ReLURules

Function = Callable[[Tensor], Tensor]


class Guided(torch.autograd.Function):
    """The reference: a ReLU whose backward is guided."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:  # type: ignore[no-untyped-def, override]
        ctx.save_for_backward(x)
        return x.clamp_min(0)

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:  # type: ignore[no-untyped-def, override]
        (x,) = ctx.saved_tensors
        return grad * (x > 0) * (grad > 0)


class OwnReLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:  # type: ignore[no-untyped-def, override]
        ctx.save_for_backward(x)
        return x.clamp_min(0)

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:  # type: ignore[no-untyped-def, override]
        return grad * (ctx.saved_tensors[0] > 0)


class Net(nn.Module):
    """An nn.ReLU, and then twice the function in question."""

    def __init__(self, function: Function, first: Function | None = None) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Conv2d(a, b, 3, 2, 1) for a, b in ((3, 12), (12, 16), (16, 16))])
        self.first, self.function, self.head = first or nn.ReLU(), function, nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(self.layers[0](x))
        for layer in self.layers[1:]:
            x = self.function(layer(x))
        return self.head(x.mean((2, 3)))  # type: ignore[no-any-return]


def net(function: Function, first: Function | None = None) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(5)
        return Net(function, first).eval().requires_grad_(False)


@pytest.fixture
def x() -> Tensor:
    return torch.randn(2, 3, 24, 32, generator=torch.Generator().manual_seed(0))


def look(network: nn.Module, x: Tensor) -> Activations:
    with torch.no_grad():
        logits = network(x)
    return activations(network, x, logits)


def zero(x: Tensor) -> Tensor:
    return torch.zeros((), dtype=x.dtype)


RULED: dict[str, Function] = {
    "nn.ReLU": nn.ReLU(),
    "F.leaky_relu of 0": lambda x: F.leaky_relu(x, 0.0),
    "nn.LeakyReLU(0) in place": nn.LeakyReLU(0.0, inplace=True),
    "torch.maximum": lambda x: torch.maximum(x, torch.zeros_like(x)),
    "torch.maximum, zero first": lambda x: torch.maximum(zero(x), x),
    "torch.max": lambda x: torch.max(x, zero(x)),
    "x.max": lambda x: x.max(torch.zeros(1, 1, 1, 1, dtype=x.dtype)),
    "torch.fmax": lambda x: torch.fmax(x, zero(x)),
    "clamp": lambda x: x.clamp(min=0),
    "clamp in place": lambda x: x.clamp_(min=0),
    "clamp by name": lambda x: torch.clamp(input=x, min=0),
    "threshold": nn.Threshold(0.0, 0.0),
    "checkpoint": lambda x: checkpoint(F.relu, x, use_reentrant=False),
}


@pytest.mark.parametrize("name", RULED)
def test_it_is_ruled(name: str, x: Tensor) -> None:
    network, reference = net(RULED[name]).double(), net(Guided.apply, Guided.apply).double()
    assert look(network, x.double()) == Activations(3, ())

    def gradient(of: nn.Module) -> Tensor:
        source = x.double().requires_grad_()
        return torch.autograd.grad(of(source)[:, 1].sum(), source)[0]

    with ReLURules(["guided", "guided"]):
        ours = gradient(network)
    assert off(ours, gradient(reference)) < 1e-12
    plain = gradient(network)
    assert off(ours, plain) > 0.1
    with ReLURules(["plain", "guided"]):
        mixed = gradient(network)
    assert off(mixed[0], plain[0]) < 1e-12
    assert off(mixed[1], ours[1]) < 1e-12


@pytest.mark.parametrize("name", ["clamp", "clamp in place", "torch.maximum", "torch.fmax", "nn.ReLU"])
def test_plain_rows_keep_the_functions_own_gradient_at_zero(name: str) -> None:
    """clamp passes the gradient at zero, maximum halves it; company must not change that."""
    x = torch.tensor([[-1.0, 0.0, 2.0], [-1.0, 0.0, 2.0]])

    def gradient() -> Tensor:
        source = x.clone().requires_grad_()
        return torch.autograd.grad(RULED[name](source * 1).sum(), source)[0]

    alone = gradient()
    with ReLURules(["plain", "guided"]):
        mixed = gradient()
    assert torch.equal(mixed[0], alone[0])
    assert mixed[1].tolist() == [0, 0, 1]


def _half_written(x: Tensor) -> Tensor:
    """In place on a view, the sigmoid is no node of its own in autograd's graph."""
    y = x.clone()
    y[:, :1].sigmoid_()
    return y


TOLD: dict[str, tuple[Function, str]] = {
    "x * (x > 0)": (lambda x: x * (x > 0), MASK),
    "in place": (lambda x: x.mul_(x.gt(0).float()), MASK),
    "einsum": (lambda x: torch.einsum("nchw,nchw->nchw", x, (x > 0).float()), MASK),
    "addcmul": (lambda x: torch.addcmul(zero(x), x, (x > 0).float()), MASK),
    "division": (lambda x: x / torch.where(x > 0, 1.0, torch.inf), MASK),
    "where": (lambda x: torch.where(x > 0, x, 0.0), "where"),
    "a write into a part": (lambda x: _half_written(x), "an operation that writes into a part of a tensor"),
    "masked_fill": (lambda x: x.masked_fill(x < 0, 0), "masked_fill"),
    "abs": (lambda x: (x + x.abs()) / 2, "abs"),
    "minimum": (lambda x: -torch.minimum(-x, zero(x)), "minimum"),
    "maximum of both": (lambda x: torch.maximum(x, 0 * x), "maximum"),
    "amax of a stack": (lambda x: torch.stack([x, torch.zeros_like(x)]).amax(0), "maximum"),
    "less its negative part": (lambda x: x - x.clamp(max=0), UNREACHED),
    "clamp by a tensor": (lambda x: x.clamp(min=zero(x)), UNREACHED),
    "aten": (torch.ops.aten.relu, UNREACHED),
    "a Function of one's own": (OwnReLU.apply, "OwnReLU (an autograd function of its own)"),
    "reentrant checkpoint": (
        lambda x: checkpoint(F.relu, x, use_reentrant=True),
        "CheckpointFunction (an autograd function of its own)",
    ),
    "prelu": (lambda x: F.prelu(x, torch.zeros(1)), "PReLU"),
    "leaky": (lambda x: F.leaky_relu(x, 0.1), "LeakyReLU"),
    "lerp": (lambda x: torch.lerp(zero(x).expand_as(x), x, (x > 0).float()), "Lerp"),
    "taken from a stack": (lambda x: torch.stack([0 * x, x]).take_along_dim((x > 0).long()[None], 0)[0], "Gather"),
    "the largest of a sorted stack": (lambda x: torch.stack([x, 0 * x]).sort(0).values[1], "Sort"),
    "the first of a stack": (lambda x: torch.stack([x, 0 * x]).topk(1, 0).values[0], "Topk"),
    "the largest so far": (lambda x: torch.stack([0 * x, x]).cummax(0).values[1], "Cummax"),
    "logaddexp": (lambda x: torch.logaddexp(50 * x, 0 * x) / 50, "Logaddexp"),
    "glu": (lambda x: F.glu(torch.cat([x, 1e4 * x], 1), 1), "Glu"),
    "silu": (F.silu, "SiLU"),
    "silu by hand": (lambda x: x * torch.sigmoid(x), "SiLU"),
    "with a factor": (lambda x: x * torch.sigmoid(1.7 * x), "SiLU"),
    "hardswish by hand": (lambda x: x * F.hardsigmoid(x), "Hardswish"),
    "sigmoid": (torch.sigmoid, "Sigmoid"),
    "gelu": (F.gelu, "GELU"),
    "gelu by hand": (lambda x: 0.5 * x * (1 + torch.erf(x / 2**0.5)), "erf"),
    "tanh": (torch.tanh, "Tanh"),
    "elu": (F.elu, "ELU"),
    "selu": (F.selu, "SELU"),
    "celu": (F.celu, "CELU"),
    "mish": (F.mish, "Mish"),
    "softplus": (F.softplus, "Softplus"),
    "hardtanh": (F.hardtanh, "Hardtanh"),
}


MAY_BE_RELUS = (MASK, UNREACHED, "where", "masked_fill", "abs", "maximum", "minimum")
MAY_BE_RELUS += ("Lerp", "Gather", "Sort", "Topk", "Cummax", "Logaddexp", "Glu")  # Nobody has said what these are.


@pytest.mark.parametrize("name", TOLD)
def test_it_is_told(name: str, x: Tensor) -> None:
    function, others = TOLD[name]
    beside = look(net(function), x)
    assert beside == Activations(1, (others,))
    alone = look(net(function, function), x)
    assert (alone.relus, alone.others) == (0, (others,))
    assert alone.refused.startswith("it has no ReLU")
    if others in MAY_BE_RELUS or "own" in others:
        assert alone.refused == f"it has no ReLU that guided rules can reach, but {others}"
    else:
        assert alone.refused == "it has no ReLU"


def test_a_scripted_relu_is_told(x: Tensor) -> None:
    for _ in range(3):  # TorchScript optimises after some calls
        assert look(net(torch.jit.script(nn.ReLU())), x) == Activations(1, (UNREACHED,))


QUIET: dict[str, Function] = {
    "a gate of another tensor": lambda x: F.relu(x) * torch.sigmoid(x.mean((2, 3), keepdim=True)),
    "a hard gate, reshaped and scaled": lambda x: F.relu(x) * (2 * F.hardsigmoid(x.mean((2, 3))))[:, :, None, None],
    "normalised": lambda x: F.relu(F.normalize(x)),
    "a layer's scale": lambda x: F.relu(x * torch.linspace(0.5, 2, x.shape[1])[:, None, None]),
    "masked alike for all": lambda x: F.relu(x.masked_fill(torch.arange(x.shape[3]) > 5, 0)),
    "a bound off zero": lambda x: F.relu(x.clamp(min=-1e6)).clamp(min=1e-6),
    "indices": lambda x: F.relu(x)[:, torch.arange(-3, x.shape[1] - 3).clamp(0, 99)],
    "softmax": lambda x: F.relu(x) * x.flatten(2).softmax(2).view_as(x),
}


@pytest.mark.parametrize("name", QUIET)
def test_what_is_no_activation_is_not_told(name: str, x: Tensor) -> None:
    assert look(net(QUIET[name]), x) == Activations(3, ())


def test_a_network_without_gradient_is_refused(x: Tensor) -> None:
    assert look(net(lambda x: F.relu(x).detach()), x).refused == "its output has no gradient by the image"


def test_a_first_dimension_that_only_happens_to_be_as_long_as_the_batch(x: Tensor) -> None:
    stacked = net(lambda x: F.relu(torch.stack([x, 2 * x])).sum(0))
    assert len(x) == 2
    assert "a ReLU sees 2 rows where the batch has 1" in look(stacked, x).refused


def half_ruled() -> nn.Module:
    return net(lambda x: x * (x > 0))


def test_the_card_warns_and_refuses() -> None:
    def served(builder: str) -> Prepared:
        spec = ModelSpec(name="m", builder=f"models.test_activations:{builder}", weights="random", height=24, width=32)
        return prepare(spec, CPU)

    notes = [note for note in served("half_ruled").card.notes if note.startswith("PARTIALLY_GUIDED")]
    assert notes == [f"PARTIALLY_GUIDED: guided rules change the gradient of ReLUs alone, and it also has {MASK}"]


WITH_RELUS = ["alexnet", "vgg11_bn", "resnet18", "densenet121", "googlenet", "inception_v3", "squeezenet1_1"]
WITH_RELUS += ["mobilenet_v2", "shufflenet_v2_x0_5", "mnasnet0_5", "regnet_y_400mf"]


@pytest.mark.parametrize("name", WITH_RELUS)
def test_torchvisions_relu_networks_are_guided_wholly(name: str) -> None:
    card = prepared(name).card
    assert not card.notes
    assert not any(method.refuses(card) for method in METHODS.values() if method.relevance is None)
