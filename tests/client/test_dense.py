"""Dense in the client: the request, the result, its pictures and files."""

import json

import numpy as np
import pytest
from PIL import Image

import gradserve
from gradserve import colours
from gradserve.cli import main
from gradserve.messages.dense import dense_request
from gradserve.results.dense import Grid
from gradserve.v1 import dense_pb2

from . import fake

PHOTO = np.full((24, 40, 3), 128, np.uint8)


@pytest.fixture
def server():
    server = fake.FakeServer()
    server.server.start()
    yield server
    server.server.stop(None)


def test_the_request():
    request = dense_request(PHOTO, ["cat", 3, gradserve.Rank(2)], model="m", size=(80, 48), tile=32, priority="batch")
    assert [each.WhichOneof("kind") for each in request.targets] == ["class_name", "class_index", "rank"]
    assert (request.model, request.size.width, request.size.height, request.tile) == ("m", 80, 48, 32)
    assert dense_request(PHOTO, None) == dense_pb2.DenseRequest(image=request.image, options={"priority": 1})
    assert len(dense_request(PHOTO, 3).targets) == 1
    for wrong in ({"tile": -1}, {"size": 1.5}, {"tiles": 3}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            dense_request(PHOTO, None, **wrong)


def test_maps_of_classes(server, tmp_path):
    with gradserve.Client(server.target) as client:
        found = client.dense(PHOTO, [0, 1])
    assert [each.score.class_index for each in found] == [0, 1]
    assert (len(found), found.tiles, found[1].cell, found[1].largest) == (2, 2, (1, 1), pytest.approx(0.9))
    assert found[1].probabilities[1, 1] == pytest.approx(0.9)
    assert found[0].image.HasField("tensor")
    overlay = found[1].overlay()
    assert overlay.size == (40, 24)
    colour = np.asarray(overlay).astype(int)
    lit = np.abs(colour - colour[..., :1]).sum(-1)  # Where it is not grey.
    # The cell in row 1, column 1 lies around pixel 6, 6 of 12 x 20, which is 12, 12 of the photo.
    y, x = np.unravel_index(lit.argmax(), lit.shape)
    assert abs(y - 12) <= 3
    assert abs(x - 12) <= 3
    assert found.sheet().width > overlay.width
    found.save(tmp_path / "maps.npz")
    with np.load(tmp_path / "maps.npz") as file:
        assert file["logits"].shape == file["probabilities"].shape == (2, 3, 5)
        assert json.loads(str(file["metadata"]))["tiles"] == 2
    with pytest.raises(ValueError, match="npz"):
        found.save(tmp_path / "maps.png")
    Image.open(found[0].save(tmp_path / "map.png")).load()
    assert "DenseMap" in repr(found)


def test_the_command_saves_classes_of_one_name_beside_each_other(server, tmp_path, monkeypatch):
    """ImageNet has two cranes."""
    monkeypatch.setenv("GRADSERVE_SERVER", server.target)
    monkeypatch.chdir(tmp_path)
    Image.fromarray(PHOTO).save("photo.png")
    with pytest.raises(SystemExit) as ended:
        main(["dense", "photo.png", "-t", "0", "-t", "0", "-t", "1", "--out", "new.maps/map.png"])
    assert not ended.value.code
    names = ["map-goldfish-2.png", "map-goldfish.png", "map-tabby_cat.png"]
    assert sorted(path.name for path in (tmp_path / "new.maps").iterdir()) == names


def test_strong_colour_stands_for_a_probability_of_one(server):
    with gradserve.Client(server.target) as client:
        found = client.dense(PHOTO, 0)
    low = np.full((24, 40), 0.05)
    faint = gradserve.images.overlay(found[0].original(), low, (0, 0, 40, 24), largest=1.0)
    strong = gradserve.images.overlay(found[0].original(), low, (0, 0, 40, 24), largest=0.05)
    spread = [np.ptp(np.asarray(each).astype(int), axis=-1).max() for each in (faint, strong)]
    assert spread[0] < spread[1]
    assert colours.coloured(np.array([[1.0]]), signed=False).shape == (1, 1, 3)


def test_cells_lie_where_the_grid_says():
    grid = Grid(stride=4, offset=2.0, height=12, width=20)
    values = np.arange(15, dtype=np.float32).reshape(3, 5)
    over = grid.over(values, 20, 12)
    assert over.shape == (12, 20)
    # Pixels 1 and 2 of 20 lie left and right of the first cell's middle, pixel 5 and 6 about the second's.
    assert over[5:7, 5:7].mean() == pytest.approx(values[1, 1])
    assert over[0, 0] == values[0, 0]
    assert over[-1, -1] == values[-1, -1]
    twice = grid.over(values, 40, 24)
    assert twice[10:14, 10:14].mean() == pytest.approx(values[1, 1])
