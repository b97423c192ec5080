"""Maps from any layout, and hooks that leave nothing behind."""

import pytest
import torch
from torch import nn
from zoo import inputs

from gradserve_server.models.card import Layout, Tokens
from gradserve_server.models.layouts import layout_of
from gradserve_server.models.taps import Place, Taps, as_map, first_tensor

LAYOUTS: list[tuple[tuple[int, ...], tuple[int, int], Layout]] = [
    ((2, 1000), (224, 224), "vector"),
    ((2, 64, 56, 56), (224, 224), "nchw"),
    ((2, 64, 24, 32), (96, 128), "nchw"),
    ((2, 3, 5, 512), (96, 150), "nhwc"),
    ((2, 7, 7, 768), (224, 224), "nhwc"),
    ((2, 512, 1, 1), (224, 224), "nchw"),
    ((2, 49, 768), (224, 224), "other"),  # Shapes alone do not show tokens.
    ((8, 49, 768), (224, 224), "other"),  # These are windows of two images.
    ((49, 2, 768), (224, 224), "other"),
    ((2,), (224, 224), "other"),
]


@pytest.mark.parametrize(("shape", "size", "layout"), LAYOUTS)
def test_layout(shape: tuple[int, ...], size: tuple[int, int], layout: Layout) -> None:
    assert layout_of(shape, size) == layout


@pytest.mark.parametrize("layout", ["nchw", "nhwc", "tokens"])
@pytest.mark.parametrize(("leading", "trailing"), [(0, 0), (1, 0), (0, 1), (5, 2)])
def test_as_map_is_never_transposed_or_shifted(layout: Layout, leading: int, trailing: int) -> None:
    """Every number says where it belongs: 100 * row + 10 * column + channel, on a map of 4 x 8."""
    y, x, c = torch.meshgrid(torch.arange(4), torch.arange(8), torch.arange(3), indexing="ij")
    hwc = (100 * y + 10 * x + c).expand(2, -1, -1, -1)
    nchw = hwc.permute(0, 3, 1, 2)
    before, after = (torch.full((2, count, 3), -1) for count in (leading, trailing))
    own = {"nchw": nchw, "nhwc": hwc, "tokens": torch.cat([before, hwc.flatten(1, 2), after], 1)}
    assert torch.equal(as_map(own[layout], layout, Tokens(4, 8, leading, trailing)), nchw)


OWN = (64, 128)  # Its grid is 4 x 8.
SIZES: list[tuple[Tokens, int, tuple[int, int], tuple[int, int] | None]] = [
    (Tokens(4, 8), 32, OWN, (4, 8)),
    (Tokens(4, 8), 33, OWN, None),
    (Tokens(4, 8, 1), 33, OWN, (4, 8)),
    (Tokens(4, 8, 2, 1), 2 + 40 + 1, (128, 80), (8, 5)),
    (Tokens(4, 8, 2, 1), 40, (128, 80), None),
    (Tokens(4, 8), 4 * 9, (64, 150), (4, 9)),  # 150 pixels are 9 patches, and a rest that is cut off
    (Tokens(4, 8), 4 * 10, (64, 150), (4, 10)),  # The image is filled up to whole patches.
    (Tokens(4, 8), 32, (128, 128), (4, 8)),  # Every image is brought to one size.
    (Tokens(4, 8), 32, (32, 256), None),  # It may be this or 2 x 16.
    (Tokens(4, 8), 41, (128, 80), None),
]


@pytest.mark.parametrize(("tokens", "count", "size", "grid"), SIZES)
def test_tokens_of_other_sizes(tokens: Tokens, count: int, size: tuple[int, int], grid: tuple[int, int] | None) -> None:
    assert tokens.at(count, size, OWN) == (None if grid is None else Tokens(*grid, tokens.leading, tokens.trailing))


@pytest.mark.parametrize("value", [None, (), [], "text", (None,), {"out": torch.ones(1)}])
def test_no_first_tensor(value: object) -> None:
    assert first_tensor(value) is None


def test_the_first_tensor_of_an_attention_module() -> None:
    out = nn.MultiheadAttention(4, 2, batch_first=True)(*[torch.ones(1, 2, 4)] * 3)
    assert first_tensor(out) is out[0]


def test_a_pass_that_raises_leaves_no_hook() -> None:
    model, x = inputs("resnet18")
    taps = Taps([Place("layer1"), Place("fc", "input")])
    with pytest.raises(RuntimeError), taps.listening(model.network):
        model(x[:, :1].expand(-1, 4, -1, -1))
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.network.modules())


def test_calls_of_a_module_are_told_apart() -> None:
    model, x = inputs("resnet18")
    taps = Taps([Place("layer1.0.relu", call=0), Place("layer1.0.relu", call=1), Place("layer1.0.relu", call=2)])
    with taps.listening(model.network):
        model(x)
    assert sorted(place.call for place in taps.kept) == [0, 1]


class Keyed(nn.Module):
    """Takes its map by a name, beside a number."""

    def forward(self, *, scale: float, maps: torch.Tensor) -> torch.Tensor:
        return scale * maps.square()


class ByName(nn.Module):
    """Calls its parts by keyword, an attention with one tensor three times, and an identity."""

    def __init__(self) -> None:
        super().__init__()
        self.keyed, self.same = Keyed(), nn.Identity()
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.same(self.keyed(scale=3.0, maps=x))
        return self.attention(query=x, key=x, value=x, need_weights=False)[0].sum((1, 2))


def test_inputs_that_are_given_by_name() -> None:
    torch.manual_seed(0)
    network, x = ByName().eval(), torch.randn(2, 3, 4)
    places = [Place("keyed", "input"), Place("keyed"), Place("attention", "input"), Place("same")]
    taps = Taps(places, leaf=True)
    with taps.listening(network):
        value = network(x).sum()
    found = torch.autograd.grad(value, [taps.kept[place] for place in places])
    squared = (3 * x.square()).requires_grad_()
    (by_squared,) = torch.autograd.grad(network.attention(squared, squared, squared)[0].sum(), squared)
    right = {places[0]: (x, by_squared * 6 * x), **dict.fromkeys(places[1:], (squared, by_squared))}
    for place, grad in zip(places, found, strict=True):
        assert torch.allclose(taps.kept[place], right[place][0]), place
        assert torch.allclose(grad, right[place][1], rtol=1e-4, atol=1e-6), place
