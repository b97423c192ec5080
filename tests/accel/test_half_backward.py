"""BALANCED and FAST against EXACT, operation by operation and on whole networks; alone and in company."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from zoo import at, inputs, off

from gradserve_server.accel import half_backward
from gradserve_server.accel.convolutions import HALF
from gradserve_server.accel.half_backward import HalfBackward, HalfWeights
from gradserve_server.engine.differentiate import differentiate
from gradserve_server.engine.objective import logit
from gradserve_server.engine.query import Answer, Part, Query
from gradserve_server.models.card import Precision
from gradserve_server.models.rules import Rule

ROUNDING = 2**-8  # The rounding of one bfloat16 number.
TAPS = {"depthwise": 25, "linear": 1, "linear on tokens": 1, "linear of a permuted map": 1}  # The others have 3 x 3.

generator = torch.Generator().manual_seed(0)


def normal(*shape: int) -> Tensor:
    return torch.randn(shape, generator=generator)


WEIGHTS = {"plain": normal(40, 36, 3, 3), "grouped": normal(40, 9, 3, 3), "depthwise": normal(36, 1, 5, 5)}
IMAGES = normal(2, 36, 12, 10)
OPERATIONS: dict[str, tuple[Callable[[Tensor], Tensor], Tensor]] = {
    "conv2d": (lambda x: F.conv2d(x, WEIGHTS["plain"], normal(40) * 0, padding=1), IMAGES),
    "strided": (lambda x: F.conv2d(x, WEIGHTS["plain"], stride=(2, 3)), IMAGES),
    "dilated": (lambda x: F.conv2d(input=x, weight=WEIGHTS["plain"], dilation=2, padding=(1, 2)), IMAGES),
    "channels_last": (
        lambda x: F.conv2d(x, WEIGHTS["plain"]),
        IMAGES.contiguous(memory_format=torch.channels_last),
    ),
    "grouped": (lambda x: F.conv2d(x, WEIGHTS["grouped"], groups=4), IMAGES),
    "depthwise": (lambda x: F.conv2d(x, WEIGHTS["depthwise"], padding=2, groups=36), IMAGES),
    "linear": (lambda x: F.linear(x, WEIGHTS["plain"].flatten(1)[:, :36], normal(40) * 0), normal(5, 36)),
    "linear on tokens": (lambda x: F.linear(x, WEIGHTS["plain"].flatten(1)[:, :36]), normal(3, 7, 36)),
    "linear of a permuted map": (
        lambda x: F.linear(x.permute(0, 2, 3, 1), WEIGHTS["plain"].flatten(1)[:, :36]),
        IMAGES,
    ),
}


def gradient(function: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    """A function's output, and its gradient for a fixed one of the output."""
    x = x.detach().requires_grad_()
    out = function(x)
    upstream = torch.linspace(-1, 1, out.numel()).roll(7).view_as(out)
    return out.detach(), torch.autograd.grad(out, x, upstream)[0]


@pytest.fixture
def everything_pays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(half_backward, "_pays", lambda *_: True)


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.usefixtures("everything_pays")
def test_an_operation_keeps_its_output_and_rounds_its_gradient(name: str) -> None:
    function, x = OPERATIONS[name]
    out, exact = gradient(function, x)
    with HalfBackward(HalfWeights()):
        same, rounded = gradient(function, x)
    assert torch.equal(same, out)
    assert rounded.dtype == torch.float32
    taps = 1 if torch.ops.mkldnn._is_mkldnn_bf16_supported() else TAPS.get(name, 9)
    assert 0 < off(rounded, exact) < ROUNDING * taps**0.5, "without oneDNN torch rounds the sum after every tap"


@pytest.mark.usefixtures("everything_pays")
def test_attention_keeps_its_output_and_rounds_its_gradient() -> None:
    attention = nn.MultiheadAttention(32, 4, batch_first=True).eval().requires_grad_(False)
    x = normal(2, 9, 32)

    def function(x: Tensor) -> Tensor:
        attended: Tensor = attention(x, x, x, need_weights=False)[0]
        return attended

    out, exact = gradient(function, x)
    with HalfBackward(HalfWeights()) as mode:
        called = mode._linear
        calls: list[int] = []
        mode._linear = lambda *args: (calls.append(1), called(*args))[1]  # type: ignore[method-assign, func-returns-value]
        same, rounded = gradient(function, x)
    assert len(calls) == 2
    assert off(same, out) < 1e-6
    assert 0 < off(rounded, exact) < 2 * ROUNDING, "two products, one after the other"


