"""The comparison at load finds what making ready got wrong, with the checks before it taken out."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from zoo import CPU

from gradserve_server.accel import convolutions, cpu_mode
from gradserve_server.accel.half_backward import HalfWeights
from gradserve_server.models import fold, preparation
from gradserve_server.models.behaviour import AMPLIFYING, Behaviour, Unservable, varied
from gradserve_server.models.catalogue import PRECISIONS, ModelSpec
from gradserve_server.models.comparison import Comparison, Errors
from gradserve_server.models.loading import load
from gradserve_server.models.preparation import prepare
from gradserve_server.models.scales import scales

from .test_kinds import KINDS, Kind, by_name, distance, images_of, ours, plain, spec_of

WRONG_WHEN_FOLDED = [
    *("kinds:norm_with_activation", "kinds:norm_with_scale", "kinds:norm_with_own_forward"),
    *("kinds:conv_with_shift", "kinds:conv_quantised", "kinds:conv_parametrised", "kinds:conv_with_hooks"),
    *("kinds:conv_masked_in_forward", "kinds:depends_on_size"),
    *("cases:norm_act", "cases:weight_standardised", "cases:conv_with_hook", "cases:new_weight_norm"),
    *("cases:old_weight_norm", "cases:spectral", "cases:pruned", "cases:two_norms"),
]
WRONG_WHEN_REPLACED_BY_NAME = ["kinds:listed_and_named", "kinds:in_two_containers", "cases:aliased"]


class Scaled(nn.Module):
    """Multiplies by a factor."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return self.factor * x


class Sine(nn.Module):
    """The sine of each value: after a large factor, a small error becomes a large one."""

    def forward(self, x: Tensor) -> Tensor:
        return x.sin()


