"""The kernels' convolutions against the plain ones: packed weights bit for bit, first layers' gradients nearly so."""

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from zoo import at, inputs, off

from gradserve_server.accel import convolutions, cpu_mode
from gradserve_server.accel.convolutions import (
    HALF,
    MAX_NARROW_COLUMNS,
    ConvParams,
    Kernel,
    Packed,
    Pointwise,
    SideBySide,
    SubPixel,
)
from gradserve_server.accel.cpu_mode import FastOperations, KernelCache
from gradserve_server.accel.half_backward import HalfBackward, HalfWeights
from gradserve_server.engine.differentiate import differentiate
from gradserve_server.engine.objective import logit
from gradserve_server.engine.query import Part, Query

generator = torch.Generator().manual_seed(0)


class Operations(TorchDispatchMode):
    """Notes which operations are called inside, below autograd."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.called: list[Any] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.called.append(func)
        return func(*args, **(kwargs or {}))


def normal(*shape: int, dtype: torch.dtype = HALF) -> Tensor:
    made = torch.randn(shape, generator=generator).to(dtype)
    return made.contiguous(memory_format=torch.channels_last) if made.dim() == 4 else made


def weight(*shape: int, dtype: torch.dtype = HALF) -> nn.Parameter:
    return nn.Parameter(normal(*shape, dtype=dtype), requires_grad=False)


CASES: dict[str, tuple[tuple[int, ...], dict[str, Any]]] = {
    "same size": ((48, 32, 3, 3), {"padding": 1}),
    "shrinking": ((48, 32, 3, 3), {}),
    "pointwise": ((48, 32, 1, 1), {}),
    "strided": ((48, 32, 3, 3), {"stride": 2, "padding": 1}),
    "strided pointwise": ((48, 32, 1, 1), {"stride": 2}),
    "patches": ((48, 32, 4, 4), {"stride": 4}),
    "dilated": ((48, 32, 3, 3), {"dilation": 2, "padding": 1}),
    "oblong": ((48, 32, 1, 7), {"padding": (0, 3), "stride": (2, 3)}),
    "odd numbers of channels": ((43, 29, 5, 5), {"padding": 2, "stride": 3}),
}


@pytest.fixture
def everything_pays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_mode, "MIN_PACKED_WEIGHTS", 0)


def kinds(known: KernelCache) -> list[type[Any]]:
    """The classes of the kernels that were made."""
    return [type(kernel) for kernel in made_of(known)]


def made_of(known: KernelCache) -> list[Any]:
    """The kernels that were made, with None for a weight that has none."""
    return [kernel for _, kernel in known._known.values()]


def taken(kind: type[Kernel], dtype: torch.dtype) -> list[type[Any]]:
    """What `kinds` must be on this processor; where its kernels do not work, the plain convolution is taken."""
    return [kind if cpu_mode.available(dtype) else type(None)]


def both(x: Tensor, weight: Tensor, bias: Tensor | None, **how: Any) -> tuple[Tensor, Tensor]:
    """Output and input gradient."""
    x = x.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    out = F.conv2d(x, weight, bias, **how)
    upstream = torch.linspace(-1, 1, out.numel()).roll(7).view_as(out).to(out.dtype)
    return out.detach(), torch.autograd.grad(out, x, upstream)[0]


@pytest.mark.parametrize("dtype", [HALF, torch.float32], ids=["half", "float"])
@pytest.mark.parametrize("case", CASES)
@pytest.mark.usefixtures("everything_pays")
def test_the_bits_are_those_of_the_plain_convolution(case: str, dtype: torch.dtype) -> None:
    shape, how = CASES[case]
    kernel, known = weight(*shape, dtype=dtype), KernelCache()
    for bias in (None, weight(shape[0], dtype=dtype)):
        for size in ((2, 19, 23), (1, 19, 23), (5, 8, 40), (9, 31, 31), (15, 4, 5), (17, 4, 5)):
            x = normal(
                size[0],
                shape[1],
                *(max(side, how.get("dilation", 1) * (k - 1) + 1) for side, k in zip(size[1:], shape[2:], strict=True)),
                dtype=dtype,
            )
            expected = both(x, kernel, bias, **how)
            with FastOperations(known):
                found = both(x, kernel, bias, **how)
                with torch.no_grad():
                    forward_only = F.conv2d(x, kernel, bias, **how)
            for ours, reference in zip((*found, forward_only), (*expected, expected[0]), strict=True):
                assert torch.equal(ours, reference)
                assert ours.is_contiguous(memory_format=torch.channels_last)
    assert kinds(known) == taken(Pointwise if dtype == HALF and case == "strided pointwise" else Packed, dtype)


SMALL_MAPS: dict[str, tuple[tuple[int, ...], dict[str, Any], float]] = {
    "same size": ((512, 256, 3, 3), {"padding": 1}, 0),
    "strided": ((256, 512, 3, 3), {"padding": 1, "stride": 2}, 2**-8),  # They may be summed in another order.
    "dilated": ((64, 48, 3, 3), {"dilation": 2, "padding": 2}, 0),
    "oblong": ((48, 32, 1, 7), {"padding": (0, 3)}, 0),
    "another height": ((48, 32, 4, 3), {"padding": 1, "stride": (3, 2)}, 2**-8),
    "odd numbers of channels": ((43, 29, 5, 5), {"padding": 2}, 0),
    "large steps": ((43, 29, 5, 5), {"padding": 2, "stride": 3}, 2**-8),
}


DIRECTIONS = ("forward", "input gradient")


@pytest.mark.parametrize("case", SMALL_MAPS)
@pytest.mark.parametrize("rows", [1, 2, 5, 8, 17])
def test_images_side_by_side_give_what_each_gives(case: str, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convolutions, "MIN_CACHE_FILLING_WEIGHTS", 0)
    (shape, how, bound), known, laid = SMALL_MAPS[case], KernelCache(), []
    abreast = convolutions._abreast
    monkeypatch.setattr(convolutions, "_abreast", lambda x, each: laid.append(each) or abreast(x, each))
    kernel = weight(*shape)
    for size in (4, 7, 8, 14, 16, 17) if cpu_mode.available(HALF) else (4,):
        x = normal(rows, shape[1], size, size)
        with FastOperations(known):
            both(x, kernel, None, **how)  # This tries the size.
            laid.clear()
            x[-1, :, 0, 0] = torch.nan  # Its neighbours do not notice.
            found = both(x, kernel, None, **how)
        for ours, reference in zip(found, both(x, kernel, None, **how), strict=True):
            assert torch.equal(ours.isnan(), reference.isnan())
            assert not ours[:-1].isnan().any()
            assert off(ours.nan_to_num(), reference.nan_to_num()) <= bound
            assert ours.is_contiguous(memory_format=torch.channels_last)
        apart = [made._separates.get((what, size, size)) for made in made_of(known) if made for what in DIRECTIONS]
        assert len(laid) == apart.count(True)
        narrow = -(-size // ConvParams.of(**how).stride[1]) <= MAX_NARROW_COLUMNS
        assert apart == [] or (None in apart) == (not narrow or rows == 1)
    assert kinds(known) == taken(SideBySide, HALF)


def test_a_network_may_write_over_what_images_side_by_side_gave(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also of maps of a single column, which lie in memory as they are to be."""
    monkeypatch.setattr(convolutions, "MIN_CACHE_FILLING_WEIGHTS", 0)
    kernel, x = weight(48, 32, 3, 3), normal(3, 32, 4, 1).requires_grad_()
    with FastOperations(KernelCache()):
        out = F.conv2d(x, kernel, padding=1).relu_()
    assert torch.autograd.grad(out.sum(), x)[0].shape == x.shape


