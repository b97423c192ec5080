"""Every way of writing a ReLU is caught, and nothing else; the rules by their formulas."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gradserve_server.models.relu import ReLURules
from gradserve_server.models.rules import Rule

INF = float("inf")


def statement(write: Callable[[Tensor], Any]) -> Callable[[Tensor], Tensor]:
    """A call for the sake of what it writes."""

    def spelled(x: Tensor) -> Tensor:
        write(x)
        return x

    return spelled


SPELLINGS: dict[str, tuple[Callable[[Tensor], Tensor], float]] = {
    "nn.ReLU": (nn.ReLU(), INF),
    "nn.ReLU in place": (nn.ReLU(inplace=True), INF),
    "F.relu": (F.relu, INF),
    "F.relu by name": (lambda x: F.relu(input=x, inplace=True), INF),
    "torch.relu": (torch.relu, INF),
    "x.relu()": (lambda x: x.relu(), INF),
    "F.relu_": (statement(F.relu_), INF),
    "torch.relu_": (statement(torch.relu_), INF),
    "x.relu_()": (statement(lambda x: x.relu_()), INF),
    "F.relu(x, True)": (statement(lambda x: F.relu(x, True)), INF),
    "nn.ReLU6": (nn.ReLU6(), 6),
    "nn.ReLU6 in place": (statement(nn.ReLU6(inplace=True)), 6),
    "F.relu6": (F.relu6, 6),
    "F.relu6 in place": (statement(lambda x: F.relu6(x, inplace=True)), 6),
    "nn.Hardtanh": (nn.Hardtanh(0.0, 3.0), 3),
    "F.hardtanh": (lambda x: F.hardtanh(x, max_val=2.0, min_val=0.0), 2),
    "F.hardtanh_": (statement(lambda x: F.hardtanh_(x, 0.0, 2.0)), 2),
    "F.threshold": (lambda x: F.threshold(x, 0.0, 0.0), INF),
    "F.threshold_": (statement(lambda x: F.threshold_(x, 0.0, 0.0)), INF),
    "nn.Threshold": (nn.Threshold(0.0, 0.0), INF),
    "x.clamp(min=0)": (lambda x: x.clamp(min=0), INF),
    "x.clamp(0, 5)": (lambda x: x.clamp(0, 5), 5),
    "torch.clamp": (lambda x: torch.clamp(x, min=0.0, max=4.0), 4),
    "x.clamp_(0)": (statement(lambda x: x.clamp_(0)), INF),
    "x.clamp_min(0)": (lambda x: x.clamp_min(0), INF),
    "torch.clamp_min_": (statement(lambda x: torch.clamp_min_(x, 0.0)), INF),
    "x.clip(min=0)": (lambda x: x.clip(min=0), INF),
    "torch.clip": (lambda x: torch.clip(x, 0, 5), 5),
    "x.clip_(0)": (statement(lambda x: x.clip_(0)), INF),
}

RULES: list[Rule] = ["plain", "plain", "guided", "deconvnet"]


def by_formula(x: Tensor, grad: Tensor, top: float, rule: str) -> Tensor:
    passed, uphill = (x > 0) & (x < top), grad > 0
    return grad * {"plain": passed, "guided": passed & uphill, "deconvnet": uphill}[rule]


@pytest.fixture
def x() -> Tensor:
    return 6 * torch.randn(4, 3, 5, 7, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def grad() -> Tensor:
    return torch.randn(4, 3, 5, 7, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(("spelled", "top"), SPELLINGS.values(), ids=SPELLINGS)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_every_spelling_follows_the_rules(
    spelled: Callable[[Tensor], Tensor], top: float, x: Tensor, grad: Tensor, layout: torch.memory_format
) -> None:
    source = x.contiguous(memory_format=layout).requires_grad_()
    rules = ReLURules(RULES)
    with rules:
        out = spelled(source * 1.0)
    assert rules.caught == 1
    assert torch.equal(out, x.clamp(0, top))
    (ours,) = torch.autograd.grad(out, source, grad)
    for i, rule in enumerate(RULES):
        assert torch.equal(ours[i], by_formula(x[i], grad[i], top, rule)), rule


OTHERS: dict[str, Callable[[Tensor], Tensor]] = {
    "hardtanh of both signs": F.hardtanh,
    "leaky": lambda x: F.leaky_relu(x, 0.1),
    "threshold elsewhere": lambda x: F.threshold(x, 0.5, 0.0),
    "another value below": lambda x: F.threshold(x, 0.0, -1.0),
    "clamp from -1": lambda x: x.clamp(-1, 1),
    "clamp from above": lambda x: x.clamp(max=0),
    "clamp by tensors": lambda x: x.clamp(min=torch.zeros(7)),
    "gelu": F.gelu,
    "hardswish": F.hardswish,
}


@pytest.mark.parametrize("function", OTHERS.values(), ids=OTHERS)
def test_what_is_no_relu_is_left_alone(function: Callable[[Tensor], Tensor], x: Tensor, grad: Tensor) -> None:
    def gradient() -> Tensor:
        source = x.clone().requires_grad_()
        return torch.autograd.grad(function(source * 1.0), source, grad)[0]

    rules = ReLURules(RULES)
    with rules:
        ours = gradient()
    assert rules.caught == 0
    assert torch.equal(ours, gradient())


WITHOUT_GRADIENT: dict[str, Callable[[], Tensor]] = {
    "indices": lambda: torch.arange(-3, 9).clamp(0, 5),
    "indices from 0": lambda: torch.arange(-3, 9).clamp_(min=0),
    "a table of other rows": lambda: torch.linspace(-1, 2, 9).relu(),
    "a bound that is a number of float64": lambda: torch.linspace(-1, 2, 9, dtype=torch.float64).clamp(0, 1.5),
}


@pytest.mark.parametrize("made", WITHOUT_GRADIENT.values(), ids=WITHOUT_GRADIENT)
def test_what_has_no_gradient_is_left_alone(made: Callable[[], Tensor]) -> None:
    plain = made()
    with ReLURules(RULES):
        ruled = made()
    assert ruled.dtype == plain.dtype
    assert torch.equal(ruled, plain)


@pytest.mark.parametrize(
    "rules", [["plain"], ["guided"], ["deconvnet"], ["guided", "deconvnet"], ["plain", "deconvnet"]]
)
def test_any_mixture_in_order(rules: list[Rule], x: Tensor, grad: Tensor) -> None:
    rows = len(rules)
    source = x[:rows].clone().requires_grad_()
    with ReLURules(rules):
        out = F.relu(source)
    (ours,) = torch.autograd.grad(out, source, grad[:rows])
    for i, rule in enumerate(rules):
        assert torch.equal(ours[i], by_formula(x[i], grad[i], INF, rule))


def test_other_rows_than_the_batch_are_an_error(x: Tensor) -> None:
    with pytest.raises(ValueError, match="sees 2 rows where the batch has 4"), ReLURules(RULES):
        F.relu(x[:2].clone().requires_grad_())


def test_nothing_is_left_of_the_mode(x: Tensor) -> None:
    with pytest.raises(ZeroDivisionError), ReLURules(RULES):
        raise ZeroDivisionError
    assert torch._C._len_torch_function_stack() == 0