class ByFormat(nn.Module):
    """Does something else in float64 than in fp32, with no rounding behind it."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flip(1) if x.dtype == torch.float64 else x


def unchecked(network: nn.Module, example: Tensor) -> dict[str, str]:
    """Every pair of a convolution and a BatchNorm that takes its output, of whatever subclass and however often."""
    pairs, outputs, handles = {}, {}, []

    def hook(name: str) -> Any:
        def on_output(module: nn.Module, args: Any, out: Any) -> None:
            if isinstance(module, nn.Conv2d):
                outputs[id(out)] = (name, out)
            elif id(args[0]) in outputs:
                pairs[outputs[id(args[0])][0]] = name

        return on_output

    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d | nn.BatchNorm2d):
            handles.append(module.register_forward_hook(hook(name)))
    with torch.no_grad():
        network(example.clone())
    for handle in handles:
        handle.remove()
    return pairs


@by_name([kind for kind in KINDS if kind.builder in WRONG_WHEN_FOLDED or "'folded'" in kind.name])
def test_a_wrong_fold_is_found(kind: Kind, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preparation, "foldable", unchecked)
    model = prepare(spec_of(kind), CPU)
    assert any("BatchNorm is not folded" in note for note in model.card.notes)
    assert not model.card.folded
    check(kind, model)


@by_name([kind for kind in KINDS if kind.builder in WRONG_WHEN_REPLACED_BY_NAME])
def test_a_fold_under_one_name_alone_is_found(kind: Kind, monkeypatch: pytest.MonkeyPatch) -> None:
    def fold_by_name(network: nn.Module, pairs: Any) -> None:
        disabled: list[nn.Module] = []
        with monkeypatch.context() as patch:
            patch.setattr(fold, "_disable", disabled.append)
            fold.fold_batch_norms(network, pairs)
        names = {id(module): name for name, module in reversed(list(network.named_modules()))}
        for norm in disabled:
            parent, _, leaf = names[id(norm)].rpartition(".")
            setattr(network.get_submodule(parent), leaf, nn.Identity())

    monkeypatch.setattr(preparation, "fold_batch_norms", fold_by_name)
    model = prepare(spec_of(kind), CPU)
    assert any("BatchNorm is not folded" in note for note in model.card.notes)
    check(kind, model)


def check(kind: Kind, model: Any) -> None:
    """The answers are those of plain torch, whatever all logits have in common."""
    (logits, gradient), right = ours(model, images_of(kind)), plain(kind, images_of(kind))
    common = right[0].median()
    assert distance(logits - common, right[0] - common) < (1e-4 if common.abs() < 100 else 1e-2)
    assert distance(gradient, right[1]) < 1e-3


BROKEN: dict[str, tuple[str, Any]] = {
    "the wrong gradient": ("input_gradient", lambda kernel, grad, shape: grad.new_ones(shape)),
    "no gradient": ("input_gradient", lambda kernel, grad, shape: grad.new_zeros(shape)),
    "NaN": ("input_gradient", lambda kernel, grad, shape: grad.new_full(shape, torch.nan)),
}
RESNET = ModelSpec(name="resnet18", weights="random", precisions=PRECISIONS, height=48, width=48, resize=48)


@pytest.mark.parametrize("fault", BROKEN)
def test_wrong_kernels_are_not_used(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_mode, "MIN_PACKED_WEIGHTS", 0)
    monkeypatch.setattr(cpu_mode, "available", lambda *_: True)
    monkeypatch.setattr(convolutions.Packed, *BROKEN[fault])
    model = prepare(RESNET, CPU)
    assert any("gradients by" in note for note in model.card.notes)
    assert model.kernels is None or not model.channels_last
    assert set(model.card.precisions) | set(model.card.absent) == {"exact", "balanced", "fast"}


def test_a_wrong_precision_is_not_served(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(HalfWeights, "of", lambda self, weight: weight.detach().to(torch.bfloat16) * 2)
    card = prepare(RESNET, CPU).card
    assert "balanced" not in card.precisions
    assert "its logits are off by" in card.absent["balanced"]
    assert any(note.startswith("BALANCED is not served") for note in card.notes)


def test_bounds_are_floors_or_three_times_the_untouched_networks_own_error() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5)).eval()
    comparison = Comparison(network.requires_grad_(False), lambda x: x, [varied(16, 16)], try_double=True)
    assert comparison.in_double
    assert comparison.bounds("exact") == Errors(1e-4, 5e-2)
    assert comparison.errors("exact", network).within(comparison.bounds("exact"))
    assert not comparison.errors("exact", lambda x: network(x) * 1.001).within(comparison.bounds("exact"))
    assert not comparison.errors("exact", lambda x: network(x)[:, :4]).within(comparison.bounds("exact"))
    assert not comparison.errors("exact", lambda x: network(x) * torch.nan).within(comparison.bounds("exact"))
    with torch.no_grad():
        network[3].bias.add_(1e6)  # What is left of the logits is rounded by a tenth.
    coarse = Comparison(network, lambda x: x, [varied(16, 16)], try_double=True)
    varying = network(varied(16, 16)).sub(1e6).abs().max()
    assert coarse.in_double
    assert 4 * 2**-23 * 1e6 / varying <= coarse.bounds("exact").logits < 10


def test_what_all_logits_have_in_common_excuses_no_error() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5)).eval()
    with torch.no_grad():
        network[3].bias.add_(1e4)
    comparison = Comparison(network.requires_grad_(False), lambda x: x, [varied(16, 16)], try_double=True)
    assert comparison.errors("exact", network).within(comparison.bounds("exact"))
    varying = network(varied(16, 16)) - 1e4
    for size in (0.05, 1.0):
        wrong = comparison.errors("exact", lambda x, size=size: network(x) + size * varying.roll(1, 1))
        assert wrong.logits > size / 10
        assert not wrong.within(comparison.bounds("exact"))


OTHERS = float("-inf"), float("nan"), -1e9


@pytest.mark.parametrize(
    ("logits", "expected"),
    [
        ([[1.0, 2.0, 4.0]], [2.0, 2.0, 2.0]),  # None is below that of most.
        ([[1e4 + 1, 1e4 + 2, 1e4 + 4]], [2.0, 2.0, 2.0]),
        ([[3.0], [5.0]], [5.0]),
        ([[0.0, 0.0]], [0.0, 0.0]),
        ([[1.0, 2.0]], [0.5, 0.5]),
        ([[*OTHERS[:2], 1.0, 3.0, 4.0]], [2.0, 2.0, 2.0, 2.0, 2.0]),
        ([[1.0, 2.0, 4.0, *OTHERS[2:] * 4]], [10.0, 10.0, 10.0, *[1e9] * 4]),
    ],
)
def test_scales_of_classes(logits: list[list[float]], expected: list[float]) -> None:
    assert scales(torch.tensor(logits)).tolist() == expected


@pytest.mark.parametrize("factor", [1.0, 30.0])
def test_a_network_in_which_rounding_grows_too_much_is_refused(factor: float) -> None:
    torch.manual_seed(0)
    waves = [layer for _ in range(8) for layer in (Scaled(factor), Sine())]
    network = nn.Sequential(nn.Conv2d(3, 4, 3), *waves, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5)).eval()
    comparison = Comparison(network.requires_grad_(False), lambda x: x, [varied(16, 16)], try_double=True)
    if factor == 1:
        comparison.check_rounding()
        assert comparison.in_double
    else:
        with pytest.raises(Unservable, match=r"its logits in fp32 are off by [\d.]+% of their scale"):
            comparison.check_rounding()


def test_a_copy_that_differs_for_another_reason_is_no_sign_of_rounding() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(ByFormat(), nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5))
    comparison = Comparison(network.eval().requires_grad_(False), lambda x: x, [varied(16, 16)], try_double=True)
    assert not comparison.in_double
    comparison.check_rounding()


def test_where_rounding_grows_the_network_is_served_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preparation, "examine", lambda *_: Behaviour(unbatched=AMPLIFYING))
    model = prepare(RESNET, CPU)
    assert not model.card.folded
    assert not model.channels_last
    assert model.kernels is None
    assert any("served without speed-ups" in note for note in model.card.notes)


def test_nothing_of_the_comparison_stays_in_memory() -> None:
    source = load(RESNET)
    model = preparation.prepare_source(RESNET, source, CPU, torch.float32)
    assert model.network is not source.network
    held = {id(each) for network in (model.network, model.at("fast").network) for each in network.parameters()}
    assert not held & {id(each) for each in source.network.parameters()}