def test_attention_of_other_kinds_is_left_alone() -> None:
    attention = nn.MultiheadAttention(32, 4).eval().requires_grad_(False)
    x, mask = normal(9, 2, 32), torch.ones(9, 9, dtype=torch.bool).triu(1)
    for arguments in ({"need_weights": True}, {"attn_mask": mask, "need_weights": False}):
        expected = attention(x.requires_grad_(), x, x, **arguments)
        with HalfBackward(HalfWeights()):
            found = attention(x.requires_grad_(), x, x, **arguments)
        assert torch.equal(found[0], expected[0])
        assert (found[1] is None) == (expected[1] is None)


def test_what_does_not_pay_or_cannot_be_stays_exact() -> None:
    narrow, depthwise = normal(8, 8, 1, 1), WEIGHTS["depthwise"]
    left: list[tuple[Callable[[Tensor], Tensor], Tensor]] = [
        (lambda x: F.conv2d(x, narrow), IMAGES[:, :8]),
        (lambda x: F.conv2d(x, depthwise, groups=36), IMAGES),
        (lambda x: F.conv2d(x, WEIGHTS["plain"], padding="same"), IMAGES),
        (lambda x: F.conv2d(x, WEIGHTS["plain"].double()), IMAGES.double()),
        (lambda x: F.linear(x, narrow[:, :, 0, 0].double()), normal(4, 8).double()),
    ]
    for function, x in left:
        with HalfBackward(HalfWeights()):
            assert torch.equal(gradient(function, x)[1], gradient(function, x)[1])
        expected = gradient(function, x)[1]
        with HalfBackward(HalfWeights()):
            assert torch.equal(gradient(function, x)[1], expected)


def ask(name: str, how: Precision, rules: list[Rule], count: int = 4) -> list[Answer]:
    """One pass for as many queries as there are rules."""
    model, images = inputs(name, count)
    parts = [
        Part(Query(images[i : i + 1], logit(i % len(model.card.classes)), "image", rule=rule), range(1))
        for i, rule in enumerate(rules)
    ]
    return differentiate(at(model, how), parts)


def cosine(a: Tensor | None, b: Tensor | None) -> float:
    assert a is not None
    assert b is not None
    return float(F.cosine_similarity(a.double().flatten(), b.double().flatten(), 0))


@pytest.mark.parametrize(
    "name",
    ["trained-squeezenet1_0", "trained-mobilenet_v2", "trained-resnet20", "resnet18", "densenet121", "convnext_tiny"],
)
def test_balanced_has_the_exact_logits_and_nearly_the_exact_gradient(name: str) -> None:
    exact, balanced = (ask(name, how, ["plain"] * 4) for how in ("exact", "balanced"))
    for ours, reference in zip(balanced, exact, strict=True):
        assert torch.equal(torch.as_tensor(ours.logits), torch.as_tensor(reference.logits))
        assert cosine(ours.image_grad, reference.image_grad) > 0.999


def test_balanced_vision_transformer() -> None:
    (ours,), (reference,) = (ask("vit_b_32", how, ["plain"], 1) for how in ("balanced", "exact"))
    assert off(torch.as_tensor(ours.logits), torch.as_tensor(reference.logits)) < 1e-5
    assert 0.999 < cosine(ours.image_grad, reference.image_grad) < 1 - 1e-9


def test_rules_and_balanced_compose() -> None:
    rules: list[Rule] = ["plain", "guided", "deconvnet", "guided"]
    for ours, reference in zip(ask("resnet18", "balanced", rules), ask("resnet18", "exact", rules), strict=True):
        assert 0.999 < cosine(ours.image_grad, reference.image_grad) < 1 - 1e-9


def test_fast_is_the_same_network_in_bfloat16() -> None:
    model, images = inputs("trained-squeezenet1_0", 3)
    fast = at(model, "fast")
    assert {p.dtype for p in fast.network.parameters()} == {HALF}
    assert {p.dtype for p in model.network.parameters()} == {torch.float32}
    x = images.contiguous(memory_format=torch.channels_last).requires_grad_()
    logits = fast.network(fast.normalised(x)).float()
    reference = torch.autograd.grad(logits[:, 7].sum(), x)[0]
    (answer,) = differentiate(fast, [Part(Query(images.detach(), logit(7), "image"), range(3))])
    assert answer.logits is not None
    assert answer.image_grad is not None
    assert answer.logits.dtype == answer.image_grad.dtype == torch.float32
    assert torch.equal(answer.logits, logits.detach())
    assert off(answer.image_grad, reference) < 2**-10, "the first layer sums in another order"
    (exact,) = differentiate(model, [Part(Query(images.detach(), logit(7), "image"), range(3))])
    assert 0.8 < cosine(answer.image_grad, exact.image_grad) < 0.9999, "FAST costs accuracy, which is why it has a name"


def test_a_precision_that_is_not_loaded() -> None:
    with pytest.raises(KeyError):
        inputs("trained-resnet20")[0].at("double")  # type: ignore[arg-type]
