"""Inspect in the client and on the command line."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from gradserve import Activations, AsyncClient, Client, LayerTable, ReceptiveField, Weights
from gradserve.cli import main as cli
from gradserve.v1 import common_pb2, inspect_pb2

from .fake import SIZE, FakeServer
from .fake_inspect import VALUES

PIXELS = np.zeros((3, SIZE, SIZE, 3), np.uint8)


def test_weights(server: FakeServer, client: Client, tmp_path: Path) -> None:
    found = client.inspect("weights", "conv1", channels=[5, 1], inputs=2, common_scale=True, values=True)
    sent = server.requests[-1].weights
    assert (sent.layer, list(sent.channels), sent.inputs, sent.common_scale) == ("conv1", [5, 1], 2, True)
    assert not sent.HasField("count")
    assert isinstance(found, Weights)
    assert (found.look, found.channels, found.norms, found.folded) == ("maps", (5, 1), (2.0, 1.0), "bn1")
    assert found.inputs == ((2, 0), (1, 2))
    assert np.array_equal(found.values, VALUES)  # type: ignore[arg-type]
    assert repr(found) == "<Weights of conv1: 2 of 8 x 3 x 3 x 3 as maps, tiny>"
    assert Image.open(found.save(tmp_path / "w.png")).size == (16, 8)
    assert Image.open(found.save(tmp_path / "w.jpg")).format == "JPEG"
    with np.load(found.save(tmp_path / "w.npz")) as saved:
        assert np.array_equal(saved["values"], VALUES)
        assert json.loads(str(saved["metadata"]))["channels"] == [5, 1]
    with pytest.raises(ValueError, match="there are no numbers; ask for them by values=True"):
        client.inspect("weights", "conv1").save(tmp_path / "w.npz")


def test_activations(server: FakeServer, client: Client, photo_path: Path) -> None:
    found = client.inspect("activations", "layer1", photo_path, count=2, order="max", preprocess="whole_image")
    sent = server.requests[-1].activations
    assert (sent.count, sent.order, sent.values) == (2, inspect_pb2.CHANNEL_ORDER_MAX, False)
    assert sent.preprocess == common_pb2.PREPROCESS_WHOLE_IMAGE
    assert sent.image.encoded == photo_path.read_bytes()
    assert isinstance(found, Activations)
    assert (found.channels, found.means, found.maxima, found.values) == ((5, 1), (0.5, 0.25), (2.0, 1.0), None)
    assert found.region.image_width == 80
    assert repr(found) == "<Activations of layer1: 2 of 8 channels, tiny>"
    assert found.to_dict()["maxima"] == [2.0, 1.0]


def test_the_table(server: FakeServer, client: Client) -> None:
    bare = client.inspect("table")
    assert isinstance(bare, LayerTable)
    assert (len(bare), bare.pictures, bare.loss) == (2, 0, None)
    assert (bare["conv1"].parameters, bare[0].folded, bare["bn1"].mean) == (216, "bn1", None)
    assert (bare[0].bytes, bare.bytes) == (4 * 1152, 4 * 1584)
    with pytest.raises(KeyError, match="no layer 'conv2'"):
        bare["conv2"]
    full = client.inspect("table", images=PIXELS, labels=[0, 1, 2], model="tiny")
    sent = server.requests[-1].table
    assert (len(sent.images), list(sent.labels)) == (3, [0, 1, 2])
    assert (full.loss, full["bn1"].dead_share, full["bn1"].mean, full["bn1"].gradient_norm) == (0.5, 0.125, 0.0, 0.25)
    assert repr(full) == "<LayerTable of 2 layers: 999 parameters, 31,104 multiply-adds, 1,584 values, tiny>"
    assert full.to_dict()["layers"][1]["dead_share"] == 0.125


def test_receptive_fields(server: FakeServer, client: Client) -> None:
    found = client.inspect("receptive_field", "layer1", channel=0)
    assert server.requests[-1].receptive_field.HasField("channel")
    assert isinstance(found, ReceptiveField)
    assert (found.height, found.stride, found.offset, found.unit) == (7, (2, 2), (-3, -3), (6, 6))
    assert repr(found) == "<ReceptiveField of layer1: 7 x 7, effectively 4.5, tiny>"
    whole = client.inspect("receptive_field", "whole")
    assert (whole.stride, whole.offset) == ((None, None), (None, None))
    assert "at least 24 x 24, the whole picture" in repr(whole)
    assert not server.requests[-1].receptive_field.HasField("channel")


async def test_with_asyncio(server: FakeServer) -> None:
    async with AsyncClient(server.target) as client:
        assert (await client.inspect("weights", "conv1")).channels == (5, 1)
        assert (await client.inspect("table")).parameters == 999


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("wieghts", "conv1"), "no view 'wieghts'; nearest: weights"),
        (("weights",), "the view 'weights' needs the name of a layer"),
        (("table", "conv1"), "the view 'table' is of all layers"),
        (("activations", "conv1"), "the view 'activations' needs a picture"),
        (("weights", "conv1", PIXELS[0]), "the view 'weights' takes no single picture"),
        (
            ("weights", "conv1", None, {"chanels": [1]}),
            r"no argument of inspect\('weights'\) 'chanels'; nearest: channels",
        ),
        (("weights", "conv1", None, {"channels": [-1]}), "channels must be a whole number from 0 on, not -1"),
        (("activations", "conv1", PIXELS[0], {"order": "sum"}), "order must be one of max, mean; not 'sum'"),
    ],
)
def test_what_makes_no_sense(client: Client, arguments: tuple[Any, ...], text: str) -> None:
    *given, keywords = arguments if isinstance(arguments[-1], dict) else (*arguments, {})
    ask: Any = client.inspect
    with pytest.raises(ValueError, match=text):
        ask(*given, **keywords)


# The command


def run(server: FakeServer, *words: Any) -> int:
    with pytest.raises(SystemExit) as ended:
        cli(["inspect", *map(str, words), "--server", server.target])
    return ended.value.code  # type: ignore[return-value]


def test_the_command_saves_pictures(
    server: FakeServer,
    photo_path: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(server, "weights", "--layer", "conv1", "--count", 2) == 0
    assert (tmp_path / "weights-conv1.png").exists()
    printed = capsys.readouterr().out
    assert "without bn1, which the server computes as a part of conv1" in printed
    assert "2, 0" in printed
    out = tmp_path / "new" / "maps.npz"
    assert (
        run(server, "activations", photo_path, "--layer", "layer1", "--channel", 5, "--channel", 1, "--out", out) == 0
    )
    sent = server.requests[-1].activations
    assert (list(sent.channels), sent.values) == ([5, 1], True)
    assert out.exists()
    assert str(out) in capsys.readouterr().out.replace("\n", "")


def test_the_command_prints_tables(server: FakeServer, photo_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(server, "table", photo_path, photo_path, "--label", 0, "--label", 1) == 0
    assert list(server.requests[-1].table.labels) == [0, 1]
    printed = capsys.readouterr().out
    for text in ("tiny: 999 parameters, 31,104 multiply-adds, 1,584 values", "8 x 12 x 12", "12.5%", "mean loss 0.5"):
        assert text in printed
    assert run(server, "receptive-field", "--layer", "whole") == 0
    assert "at least 24 x 24 pixels: the whole picture, at every size that was tried" in capsys.readouterr().out
    assert run(server, "receptive-field", "--layer", "layer1", "--channel", 0, "--json") == 0
    assert server.requests[-1].receptive_field.HasField("channel")
    assert json.loads(capsys.readouterr().out)["stride"] == [2, 2]


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["filters"], "no view 'filters'"),
        (["weights"], "needs the name of a layer"),
        (["activations", "--layer", "x"], "activations are those of one photo, and 0 were given"),
        (["table", "--count", "3"], "no argument of inspect('table') 'count'"),
        (
            ["receptive-field", "--layer", "x", "--channel", "1", "--channel", "2"],
            "a receptive field takes one --channel",
        ),
        (["weights", __file__, "--layer", "x"], "weights takes no photo, and 1 were given"),
        (["table", "--out", "x.png"], "--out is for pictures, and table gives none"),
    ],
)
def test_words_that_make_no_sense(
    server: FakeServer, words: list[str], text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(server, *words) == 2
    assert text in capsys.readouterr().err.replace("\n", " ")
