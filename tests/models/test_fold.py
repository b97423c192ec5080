"""BatchNorm goes into the convolution before it exactly where that changes nothing."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from zoo import off

from gradserve_server.models.fold import fold_batch_norms, foldable, unfolded


def norm(channels: int, **facts: object) -> nn.BatchNorm2d:
    """A BatchNorm that does something."""
    made = nn.BatchNorm2d(channels, **facts)  # type: ignore[arg-type]
    for tensor in (made.weight, made.bias, made.running_mean):
        if tensor is not None:
            nn.init.uniform_(tensor, -1, 2)
    if made.running_var is not None:
        nn.init.uniform_(made.running_var, 0.5, 2)
    return made


def folded(network: nn.Module, x: Tensor) -> dict[str, str]:
    """Folds what may be folded, and returns it."""
    pairs = foldable(network, x)
    fold_batch_norms(network, pairs.items())
    return pairs


class Net(nn.Module):
    """Two convolutions and two BatchNorms, wired by a function."""

    def __init__(self, wiring: Callable[["Net", Tensor], Tensor], **facts: object) -> None:
        super().__init__()
        self.wiring = wiring
        self.conv1, self.bn1 = nn.Conv2d(4, 4, 3, padding=1, groups=2), norm(4, **facts)
        self.conv2, self.bn2 = nn.Conv2d(4, 4, 3, padding=1, bias=False), norm(4, **facts)

    def forward(self, x: Tensor) -> Tensor:
        return self.wiring(self, x)


def straight(n: Net, x: Tensor) -> Tensor:
    return n.bn2(n.conv2(n.bn1(n.conv1(x)).relu()))


def crossed(n: Net, x: Tensor) -> Tensor:
    """In the order of names the pairs would be wrong."""
    return n.bn1(n.conv2(n.bn2(n.conv1(x)).relu()))


def pre_activation(n: Net, x: Tensor) -> Tensor:
    return n.conv2(n.bn2(n.conv1(n.bn1(x).relu())).relu())


def shortcut(n: Net, x: Tensor) -> Tensor:
    out = n.conv1(x)
    return n.bn2(n.conv2(n.bn1(out).relu())) + out


def in_a_list(n: Net, x: Tensor) -> Tensor:
    out = n.conv1(x)
    return torch.cat([n.bn1(out), n.bn2(n.conv2(x)), out], 1)


def twice(n: Net, x: Tensor) -> Tensor:
    return n.bn1(n.conv1(n.bn1(n.conv1(x)))) + n.bn2(n.conv2(x))


def one_norm_for_both(n: Net, x: Tensor) -> Tensor:
    return n.bn1(n.conv2(n.bn1(n.conv1(x))))


WIRINGS = [
    (straight, {"conv1": "bn1", "conv2": "bn2"}),
    (crossed, {"conv1": "bn2", "conv2": "bn1"}),
    (pre_activation, {"conv1": "bn2"}),
    (shortcut, {"conv2": "bn2"}),
    (in_a_list, {"conv2": "bn2"}),
    (twice, {"conv2": "bn2"}),
    (one_norm_for_both, {}),
]


@pytest.mark.parametrize(("wiring", "pairs"), WIRINGS)
@pytest.mark.parametrize("facts", [{}, {"affine": False}], ids=["affine", "plain"])
def test_folds_by_the_order_of_execution(
    wiring: Callable[[Net, Tensor], Tensor], pairs: dict[str, str], facts: dict[str, object]
) -> None:
    torch.manual_seed(0)
    network = Net(wiring, **facts).double().eval().requires_grad_(False)
    x = torch.rand(2, 4, 6, 5, dtype=torch.float64)
    before = network(x)
    assert folded(network, x) == pairs
    assert off(network(x), before) < 1e-12
    assert {name for name in ("bn1", "bn2") if isinstance(getattr(network, name), nn.Identity)} == set(pairs.values())
    assert not any(parameter.requires_grad for parameter in network.parameters())


def test_batch_statistics_are_not_folded() -> None:
    network = Net(straight, track_running_stats=False).eval()
    assert foldable(network, torch.rand(2, 4, 6, 5)) == {}


def test_folding_is_done_in_float64() -> None:
    torch.manual_seed(0)
    network = Net(straight).eval().requires_grad_(False)
    exact = Net(straight).double().eval().requires_grad_(False)
    exact.load_state_dict(network.state_dict())
    folded(network, torch.rand(2, 4, 6, 5))
    folded(exact, torch.rand(2, 4, 6, 5, dtype=torch.float64))
    assert torch.equal(network.conv1.weight, exact.conv1.weight.float())
    assert torch.equal(network.conv2.bias, exact.conv2.bias.float())  # type: ignore[arg-type, union-attr]


def test_weights_are_found_again_even_where_a_batch_norm_has_put_them_out() -> None:
    torch.manual_seed(0)
    network = Net(straight).eval()
    with torch.no_grad():
        network.bn2.weight[:3] = torch.tensor([0.0, 1e-40, -1e-12])
    before = {name: each.clone() for name, each in network.state_dict().items()}
    assert folded(network, torch.randn(1, 4, 8, 8)) == {"conv1": "bn1", "conv2": "bn2"}
    assert network.conv2.weight[0].abs().max() == 0
    for conv, batch_norm in (("conv1", network.bn1), ("conv2", network.bn2)):
        found = unfolded(getattr(network, conv).weight, batch_norm)  # type: ignore[arg-type]
        own = before[f"{conv}.weight"]
        assert ((found - own).abs() <= 2e-7 * own.abs()).all()
