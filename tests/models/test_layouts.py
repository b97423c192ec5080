"""Tokens: any number before and after the patches is found, or named, or the maps are refused; never guessed."""

from typing import Any

import pytest
import timm
import torch
from small_vits import PATCH
from torch import Tensor
from zoo import CPU

from gradserve_server.engine.differentiate import differentiate
from gradserve_server.engine.objective import NotApplicable, logit
from gradserve_server.engine.query import Part, Query, Tap
from gradserve_server.models.card import Tokens
from gradserve_server.models.catalogue import ModelSpec
from gradserve_server.models.loading import LoadError
from gradserve_server.models.preparation import prepare
from gradserve_server.models.prepared import Prepared
from gradserve_server.models.probe import Probe, probe


def served(builder: str = "small_vits:vit", size: tuple[int, int] = (40, 64), **facts: Any) -> Prepared:
    spec = {"name": "m", "builder": builder, "weights": "random", "precisions": ("exact",)}
    return prepare(ModelSpec.model_validate({**spec, "height": size[0], "width": size[1], **facts}), CPU)


def answer(model: Prepared, x: Tensor, layer: str) -> tuple[Tensor, Tensor]:
    """A layer's map and its gradient by a logit, both [C, h, w]."""
    query = Query(x, logit(2), "taps", (Tap(layer),))
    (found,) = differentiate(model, [Part(query, range(1))])
    assert found.act_grads[0] is not None
    return found.acts[0][0], found.act_grads[0][0]


def most_changed(model: Prepared, layer: str, size: tuple[int, int], patch: tuple[int, int]) -> tuple[int, ...]:
    """Where the layer's map changes most when one patch of the picture changes."""
    x = torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(4))
    other = x.clone()
    top, left = (PATCH * i for i in patch)
    other[:, :, top : top + PATCH, left : left + PATCH] = 1 - x[:, :, top : top + PATCH, left : left + PATCH]
    change = (answer(model, x, layer)[0] - answer(model, other, layer)[0]).norm(dim=0)
    return tuple(int(i) for i in torch.unravel_index(change.argmax(), change.shape))


COUNTS = [(0, 0), (1, 0), (2, 0), (5, 0), (0, 1), (0, 3), (3, 2), (9, 0), (0, 16)]


