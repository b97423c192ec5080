"""Inspect through a real server: its four views, in company, and what is wrong with a request."""

import io
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import numpy as np
import pytest
from PIL import Image
from serving import PATIENCE, Server, Stubs, picture, refused, values

from gradserve.v1 import inspect_pb2 as ix
from gradserve.v1 import models_pb2
from gradserve_server.api.pictures.sheets import CELL, GAP, in_colour, of_map, sheet, signed

LAYER, SIDE = "features.3", 64
PHOTO = picture(0, SIDE, SIDE)


def ask(stubs: Stubs, model: str = "small", **view: Any) -> ix.InspectResponse:
    return stubs.gradients.Inspect(ix.InspectRequest(model=model, **view), timeout=PATIENCE)  # type: ignore[no-any-return]


def opened(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)))


# Sheets


def test_a_sheet_is_nearly_square_and_its_cells_are_enlarged() -> None:
    cells = [np.full((3, 3, 3), 10 * i, np.uint8) for i in range(10)]
    found = opened(sheet(cells))
    step = CELL + GAP
    assert found.shape == (3 * step - GAP, 4 * step - GAP, 3)
    assert found[step + 5, 5].tolist() == [40] * 3
    assert found[CELL, 5].tolist() == [140] * 3
    assert opened(sheet(cells, 2, "white"))[CELL, 5].tolist() == [255] * 3


@pytest.mark.parametrize(("count", "size"), [(256, (400, 300)), (3, (8, 9000)), (1, (1, 1))])
def test_a_sheet_is_never_too_large(count: int, size: tuple[int, int]) -> None:
    found = opened(sheet([np.zeros((*size, 3), np.uint8)] * count))
    assert max(found.shape) <= 4096


def test_zero_is_in_the_middle_of_the_colours() -> None:
    weights = np.array([[[1.0, 0.0]], [[-1.0, 0.0]], [[0.5, 0.0]]])
    assert in_colour(weights, 1.0).tolist() == [[[255, 0, 191], [128, 128, 128]]]
    assert in_colour(np.zeros((3, 1, 1)), 0.0).tolist() == [[[128, 128, 128]]]
    (low, zero, high) = signed(np.array([[-2.0, 0.0, 2.0]]), 2.0)[0].tolist()
    assert zero == [247, 247, 247]
    assert low[2] > low[0]
    assert high[0] > high[2]
    assert np.array_equal(of_map(np.zeros((2, 2))), np.broadcast_to(np.array([0, 0, 4]), (2, 2, 3)))
    assert of_map(np.array([[0.0, 3.0]])).tolist() == [[[0, 0, 4], [252, 255, 164]]]


# The views


def test_weights(stubs: Stubs) -> None:
    found = ask(stubs, weights={"layer": "features.0.0", "count": 9, "values": True}).weights
    assert (found.look, found.folded, list(found.shape)) == (ix.WEIGHTS_LOOK_COLOUR, "features.0.1", [32, 3, 3, 3])
    assert len(found.channels) == 9
    assert not found.inputs
    norms = np.sqrt((values(found.values).astype(float) ** 2).sum((1, 2, 3)))
    assert list(found.norms) == pytest.approx(norms)
    assert list(found.norms) == sorted(found.norms, reverse=True)
    assert opened(found.png).shape == (3 * (CELL + GAP) - GAP, 3 * (CELL + GAP) - GAP, 3)
    deep = ask(stubs, weights={"layer": "features.2.conv.0.0", "channels": [4, 2], "inputs": 5}).weights
    assert (deep.look, list(deep.channels), len(deep.inputs)) == (ix.WEIGHTS_LOOK_MAPS, [4, 2], 10)
    line = ask(stubs, weights={"layer": "classifier.1", "count": 3}).weights
    assert (line.look, line.folded) == (ix.WEIGHTS_LOOK_ROW, "")
    image = ask(stubs, "linear", weights={"layer": "1"}).weights
    assert (image.look, len(image.channels)) == (ix.WEIGHTS_LOOK_COLOUR, 5)


def test_one_scale_for_all_leaves_weak_filters_pale(stubs: Stubs) -> None:
    own, common = (
        ask(stubs, weights={"layer": "features.0.0", "channels": [0, 1, 2], "common_scale": each}).weights
        for each in (False, True)
    )
    assert np.abs(opened(own.png).astype(int) - 128).sum() > np.abs(opened(common.png).astype(int) - 128).sum()


def test_activations(stubs: Stubs) -> None:
    reply = ask(stubs, activations={"layer": LAYER, "image": PHOTO, "count": 6, "values": True})
    found, maps = reply.activations, values(reply.activations.values)
    assert (found.total, len(found.channels), maps.shape) == (24, 6, (6, 16, 16))
    assert list(found.means) == pytest.approx(maps.mean((1, 2), dtype=float), rel=1e-5, abs=1e-6)
    assert list(found.means) == sorted(found.means, reverse=True)
    assert found.region.width == SIDE
    assert reply.provenance.rows == 1
    largest = ask(stubs, activations={"layer": LAYER, "image": PHOTO, "count": 6, "order": 2}).activations
    assert list(largest.maxima) == sorted(largest.maxima, reverse=True)
    assert not largest.HasField("values")


