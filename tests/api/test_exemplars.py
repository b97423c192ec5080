"""Exemplars through a real server: what the index says, and what is wrong with a request or an index."""

import io
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import numpy as np
import pytest
from PIL import Image
from serving import PATIENCE, Server, Stubs, refused, values

from gradserve.v1 import common_pb2 as pb
from gradserve.v1 import exemplars_pb2 as ex
from gradserve.v1 import influence_pb2
from gradserve_server.api.errors import Violations
from gradserve_server.api.rpcs import exemplars
from gradserve_server.api.server import MAX_REPLY_BYTES
from gradserve_server.methods.indexes.examples import thumbnail
from gradserve_server.methods.pictures.exemplars import purity
from gradserve_server.methods.pictures.index import PictureIndex
from gradserve_server.models.catalogue import EMBEDDED, ModelSpec
from gradserve_server.models.embedded.digits.data import parts, pixels
from gradserve_server.models.loading import LoadError
from gradserve_server.offline import index as command
from gradserve_server.pool.startup import begin
from gradserve_server.pool.wire import WorkerSettings

NAMES = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
LAYERS = ["0.2", "0.5", "0.9", "1"]  # Of the index that `digits` has by default.


def ask(stubs: Stubs, **fields: Any) -> ex.ExemplarsResponse:
    request = ex.ExemplarsRequest(**{"model": "digits", **fields})
    return stubs.gradients.Exemplars(request, timeout=PATIENCE)  # type: ignore[no-any-return]


def features(stubs: Stubs, row: int, layer: str) -> np.ndarray:
    """What Embed gives for a training example, the largest value of each channel."""
    data = io.BytesIO()
    Image.fromarray(pixels(parts()[0])[row]).save(data, "PNG")
    image = pb.Image(encoded=data.getvalue())
    request = influence_pb2.EmbedRequest(model="digits", image=image, layer=layer, pooling="POOLING_MAX")
    return values(stubs.gradients.Embed(request, timeout=PATIENCE).features)


@pytest.mark.parametrize("layer", ["0.2", "0.9"])
def test_values_are_those_of_embed(stubs: Stubs, layer: str) -> None:
    """On the pictures of the spectrum, and those are in its order."""
    found = ask(stubs, layer=layer, count=3, spectrum=True)
    assert (found.layer, found.pictures, list(found.layers)) == (layer, 1437, LAYERS)
    labels = parts()[2]
    for channel in found.channels:
        for patches in (channel.exemplars, channel.spectrum):
            assert [patch.value for patch in patches] == sorted((patch.value for patch in patches), reverse=True)
            for patch in patches[::3]:
                truth = features(stubs, patch.row, layer)[channel.channel]
                assert patch.value == pytest.approx(truth, rel=1e-4, abs=1e-5)
                assert (patch.name, patch.label) == (str(patch.row), labels[patch.row])
                assert patch.label_name == NAMES[patch.label]
        assert channel.exemplars[0].row == channel.spectrum[0].row
        rows = np.array([patch.row for patch in channel.exemplars])
        assert channel.purity == pytest.approx(np.bincount(labels[rows]).max() / len(rows))


def test_patches_are_parts_of_the_pictures(stubs: Stubs) -> None:
    (channel,) = ask(stubs, layer="0.2", channels=[3]).channels
    all_pixels = pixels(parts()[0])
    for patch in channel.exemplars:
        truth = all_pixels[patch.row, patch.top : patch.top + patch.height, patch.left : patch.left + patch.width]
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(patch.picture)).convert("RGB")), truth)
        assert patch.left <= patch.x < patch.left + patch.width
        assert patch.top <= patch.y < patch.top + patch.height


def test_a_vector_has_no_places_and_sees_the_whole_picture(stubs: Stubs) -> None:
    found = ask(stubs, layer="1", top=2)
    assert (found.height, found.width) == (8, 8)
    for patch in (patch for channel in found.channels for patch in channel.exemplars):
        assert not patch.HasField("y")
        assert (patch.left, patch.top, patch.width, patch.height) == (0, 0, 8, 8)


def test_the_strongest_channels_of_the_last_layer_are_the_default(stubs: Stubs) -> None:
    found = ask(stubs, values=True)
    assert (found.layer, len(found.channels), len(found.channels[0].exemplars)) == ("1", 8, 9)
    largest = [channel.exemplars[0].value for channel in found.channels]
    assert largest == sorted(largest, reverse=True)
    means = values(found.values)
    assert means.shape == (8, 1437)
    everything = ask(stubs, count=64)
    assert sorted((c.exemplars[0].value for c in everything.channels), reverse=True)[:8] == largest
    assert means.max(1).tolist() == pytest.approx(largest)  # Of a vector the mean is the value itself.