@pytest.mark.parametrize(("leading", "trailing"), COUNTS)
@pytest.mark.parametrize("by_convolution", [True, False])
@pytest.mark.parametrize("size", [(40, 64), (64, 64), (64, 40)])
def test_tokens_are_found(leading: int, trailing: int, by_convolution: bool, size: tuple[int, int]) -> None:
    arguments = {"leading": leading, "trailing": trailing, "by_convolution": by_convolution}
    model = served(size=size, arguments=arguments)
    card, grid = model.card, (size[0] // PATCH, size[1] // PATCH)
    layer = card.layer("blocks.0")
    assert layer is not None
    assert (layer.layout, layer.tokens) == ("tokens", Tokens(*grid, leading, trailing))
    assert card.grad_cam_layer == ("blocks.1.norm1" if leading + trailing else "norm")
    assert not [note for note in card.notes if note.startswith("GRAD_CAM")]
    for patch in ((0, 0), (1, 3), (grid[0] - 1, 1)):
        assert most_changed(model, "blocks.0", size, patch) == patch


def test_the_default_map_is_by_hand() -> None:
    """Two tokens before, one after; the gradient is that of the patches alone."""
    model = served(arguments={"leading": 2, "trailing": 1})
    x = torch.rand(1, 3, 40, 64, generator=torch.Generator().manual_seed(0))
    kept: list[Tensor] = []
    handle = model.network.get_submodule("blocks.1.norm1").register_forward_hook(lambda m, a, out: kept.append(out))
    score = model(x.clone().requires_grad_())[0, 2]
    handle.remove()
    (grad,) = torch.autograd.grad(score, kept[0])
    for ours, real in zip(answer(model, x, "blocks.1.norm1"), (kept[0], grad), strict=True):
        assert torch.allclose(ours, real[0, 2:-1].unflatten(0, (5, 8)).permute(2, 0, 1), atol=1e-6)
        assert real.any()


@pytest.mark.parametrize("size", [(80, 48), (44, 64), (16, 120)])
def test_other_sizes_are_read_in_their_own_grid(size: tuple[int, int]) -> None:
    model = served(arguments={"leading": 2})
    assert model.card.any_size
    grid = (size[0] // PATCH, size[1] // PATCH)
    for patch in ((0, grid[1] - 1), (grid[0] - 1, 0), (1, 2)):
        assert most_changed(model, "blocks.0", size, patch) == patch


def test_a_size_whose_grid_is_not_clear_is_refused() -> None:
    model = served(size=(32, 64), arguments={"leading": 1})
    with pytest.raises(NotApplicable, match=r"its 33 tokens are no grid on an input of 128x16"):
        answer(model, torch.rand(1, 3, 16, 128), "blocks.0")  # 2 x 16 as well as 4 x 8 are 32


def test_patches_in_columns_are_not_read_as_rows() -> None:
    model = served(arguments={"leading": 1, "columns_first": True})
    assert model.card.layer("blocks.0").layout == "other"  # type: ignore[union-attr]
    assert model.card.grad_cam_layer == "embed"
    (note,) = (note for note in model.card.notes if note.startswith("GRAD_CAM"))
    assert "takes embed" in note
    assert "what blocks.1.qkv gives later cannot be read" in note
    assert "tokens = {" in note


def test_only_layers_in_another_order_are_not_read() -> None:
    card = served("small_vits:shuffled").card
    layouts = {name: card.layer(name).layout for name in ("blocks.0", "blocks.1", "norm")}  # type: ignore[union-attr]
    assert layouts == {"blocks.0": "tokens", "blocks.1": "other", "norm": "other"}
    assert any(note.startswith("GRAD_CAM: by default it takes blocks.0") for note in card.notes)


def test_a_class_token_that_comes_later() -> None:
    card = served("small_vits:late").card
    assert card.layer("first").tokens == Tokens(5, 8)  # type: ignore[union-attr]
    assert card.layer("second").tokens == Tokens(5, 8, 1)  # type: ignore[union-attr]
    assert card.grad_cam_layer == "second.norm1"


def test_what_cannot_be_found_can_be_named() -> None:
    mixed = {"leading": 3, "trailing": 2, "mixed_first": True}
    unknown = served(arguments=mixed).card
    assert unknown.layer("blocks.0").layout == "other"  # type: ignore[union-attr]
    assert any(note.startswith("GRAD_CAM: by default it takes embed") for note in unknown.notes)
    model = served(arguments=mixed, tokens={"leading": 3, "trailing": 2})
    assert model.card.layer("blocks.0").tokens == Tokens(5, 8, 3, 2)  # type: ignore[union-attr]
    assert model.card.grad_cam_layer == "blocks.1.norm1"
    assert not [note for note in model.card.notes if note.startswith("GRAD_CAM")]


@pytest.mark.parametrize("tokens", [{"leading": 2}, {"leading": 3, "trailing": 1}, {"trailing": 3}])
def test_wrong_numbers_in_the_catalogue_are_refused(tokens: dict[str, int]) -> None:
    with pytest.raises(LoadError, match=r"does not fit: .* sequences of 4\d tokens, and 4\d - .*no grid"):
        served(arguments={"leading": 3}, tokens=tokens)


def test_a_network_without_tokens_has_none_to_name() -> None:
    with pytest.raises(LoadError, match="the network has no sequences of tokens; leave tokens out"):
        served("networks:fork", tokens={"leading": 1})


TIMM: dict[str, tuple[dict[str, Any], tuple[int, int], Tokens, str]] = {
    "vit_tiny_patch16_224": ({}, (64, 96), Tokens(4, 6, 1), "blocks.11.norm1"),
    "deit_tiny_distilled_patch16_224": ({}, (64, 96), Tokens(4, 6, 2), "blocks.11.norm1"),
    "vit_small_patch14_reg4_dinov2": ({"depth": 3}, (70, 98), Tokens(5, 7, 5), "blocks.2.norm1"),
    "cait_xxs24_224": ({}, (64, 64), Tokens(4, 4, 1), "blocks_token_only.1.norm1"),
    "mixer_s32_224": ({}, (160, 160), Tokens(5, 5), "norm"),
    "pvt_v2_b0": ({}, (96, 128), Tokens(3, 4), "stages"),
}


def of_timm(name: str, size: tuple[int, int], **facts: Any) -> Probe:
    own_size = {} if "pvt" in name else {"img_size": size}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = timm.create_model(name, pretrained=False, num_classes=7, **own_size, **facts)
        for parameter in network.parameters():  # Some heads begin at zero.
            parameter.data += 0.02 * torch.randn(parameter.shape)
    return probe(
        network.eval().requires_grad_(False), torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(1))
    )


@pytest.mark.parametrize("name", TIMM)
def test_timm(name: str) -> None:
    facts, size, tokens, layer = TIMM[name]
    found = of_timm(name, size, **facts)
    assert tokens in found.tokens
    assert found.grad_cam_layer == layer
    assert not found.notes


def test_grids_that_cannot_be_read_are_announced() -> None:
    """PiT shrinks its grid while two tokens stand beside it."""
    found = of_timm("pit_ti_distilled_224", (96, 96))
    assert found.notes
    assert "norm gives later cannot be read as a map" in found.notes[0]
