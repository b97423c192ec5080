"""Straight lines against the plain pass, bit for bit, on every kind of network; and what has no line."""

import gc
import weakref
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from zoo import SPECS, at, in_double, inputs, pictures, prepared

from gradserve_server.engine.differentiate import differentiate
from gradserve_server.engine.objective import logit
from gradserve_server.engine.query import Part, Query, Tap
from gradserve_server.models import prepared as prepared_module
from gradserve_server.models.card import Precision
from gradserve_server.models.prepared import Prepared
from gradserve_server.models.straight import Line, Straight, both
from gradserve_server.models.tape import MORE, NotStraight

SIZE, MOST = (12, 20), 9
SLOW = ("vgg11_bn", "swin_t", "inception_v3")  # and like others


def line_of(model: Prepared) -> Line:
    """The line for the model's own size."""
    assert model.straight is not None
    if model.straight._line is None:
        model.straighten(MOST)
    assert model.straight._line is not None, "no line was made"
    return model.straight._line


def made(between: Callable[[Tensor], Tensor], dtype: torch.dtype = torch.float32, most: int = MOST) -> Line:
    """The line of a small network."""
    return Line(Net(between).to(dtype), 32, SIZE, dtype, most)


def upstream_of(model: Prepared, rows: int) -> Tensor:
    """Every class has its say."""
    return torch.randn(rows, len(model.card.classes), generator=torch.Generator().manual_seed(1)).to(model.dtype)


def agree(model: Prepared, rows: int) -> None:
    images = pictures(model, rows).contiguous(memory_format=torch.channels_last)
    line, upstream = line_of(model), upstream_of(model, rows)
    expected = both(model, images.clone().requires_grad_(), upstream)
    found = both(line, images.clone().requires_grad_(), upstream)
    for name, ours, reference in zip(("logits", "gradient"), found, expected, strict=True):
        assert torch.equal(ours, reference), name
        assert ours.stride() == reference.stride()
    with torch.no_grad():
        if line.fits(images):
            assert torch.equal(line(images), model(images))


@pytest.mark.parametrize("precision", ["exact", "balanced", "fast"])
@pytest.mark.parametrize("name", [name for name in SPECS if name not in SLOW])
def test_the_bits_are_those_of_the_plain_pass(name: str, precision: Precision) -> None:
    model = at(prepared(name), precision)
    for rows in (1, 4, 8) if line_of(model)._single else (4, 8):
        agree(model, rows)


@pytest.mark.parametrize("name", ["resnet18", "googlenet"])
def test_in_float64_as_well(name: str) -> None:
    agree(in_double(name), 4)


class Net(nn.Module):
    """Two convolutions of the real kind, and what a test does between them."""

    def __init__(self, between: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Conv2d(3, 32, 3, padding=1), nn.Conv2d(32, 32, 3, padding=1)
        self.between = between
        self.requires_grad_(False).to(memory_format=torch.channels_last)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.between(self.first(x))).relu().mean((2, 3))  # type: ignore[no-any-return]


def pool(x: Tensor) -> Tensor:
    return F.max_pool2d(x, 3, 2, 1)


def shared(x: Tensor) -> Tensor:
    y = x.relu()
    return F.interpolate(pool(y), y.shape[2:]) + y


def twice_pooled(x: Tensor) -> Tensor:
    y = x.relu()
    return pool(y) + F.max_pool2d(y, 2)


def seen_through_a_view(x: Tensor) -> Tensor:
    half = x[:, :16]
    return x + 0 * pool(half.relu_()).sum()


def negative_too(x: Tensor) -> Tensor:
    return x.relu() + x


def summed_with_itself(x: Tensor) -> Tensor:
    y = x.relu()
    return y + y


BETWEEN: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu,
    "relu in place": torch.relu_,
    "pool": lambda x: pool(x.relu()),
    "pool in place": lambda x: pool(x.relu_()),
    "pool with ceiling": lambda x: F.max_pool2d(x.relu(), 3, 2, ceil_mode=True),
    "dilated pool": lambda x: F.max_pool2d(x.relu(), 2, 1, dilation=2),
    "pool without relu": pool,
    "relu after pool": lambda x: pool(x).relu(),
    "relu twice": lambda x: x.relu().relu(),
    "relu6": F.relu6,
    "shared relu": shared,
    "twice pooled": twice_pooled,
    "a view": seen_through_a_view,
    "negative too": negative_too,
    "sum with itself": summed_with_itself,
    "sum of two sizes": lambda x: x.relu() + x.relu().mean(1, keepdim=True),
    "sum with a number": lambda x: 2 + x.relu(),
    "difference": lambda x: torch.sub(x.relu(), x, alpha=2),
    "means over the batch": lambda x: x - x.mean(0, keepdim=True),
    "rows in its sizes": lambda x: x.reshape(len(x) * 32, -1).view_as(x).relu(),
}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64], ids=["half", "float", "double"])
@pytest.mark.parametrize("between", BETWEEN)
def test_the_bits_stay_whatever_surrounds_a_relu(between: str, dtype: torch.dtype) -> None:
    network, line = Net(BETWEEN[between]).to(dtype), made(BETWEEN[between], dtype)
    for rows in (1, 2, 7) if line._single else (2, 7):
        images = torch.rand(rows, 3, *SIZE).to(dtype).contiguous(memory_format=torch.channels_last)
        given, upstream = images.clone(), torch.randn(rows, 32).to(dtype)
        expected = both(network, images.clone().requires_grad_(), upstream)
        found = both(line, given.requires_grad_(), upstream)
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
        assert torch.equal(given, images), "it wrote over its input"


