"""Dense of networks as people write them, against the untouched network in double precision."""

from copy import deepcopy
from functools import lru_cache

import pytest
import torch
from dense_answers import answer, dense_head, every_class, largest_difference, picture
from dense_networks import CONNECTED, LOCAL, OTHERS, UNEVEN, WHOLE
from torch import nn
from zoo import CPU

from gradserve_server.models.catalogue import ModelSpec
from gradserve_server.models.loading import load
from gradserve_server.models.preparation import prepare_source
from gradserve_server.models.prepared import Prepared
from gradserve_server.models.reach import last_map


@lru_cache(4)
def served(name: str, side: int = 64) -> tuple[Prepared, nn.Module]:
    """The network ready to serve, and as its author wrote it in double precision."""
    facts = {"name": "net", "builder": "dense_networks:network", "arguments": {"name": name}, "precisions": ("exact",)}
    spec = ModelSpec.model_validate({**facts, "weights": "random", "height": side, "width": side, "resize": side})
    source = load(spec)
    network = deepcopy(source.network).double()
    return prepare_source(spec, source, CPU, torch.float32), network


@pytest.mark.parametrize("name", [*LOCAL, *WHOLE])
def test_the_mean_of_the_map_is_the_logits(name: str) -> None:
    model, network = served(name)
    assert dense_head(model).refused == ""
    x = picture(101, 138)
    with torch.no_grad():
        right = network(model.normalised(x).double())[0]
    found = answer(model, x, *every_class(model))
    assert found.scores[0].size > 1
    assert largest_difference(found.scores.mean((1, 2), dtype="f8"), right) <= 1e-6
    assert largest_difference(found.logits, right) <= 1e-6


@pytest.mark.parametrize("name", CONNECTED)
def test_linear_layers_over_windows_are_what_they_are_of_each(name: str) -> None:
    model, network = served(name)
    head = dense_head(model)
    assert (head.refused, head.side) == ("", 8)
    x = picture(101, 138)
    with torch.no_grad():
        images = model.normalised(x).double()
        whole, parts = network(images)[0], list(network.children())
        pool = next(i for i, part in enumerate(parts) if isinstance(part, nn.AdaptiveAvgPool2d))
        windows = nn.Sequential(*parts[:pool])(images).unfold(2, 8, 1).unfold(3, 8, 1)
        right = [
            [nn.Sequential(*parts[pool:])(windows[:, :, i, j])[0] for j in range(windows.shape[3])]
            for i in range(windows.shape[2])
        ]
    found = answer(model, x, *every_class(model))
    assert largest_difference(found.scores, torch.stack([torch.stack(row, 1) for row in right], 1)) <= 1e-6
    assert largest_difference(found.logits, whole) <= 1e-6


@pytest.mark.parametrize("name", [*LOCAL, "no squeeze and excitation"])
def test_tiles_of_any_size_are_the_whole(name: str) -> None:
    model, _ = served(name)
    head = dense_head(model)
    assert head.untiled == ""
    for more in range(4):
        x = picture(head.least_tile + 2 * head.stride + more, head.least_tile + 3 * head.stride + 3 * more + 1)
        whole = answer(model, x, *every_class(model))
        tiled = answer(model, x, *every_class(model), tile=head.least_tile + 2 * more)
        assert tiled.tiles > whole.tiles == 1
        assert largest_difference(tiled.scores, whole.scores) <= 1e-5


@pytest.mark.parametrize("name", [each for each in WHOLE if each != "no squeeze and excitation"])
def test_networks_whose_tiles_are_not_the_whole_have_none(name: str) -> None:
    assert dense_head(served(name)[0]).untiled != ""


@pytest.mark.parametrize("name", UNEVEN)
def test_a_map_that_does_not_grow_with_the_picture_is_refused(name: str) -> None:
    assert "are not the same whole number of pixels apart at every size" in dense_head(served(name)[0]).refused


@pytest.mark.parametrize("name", OTHERS)
def test_scores_that_are_no_mean_are_refused(name: str) -> None:
    told = "neither a global mean of scores nor" if name == "a hidden layer" else "another operation stands between"
    assert told in dense_head(served(name)[0]).refused


def test_cells_that_see_everything_lie_where_they_would_without_it() -> None:
    """At a size that is no multiple of the stride."""
    (model, _), (plain, _) = (served(name, 50) for name in ("squeeze and excitation", "no squeeze and excitation"))
    head, right = dense_head(model), dense_head(plain)
    assert last_map(model, head.layer, model.normalised(picture(50, 50))).shape[2:] == (7, 7)
    assert (head.stride, head.offset) == (right.stride, right.offset) == (8, 0.5)


@pytest.mark.parametrize("name", [each for each in LOCAL if "round up" not in each])
def test_where_cells_lie_in_a_network_that_pads_both_ends_alike(name: str) -> None:
    """Those of the smallest strip with so many cells lie in its middle."""
    model, _ = served(name)
    head = dense_head(model)

    def cells(width: int) -> int:
        return last_map(model, head.layer, model.normalised(torch.zeros(1, 3, 40, width))).shape[3]

    width = next(each for each in range(200, 400) if cells(each) > cells(199))
    assert head.offset == (width - (cells(width) - 1) * head.stride) / 2