def test_purity_by_hand() -> None:
    assert purity(np.array([3, 3, 1, 2])) == 0.5
    assert purity(np.array([0, 0])) == 1.0
    assert purity(np.array([0, -1])) is None


@pytest.mark.parametrize(
    ("fields", "field", "says"),
    [
        ({"layer": "0.3"}, "layer", "'0.3' is not in the index of pictures of digits, which has 0.2, 0.5, 0.9, 1"),
        ({"layer": "nothing"}, "layer", "which has 0.2, 0.5, 0.9, 1"),
        ({"layer": "0.2", "channels": [0, 24]}, "channels", "must be from 0 to 23, as 0.2 has 24 channels; was 24"),
        ({"channels": range(65)}, "channels", "must be at most 64, were 65"),
        ({"count": 0}, "count", "must be from 1 to 64, was 0"),
        ({"count": 2, "channels": [1]}, "count", "set one of both"),
        ({"top": 10}, "top", "must be from 1 to 9, as the index keeps no more; was 10"),
        ({"top": 0}, "top", "must be from 1 to 100, was 0"),
    ],
)
def test_what_is_wrong_is_said(stubs: Stubs, fields: dict[str, Any], field: str, says: str) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        ask(stubs, **fields)
    found = refused(caught.value)
    assert found.code == "INVALID_ARGUMENT"
    assert says in found.violations[field]


def test_a_model_without_an_index_says_how_to_build_one(stubs: Stubs) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        ask(stubs, model="small")
    found = refused(caught.value)
    assert found.code == "FAILED_PRECONDITION"
    assert "gradserve index --kind pictures --model small --data PICTURES --out FOLDER" in caught.value.details()


# Indexes of one's own


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixty digits without labels, indexed."""
    place = tmp_path_factory.mktemp("own")
    (place / "data").mkdir()
    for i, picture in enumerate(pixels(parts()[0])[:60]):
        Image.fromarray(picture).save(place / "data" / f"{i:02d}.png")
    words = ["--kind", "pictures", "--model", "digits", "--data", str(place / "data"), "--layers", "0.9, 0.2"]
    assert command.main([*words, "--out", str(place / "index"), "--top", "70", "--threads", "1"]) == 0
    return place / "index"


def test_pictures_without_labels(folder: Path) -> None:
    with Server(f'[models.digits]\nindex = "embedded"\npictures = "{folder}"') as server, server.channel() as channel:
        found = ask(Stubs.of(channel), layer="0.9", count=2, top=60)
    assert list(found.layers) == ["0.2", "0.9"]
    (first, _) = found.channels
    assert len(first.exemplars) == 60  # There are no more pictures, though 70 were asked for.
    assert sorted(patch.name for patch in first.exemplars) == [f"{i:02d}.png" for i in range(60)]
    assert not first.HasField("purity")
    assert not first.exemplars[0].HasField("label")


def test_no_more_channels_count_than_the_layer_has(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = PictureIndex(folder)
    card: Any = SimpleNamespace(name="digits", pictures="somewhere", pictures_digest="", listed=str)
    monkeypatch.setattr(exemplars, "opened", lambda *_: index)
    monkeypatch.setattr(exemplars, "model_of", lambda *_: (card, Violations()))
    request = ex.ExemplarsRequest(layer="0.2", count=64, top=60, spectrum=True)
    assert len(exemplars.bind(request, SimpleNamespace()).channels) == 24  # type: ignore[arg-type]


def test_the_most_values_and_patches_fit_into_a_reply() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (96, 96, 3), np.uint8)
    rest = 500  # Bytes of a patch besides, with a long name.
    patches = exemplars.MAX_PATCHES * (len(thumbnail(noise)) + rest)
    assert patches + exemplars.MAX_VALUE_BYTES < MAX_REPLY_BYTES


def served_with(folder: Path, **changes: Any) -> ModelSpec:
    return EMBEDDED["digits"].model_copy(update={"index": None, "pictures": folder, **changes})


def test_a_damaged_index_is_refused_at_the_start(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "it")
    file = tmp_path / "it" / "spectrum-1.bin"
    content = bytearray(file.read_bytes())
    content[7] ^= 1
    file.write_bytes(content)
    with pytest.raises(LoadError, match=r"spectrum-1\.bin is damaged; build the index again"):
        begin(WorkerSettings((served_with(tmp_path / "it"),), "cpu"))


def test_an_index_of_other_weights_is_refused_at_the_start(folder: Path) -> None:
    with pytest.raises(LoadError, match=r"is of weights .* build it again: gradserve index --kind pictures"):
        begin(WorkerSettings((served_with(folder, weights="random"),), "cpu"))


def test_no_index_there_is_refused_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(LoadError, match=r"there is no manifest\.json; `gradserve index` builds one"):
        begin(WorkerSettings((served_with(tmp_path),), "cpu"))