def operations(piece: Callable[..., object]) -> list[str]:
    """Names of what it calls, in order."""
    graph = piece.__self__.graph  # type: ignore[attr-defined]
    return [node.target.__name__ for node in graph.nodes if node.op == "call_function" and hasattr(node.target, "name")]


def test_relus_come_after_maxima_and_in_place() -> None:
    line = made(lambda x: pool(x.relu()), torch.bfloat16)
    forward, backward = operations(line._forward), operations(line._backward)
    assert forward == [
        "convolution.default", "max_pool2d_with_indices.default", "relu_.default", "convolution.default",
        "relu_.default", "mean.dim",
    ]  # fmt: skip
    assert backward.index("threshold_backward.grad_input") < backward.index("max_pool2d_with_indices_backward.default")
    assert backward[-2:] == ["max_pool2d_with_indices_backward.default", "convolution_backward.default"]


def test_zeros_are_not_added() -> None:
    backward = operations(line_of(at(prepared("resnet18"), "fast"))._backward)
    assert "scatter.default" not in backward
    assert "".join(f"{name} " for name in backward).count("slice.Tensor slice.Tensor add_.Tensor ") == 3


def by_value(x: Tensor) -> Tensor:
    return x.relu() if x.sum() > 0 else x


def by_host(x: Tensor) -> Tensor:
    return x * torch.from_numpy(x.detach().float().numpy()).amax()


def by_rows(x: Tensor) -> Tensor:
    return x.relu() if len(x) < 4 else x


def by_squares(x: Tensor) -> Tensor:
    return x * len(x) ** 2


def by_copies(x: Tensor) -> Tensor:
    return torch.cat([x.relu()] * len(x))[: len(x)]


def by_parts(x: Tensor) -> Tensor:
    return torch.cat([part.relu() for part in x.split(6)])


def by_finding(x: Tensor) -> Tensor:
    return x.relu() if len((x > 100).nonzero()) == 0 else x


def by_masking(x: Tensor) -> Tensor:
    return x.relu() if len(x[x > 100]) == 0 else x


def by_chance(x: Tensor) -> Tensor:
    return x + torch.rand_like(x)


@pytest.mark.parametrize(
    "between",
    [by_value, by_host, by_rows, by_squares, by_copies, by_parts, by_finding, by_masking, by_chance],
)
def test_what_depends_on_more_than_the_images_size_has_no_line(between: Callable[[Tensor], Tensor]) -> None:
    with pytest.raises((NotStraight, RuntimeError)):  # or the line's own failure, for a size of its own
        made(between)


def test_a_line_is_for_as_many_rows_as_it_was_tried_with_and_for_one_size() -> None:
    line, images = made(torch.relu), torch.rand(MOST + 1, 3, *SIZE)
    assert line.fits(images[:MOST])
    assert not line.fits(images)
    assert not line.fits(images[:2, :, 1:])
    with pytest.raises(NotStraight):
        made(torch.relu, most=MORE - 1)


def test_a_single_row_that_goes_another_way_is_left_to_the_plain_pass() -> None:
    line = made(lambda x: x.relu() if len(x) > 1 else x)
    assert line.fits(torch.rand(2, 3, *SIZE))
    assert not line.fits(torch.rand(1, 3, *SIZE))


def test_passes_without_gradients_that_go_another_way_are_left_to_the_plain_pass() -> None:
    line, images = made(lambda x: x.relu() if torch.is_grad_enabled() else x), torch.rand(2, 3, *SIZE)
    assert line.fits(images.requires_grad_())
    with torch.no_grad():
        assert not line.fits(images)


def test_a_network_that_fails_goes_the_plain_way(monkeypatch: pytest.MonkeyPatch) -> None:
    model = replace(prepared("linear"), straight=Straight(prepared("linear").network))
    monkeypatch.setattr(prepared_module, "Line", None)
    model.straighten(MOST)
    images = pictures(model, 2)
    assert torch.equal(model.unwatched(images), model(images))


def test_a_line_is_not_another_networks() -> None:
    model, images = inputs("trained-resnet20", 2)
    line_of(model)
    other = replace(model, network=nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 10)))
    assert torch.equal(other.unwatched(images), other(images))


@pytest.mark.parametrize("precision", ["exact", "balanced", "fast"])
def test_what_is_not_finite_stays_so(precision: Precision) -> None:
    model, images = inputs("squeezenet1_1", 3)
    model = at(model, precision)
    line_of(model)
    for value in (float("nan"), 1e38):
        broken = images.detach().clone()
        broken[0, 0, 5, 5] = value
        parts = [Part(Query(image[None], logit(0), "image"), range(1)) for image in broken]
        assert [answer.finite for answer in differentiate(model, parts)] == [False, True, True]


def test_nothing_of_the_recording_is_kept() -> None:
    gc.collect()
    gc.disable()
    try:
        seen: list[weakref.ref[Tensor]] = []
        line = made(lambda x: seen.append(weakref.ref(x)) or x.relu())  # type: ignore[func-returns-value]
        assert seen
        assert not [ref for ref in seen if ref() is not None]
        images = torch.rand(2, 3, *SIZE).contiguous(memory_format=torch.channels_last).requires_grad_()
        line(images)
        assert line.fits(images)
    finally:
        gc.enable()


def test_whoever_watches_layers_or_changes_relus_gets_the_plain_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    model, images = inputs("resnet18", 2)
    line_of(model)
    taken = []
    monkeypatch.setattr(Line, "__call__", lambda self, x: taken.append(len(x)) or Prepared.__call__(model, x))

    def ask(**facts: object) -> None:
        differentiate(model, [Part(Query(images, logit(0), "image", **facts), range(2))])  # type: ignore[arg-type]

    ask(relu="guided")
    ask(taps=(Tap("layer4"),))
    assert not taken
    ask()
    assert taken == [2]