FIRST_LAYERS: dict[str, tuple[tuple[int, ...], dict[str, Any]]] = {
    "resnet": ((64, 3, 7, 7), {"stride": 2, "padding": 3}),
    "alexnet": ((64, 3, 11, 11), {"stride": 4, "padding": 2}),
    "mobilenet": ((32, 3, 3, 3), {"stride": 2, "padding": 1}),
    "squeezenet": ((96, 3, 7, 7), {"stride": 2}),
    "patches": ((64, 3, 16, 16), {"stride": 16}),
    "gaps": ((8, 1, 2, 2), {"stride": 3}),
    "oblong": ((8, 5, 3, 5), {"stride": 2, "padding": 1}),
    "wide margin": ((8, 2, 3, 3), {"stride": 3, "padding": 5}),
}


@pytest.mark.parametrize("case", FIRST_LAYERS)
def test_sub_pixels_are_the_gradient_of_a_strided_convolution(case: str) -> None:
    shape, how = FIRST_LAYERS[case]
    kernel = normal(*shape, dtype=torch.float64)
    sub_pixel = SubPixel(kernel, ConvParams.of(**how))
    for size in ((2, 64, 64), (1, 65, 47), (3, 34, 100)):
        x = normal(size[0], shape[1], *size[1:], dtype=torch.float64).requires_grad_()
        out = F.conv2d(x, kernel, **how)
        grad = normal(*out.shape, dtype=torch.float64)
        found = sub_pixel.input_gradient(grad, x.shape)
        assert off(found, torch.autograd.grad(out, x, grad)[0]) < 1e-14
        assert found.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("case", FIRST_LAYERS)