def test_a_table_without_pictures_needs_no_pass(stubs: Stubs) -> None:
    reply = ask(stubs, table={})
    table = reply.table
    assert (table.parameters, reply.provenance.rows, table.pictures) == (3_504_872, 0, 0)
    assert sum(row.multiply_adds for row in table.layers) == table.multiply_adds
    assert table.values == 3 * SIDE**2 + sum(row.values for row in table.layers if row.counted)
    rows = {row.name: row for row in table.layers}
    assert (rows["features.0.0"].folded, rows["features.0.0"].parameters) == ("features.0.1", 864)
    assert not any(row.HasField("mean") for row in table.layers)
    assert not table.HasField("loss")


def test_a_table_over_pictures(stubs: Stubs) -> None:
    images = [picture(seed, SIDE, SIDE) for seed in range(3)]
    reply = ask(stubs, table={"images": images, "labels": [1, 2, 3]})
    rows = {row.name: row for row in reply.table.layers}
    assert reply.provenance.rows == 3
    assert reply.table.loss > 0
    assert rows["features.1"].gradient_norm > 0
    assert rows["classifier.1"].dead_share == 0
    assert not rows["features.0.0"].HasField("mean"), "it is seen behind its BatchNorm alone"
    one = ask(stubs, table={"images": images[:1]}).table
    assert not {row.name: row for row in one.layers}["classifier.1"].HasField("dead_share")


def test_a_receptive_field(stubs: Stubs) -> None:
    found = ask(stubs, receptive_field={"layer": "features.0.2"}).receptive_field
    assert (found.height, found.width, found.stride_y, found.stride_x) == (3, 3, 2, 2)
    assert (found.offset_y, found.offset_x, found.at_least, found.whole_picture) == (-1, -1, False, False)
    whole = ask(stubs, receptive_field={"layer": "classifier.1", "channel": 7}).receptive_field
    assert (whole.height, whole.at_least, whole.whole_picture) == (SIDE, True, True)
    assert not whole.HasField("stride_y")
    fixed = ask(stubs, "linear", receptive_field={"layer": "1"}).receptive_field
    assert (fixed.height, fixed.width, fixed.picture_height) == (8, 12, 8)


def test_views_in_company_are_those_alone(stubs: Stubs) -> None:
    images = [picture(seed, SIDE, SIDE) for seed in range(6)]
    views: list[dict[str, Any]] = [
        {"activations": {"layer": LAYER, "image": PHOTO, "channels": [3, 5], "values": True}},
        {"table": {"images": images}},
        {"receptive_field": {"layer": "features.2"}},
        {"weights": {"layer": "features.0.0", "values": True}},
    ] * 3
    alone = [ask(stubs, **view) for view in views[:4]] * 3
    with ThreadPoolExecutor(12) as pool:
        found = list(pool.map(lambda view: ask(stubs, **view), views))
    for one, other in zip(found, alone, strict=True):
        assert one.weights == other.weights
        assert (
            values(one.activations.values) == pytest.approx(values(other.activations.values), rel=1e-4, abs=1e-5)
            if (one.HasField("activations"))
            else True
        )
        ours, theirs = one.receptive_field, other.receptive_field
        assert (ours.height, ours.stride_y) == (theirs.height, theirs.stride_y)
        for row, same in zip(one.table.layers, other.table.layers, strict=True):
            assert row.mean == pytest.approx(same.mean, rel=1e-3, abs=1e-4)
            assert row.gradient_norm == pytest.approx(same.gradient_norm, rel=1e-2, abs=1e-6)


# What is wrong


