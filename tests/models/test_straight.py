"""Straight lines against the plain pass, bit for bit, on every kind of network; and what has no line."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from zoo import SPECS, in_double, inputs, pictures, prepared

from gradserve_server.engine.differentiate import differentiate
from gradserve_server.engine.objective import logit
from gradserve_server.engine.query import Part, Query, Tap
from gradserve_server.models import straight
from gradserve_server.models.prepared import WIDEST, Prepared
from gradserve_server.models.straight import MOST, WORTH, Line, Lines, both
from gradserve_server.models.tape import NotStraight

SIZE = (12, 20)
SLOW = ("vgg11_bn", "swin_t", "inception_v3")  # and like others


def line_of(model: Prepared) -> Line:
    """The line for the model's own size."""
    for _ in range(WORTH):
        model.expect(model.card.height, model.card.width)
    assert model.lines is not None
    line = model.lines._made[model.card.height, model.card.width]
    assert line is not None, "no line was made"
    return line


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
        assert torch.equal(line(images), found[0])


@pytest.mark.parametrize("precision", ["exact", "balanced", "fast"])
@pytest.mark.parametrize("name", [name for name in SPECS if name not in SLOW])
def test_the_bits_are_those_of_the_plain_pass(name: str, precision: str) -> None:
    model = prepared(name).at(precision)  # type: ignore[arg-type]
    for rows in (1, 3, 7) if line_of(model).fits(1) else (3, 7):
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
    network = Net(BETWEEN[between]).to(dtype)
    line = Line(network, 32, *SIZE, dtype)
    for rows in (1, 2, 7) if line.fits(1) else (2, 7):
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


def test_relus_are_within_convolutions_and_after_maxima() -> None:
    line = Line(Net(lambda x: pool(x.relu())).to(torch.bfloat16), 32, *SIZE, torch.bfloat16)
    forward, backward = operations(line._forward), operations(line._backward)
    assert forward == [
        "convolution.default", "max_pool2d_with_indices.default", "relu_.default", "_convolution_pointwise.default",
        "mean.dim",
    ]  # fmt: skip
    assert backward.index("threshold_backward.grad_input") < backward.index("max_pool2d_with_indices_backward.default")
    assert backward[-2:] == ["max_pool2d_with_indices_backward.default", "convolution_backward.default"]


def by_value(x: Tensor) -> Tensor:
    return x.relu() if x.sum() > 0 else x


def by_host(x: Tensor) -> Tensor:
    return x * torch.from_numpy(x.detach().float().numpy()).amax()


def by_rows(x: Tensor) -> Tensor:
    return x.relu() if len(x) < 4 else x


def by_squares(x: Tensor) -> Tensor:
    return torch.cat([x.relu()] * len(x))[: len(x)]


def by_chance(x: Tensor) -> Tensor:
    return x + torch.rand_like(x)


@pytest.mark.parametrize("between", [by_value, by_host, by_rows, by_squares, by_chance])
def test_what_depends_on_more_than_the_images_size_has_no_line(between: Callable[[Tensor], Tensor]) -> None:
    with pytest.raises(NotStraight):
        Line(Net(between), 32, *SIZE, torch.float32)


def test_a_single_row_that_goes_another_way_is_left_to_the_plain_pass() -> None:
    line = Line(Net(lambda x: x.relu() if len(x) > 1 else x), 32, *SIZE, torch.float32)
    assert line.fits(2)
    assert not line.fits(1)


def test_a_line_is_made_when_a_size_has_come_often_and_not_for_every_size_there_is() -> None:
    lines, made = Lines(), []

    def make() -> Line:
        made.append(1)
        return Line(Net(torch.relu), 32, *SIZE, torch.float32)

    images = torch.rand(2, 3, *SIZE)
    for _ in range(WORTH - 1):
        lines.expect(*SIZE, make)
        assert lines.get(images) is None
    for _ in range(3):
        lines.expect(*SIZE, make)
    assert lines.get(images) is not None
    assert lines.get(images[:, :, 1:]) is None
    for size in range(2 * MOST):
        for _ in range(WORTH):
            lines.expect(size, size, make)
    assert len(made) == MOST


def test_counting_sizes_takes_no_memory_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(straight, "FORGET", 10)
    lines = Lines()
    for size in range(100):
        lines.expect(size, size, lambda: pytest.fail("made after one pass"))
    assert len(lines._seen) <= 11


def test_a_network_that_fails_goes_the_plain_way() -> None:
    lines, tries = Lines(), []

    def make() -> Line:
        tries.append(1)
        raise MemoryError

    for _ in range(3 * WORTH):
        lines.expect(*SIZE, make)
    assert len(tries) == 1
    assert lines.get(torch.rand(2, 3, *SIZE)) is None


def test_sizes_far_beyond_the_models_own_have_no_line() -> None:
    model = prepared("squeezenet1_1")
    height, width = model.card.height, WIDEST * model.card.width + 1
    for _ in range(WORTH):
        model.expect(height, width)
    assert model.lines is not None
    assert (height, width) not in model.lines._made


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