def test_a_first_layer(case: str) -> None:
    shape, how = FIRST_LAYERS[case]
    kernel, known = weight(*shape), KernelCache()
    x = normal(2, shape[1], 64, 70)
    expected = both(x, kernel, None, **how)
    with FastOperations(known):
        found = both(x, kernel, None, **how)
    assert kinds(known) == taken(SubPixel, HALF)
    assert torch.equal(found[0], expected[0])
    assert off(found[1], expected[1]) < 2**-10


X, KERNEL = normal(2, 32, 9, 9), weight(48, 32, 3, 3)
LEFT_ALONE: dict[str, tuple[Tensor, Tensor, dict[str, Any]]] = {
    "grouped": (X, weight(48, 8, 3, 3), {"groups": 4}),
    "padding by name": (X, KERNEL, {"padding": "same"}),
    "channels first": (X.contiguous(), KERNEL, {}),
    "float64": (X.double(), weight(48, 32, 3, 3, dtype=torch.float64), {}),
    "computed weight": (X, normal(48, 32, 3, 3), {}),
    "one picture": (X[0], KERNEL, {}),
    "trained weight": (X, nn.Parameter(normal(48, 32, 3, 3)), {}),
}


@pytest.mark.parametrize("case", LEFT_ALONE)
@pytest.mark.usefixtures("everything_pays")
def test_what_cannot_be_replaced_is_left_alone(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Packed, "forward", None)
    x, kernel, how = LEFT_ALONE[case]
    expected = both(x, kernel, None, **how)
    with FastOperations(KernelCache()):
        found = both(x, kernel, None, **how)
        if kernel.requires_grad:
            assert torch.autograd.grad(F.conv2d(x, kernel).sum(), kernel)[0].shape == kernel.shape
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_small_weights_are_left_alone() -> None:
    known = KernelCache()
    with FastOperations(known):
        both(X, KERNEL, None)
    assert [kernel for _, kernel in known._known.values()] == [None]


@pytest.mark.usefixtures("everything_pays")
def test_weights_that_are_computed_anew_are_not_kept() -> None:
    known, halves, kernel = KernelCache(), HalfWeights(), weight(64, 32, 3, 3, dtype=torch.float32)
    for _ in range(3):
        with FastOperations(known):
            both(X, (kernel * 2).to(HALF), None)
        with HalfBackward(halves):
            both(X.float(), kernel * 2, None)
    assert not known._known
    assert not halves._known
    assert not halves._kernels._known


@pytest.mark.parametrize("rows", [1, 2, 5, 15])
@pytest.mark.parametrize("name", ["resnet18", "densenet121", "trained-mobilenet_v2", "trained-resnet20"])
def test_exact_is_exact(name: str, rows: int) -> None:
    model, images = inputs(name, rows)
    query, plain = Query(images.detach(), logit(3), "image"), replace(model, kernels=None)
    with_kernels, without = (differentiate(each, [Part(query, range(rows))])[0] for each in (model, plain))
    assert torch.equal(torch.as_tensor(with_kernels.logits), torch.as_tensor(without.logits))
    assert torch.equal(torch.as_tensor(with_kernels.image_grad), torch.as_tensor(without.image_grad))