@pytest.mark.parametrize(
    ("model", "view", "field", "text"),
    [
        ("small", {}, "view", "must be one of weights, activations, table, receptive_field, was not set"),
        (
            "small",
            {"weights": {"layer": "features.99"}},
            "weights.layer",
            "small has no layer 'features.99'; nearest: ",
        ),
        ("small", {"weights": {"layer": ""}}, "weights.layer", "small has no layer ''"),
        ("small", {"weights": {"layer": "features.0.2"}}, "weights.layer", "(ReLU6) has no weights of convolutions"),
        ("small", {"weights": {"layer": "features.0.1"}}, "weights.layer", "(BatchNorm2d) has no weights of"),
        (
            "small",
            {"weights": {"layer": "features.0.0", "channels": [0, 32]}},
            "weights.channels",
            "must be from 0 to 31, as features.0.0 has 32 channels; was 32",
        ),
        ("small", {"weights": {"layer": "features.0.0", "count": 257}}, "weights.count", "from 1 to 256, was 257"),
        ("small", {"weights": {"layer": "features.0.0", "inputs": 0}}, "weights.inputs", "from 1 to 64, was 0"),
        (
            "small",
            {"weights": {"layer": "features.0.0", "channels": [1], "count": 3}},
            "weights.count",
            "channels names some; set one of both",
        ),
        (
            "small",
            {"weights": {"layer": "features.0.0", "channels": [0] * 257}},
            "weights.channels",
            "must be at most 256, were 257",
        ),
        (
            "small",
            {"activations": {"layer": "classifier.1", "image": PHOTO}},
            "activations.layer",
            "classifier.1 has no spatial extent: its output is a vector of 1000; name a layer that gives a map",
        ),
        (
            "small",
            {"activations": {"layer": "features.0.0", "image": PHOTO}},
            "activations.layer",
            "features.0.0 is folded into features.0.1; use that name",
        ),
        ("small", {"activations": {"layer": LAYER}}, "activations.image", "no picture was sent"),
        (
            "small",
            {
                "activations": {
                    "layer": "features.2.conv.0.2",
                    "image": {"tensor": {"shape": [1024, 1024, 1], "dtype": 1, "data": bytes(1 << 20)}},
                    "preprocess": 3,
                    "channels": range(96),
                }
            },
            "activations.channels",
            "these channels have 96.0 MiB of numbers; at most 60 MiB are allowed; ask for fewer channels",
        ),
        (
            "small",
            {"activations": {"layer": LAYER, "image": PHOTO, "channels": [24]}},
            "activations.channels",
            "must be from 0 to 23, as features.3 has 24 channels; was 24",
        ),
        ("small", {"table": {"images": [PHOTO] * 513}}, "table.images", "must be 1 to 512, were 513"),
        (
            "small",
            {"table": {"images": [PHOTO], "labels": [1, 2]}},
            "table.labels",
            "one for each of the 1 images, were 2",
        ),
        ("small", {"table": {"images": [PHOTO], "labels": [1000]}}, "table.labels[0]", "must be below 1000, was 1000"),
        (
            "small",
            {"table": {"images": [PHOTO, picture(0, 32, 40)], "preprocess": 3}},
            "table.images[1]",
            "is 40x32 where table.images[0] is 64x64",
        ),
        ("small", {"receptive_field": {"layer": "nothing"}}, "receptive_field.layer", "small has no layer 'nothing'"),
        (
            "small",
            {"receptive_field": {"layer": LAYER, "channel": 24}},
            "receptive_field.channel",
            "must be from 0 to 23, as features.3 has 24 channels; was 24",
        ),
    ],
)
def test_what_is_wrong_is_told(stubs: Stubs, model: str, view: dict[str, Any], field: str, text: str) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        ask(stubs, model, **view)
    found = refused(caught.value)
    assert found.code == "INVALID_ARGUMENT"
    assert text in found.violations[field]


def test_another_precision_than_exact_does_not_apply(stubs: Stubs) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        ask(stubs, weights={"layer": "features.0.0"}, options={"precision": 3})
    assert refused(caught.value).code == "FAILED_PRECONDITION"


OTHERS = """
[models.grey]
builder = "own_networks:one_channel"
channels = 1
mean = [0.3]
std = [0.2]
height = 16
width = 16

[models.fine]
builder = "position_networks:fine"
labels = ["sky", "cat", "dog", "car"]
height = 32
width = 48

[models.vit]
builder = "small_vits:vit"
height = 32
width = 32
"""


@pytest.fixture(scope="module")
def others() -> Iterator[Stubs]:
    """Networks of grey pictures, of scores of positions, and of tokens."""
    with Server(OTHERS, "--workers", "1") as server, server.channel() as channel:
        yield Stubs.of(channel)
        assert "Traceback" not in server.log()


@pytest.mark.parametrize("model", ["grey", "fine", "vit"])
def test_every_view_of_other_networks(others: Stubs, model: str) -> None:
    image = picture(1, 32, 48)
    rows = ask(others, model, table={"images": [image, picture(2, 32, 48)]}).table.layers
    assert any(row.HasField("std") and row.std > 0 for row in rows)
    assert any(row.HasField("gradient_norm") for row in rows) == (model != "fine")
    card = others.models.GetModel(models_pb2.GetModelRequest(name=model), timeout=PATIENCE)
    layer = next(each for each in card.layers if each.height > 1)
    maps = ask(others, model, activations={"layer": layer.name, "image": image, "values": True}).activations
    assert values(maps.values).shape[1:] == (layer.height, layer.width)
    field = ask(others, model, receptive_field={"layer": layer.name}).receptive_field
    assert 0 < field.effective_size <= 2 * max(field.height, field.width)
    weighted = next(row for row in rows if row.parameters and row.multiply_adds)
    weights = ask(others, model, weights={"layer": weighted.name}).weights
    assert weights.look == (ix.WEIGHTS_LOOK_COLOUR if model != "grey" else ix.WEIGHTS_LOOK_MAPS)
    assert opened(weights.png).size


def test_labels_are_for_networks_with_one_score_for_each_picture(others: Stubs) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        ask(others, "fine", table={"images": [picture(1, 32, 48)], "labels": [1]})
    assert refused(caught.value).code == "FAILED_PRECONDITION"