@pytest.mark.parametrize("precision", ["fast", "balanced"])
@pytest.mark.parametrize(
    ("name", "bound"),
    [
        ("resnet18", 2**-10),
        ("densenet121", 2**-10),
        ("trained-mobilenet_v2", 2**-10),
        ("vgg11_bn", 0),  # Their first layers have a stride of one.
        ("trained-resnet20", 0),
    ],
)
def test_whole_networks(name: str, bound: float, precision: Any) -> None:
    model, images = inputs(name, 3)
    ready, query = at(model, precision), Query(images.detach(), logit(3), "image")
    plain = replace(ready, kernels=None, halves=PlainHalves() if precision == "balanced" else None)
    with_kernels, without = (differentiate(each, [Part(query, range(3))])[0] for each in (ready, plain))
    assert torch.equal(torch.as_tensor(with_kernels.logits), torch.as_tensor(without.logits))
    assert off(torch.as_tensor(with_kernels.image_grad), torch.as_tensor(without.image_grad)) <= bound


class PlainHalves(HalfWeights):
    """Without kernels."""

    def kernel(self, *_: Any) -> None:
        """None."""


def test_a_build_of_torch_without_the_operations(monkeypatch: pytest.MonkeyPatch) -> None:
    assert cpu_mode.available.__wrapped__(torch.float32)
    monkeypatch.setattr(convolutions, "onednn", torch.ops.no_such_namespace)
    for dtype in (torch.float32, HALF):
        assert not cpu_mode.available.__wrapped__(dtype)


def test_single_precision_keeps_its_kernels_where_half_precision_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def agrees(dtype: torch.dtype) -> bool:
        if dtype == HALF:
            raise RuntimeError("bf16 path needs the cpu support avx512bw")
        return True

    monkeypatch.setattr(cpu_mode, "_agrees", agrees)
    monkeypatch.setattr(cpu_mode, "available", cpu_mode.available.__wrapped__)
    how = ConvParams.of(padding=1)
    assert isinstance(cpu_mode.kernel(weight(128, 64, 3, 3, dtype=torch.float32), how), Packed)
    assert cpu_mode.kernel(weight(128, 64, 3, 3), how) is None


class Leaking(SideBySide):
    """As where a kernel reads past its window: every image gets the sum of all."""

    def _wide_forward(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        images = super()._wide_forward(x, bias)
        return images + images.sum(0, keepdim=True)

    def _wide_input_gradient(self, grad: Tensor, shape: torch.Size) -> Tensor:
        images = super()._wide_input_gradient(grad, shape)
        return images + images.sum(0, keepdim=True)


def test_images_that_do_not_stay_apart_are_convolved_one_by_one() -> None:
    if not cpu_mode.available(HALF):
        pytest.skip("this processor has no kernels in half precision")
    kernel, x, how = weight(48, 32, 3, 3), normal(3, 32, 8, 8), ConvParams.of(padding=1)
    assert how is not None
    grad = torch.linspace(-1, 1, 3 * 48 * 8 * 8).roll(7).view(3, 48, 8, 8).to(HALF)
    leaking, alone = Leaking(kernel, how), Packed(kernel, how)
    for _ in range(2):
        assert torch.equal(leaking.forward(x, None), alone.forward(x, None))
        assert torch.equal(leaking.input_gradient(grad, x.shape), alone.input_gradient(grad, x.shape))
    assert leaking._separates == {("forward", 8, 8): False, ("input gradient", 8, 8): False}


@pytest.mark.parametrize("wide", [False, True], ids=["linear", "attention"])
def test_products_of_views_are_single_products(wide: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    layer: nn.Module = nn.MultiheadAttention(16, 2, batch_first=True) if wide else nn.Linear(16, 16)
    layer.eval().requires_grad_(False)
    upstream = torch.randn(*((4, 5) if wide else (5, 4)), 16, generator=generator)

    def run() -> tuple[Tensor, Tensor, list[Any]]:
        x = torch.randn(4, 5, 16, generator=generator.manual_seed(1)).requires_grad_()
        with Operations() as operations:
            out = layer(x, x, x, need_weights=False)[0] if wide else layer(x.transpose(0, 1))
        return out, torch.autograd.grad(out, x, upstream)[0], operations.called

    expected, expected_grad, plain_calls = run()
    with FastOperations(KernelCache()):
        found, grad, calls = run()
    assert off(found, expected) < 1e-6
    assert off(grad, expected_grad) < 1e-6
    assert torch.ops.aten.bmm.default in plain_calls, "torch has mended it: no need for this any more"
    assert torch.ops.aten.bmm.default not in calls
