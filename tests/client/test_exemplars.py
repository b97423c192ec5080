"""Exemplars in the client and on the command line."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from gradserve import AsyncClient, Client
from gradserve.cli import drawing
from gradserve.cli import main as cli

from .fake import FakeServer
from .fake_exemplars import PICTURES


def test_the_call(server: FakeServer, client: Client, tmp_path: Path) -> None:
    found = client.exemplars("layer1", channels=[3, 1], top=2, spectrum=True, values=True, model="tiny")
    sent = server.requests[-1]
    assert (sent.layer, list(sent.channels), sent.top, sent.spectrum, sent.values) == ("layer1", [3, 1], 2, True, True)
    assert not sent.HasField("count")
    assert [each.channel for each in found] == [3, 1]
    assert (found.pictures, found.layers, found.size) == (PICTURES, ("layer1", "layer2"), (24, 24))
    first, second = found[3].exemplars
    assert (first.value, first.name, first.label_name, first.place) == (2.5, "0.png", "cat", (3, 0))
    assert (second.left, second.top, second.width, second.height) == (4, 0, 8, 6)
    assert first.image.size == (8, 6)
    assert (found[3].purity, len(found[3].spectrum)) == (0.5, 2)
    assert repr(found) == "<Exemplars of layer1, channels 3, 1: 7 pictures, tiny>"
    with np.load(found.save(tmp_path / "e.npz")) as saved:
        assert saved["values"].shape == (2, PICTURES)
        assert json.loads(str(saved["metadata"]))["channels"][0]["exemplars"][1]["label_name"] == "dog"
    with pytest.raises(KeyError, match="no channel 9; asked for were 3, 1"):
        found[9]


def test_what_is_missing_is_none(server: FakeServer, client: Client, tmp_path: Path) -> None:
    found = client.exemplars(count=2)
    assert server.requests[-1].count == 2
    assert not server.requests[-1].HasField("top")
    assert (len(found), found.values, found[5].spectrum) == (2, None, ())
    with pytest.raises(ValueError, match="there are no numbers; ask for them by values=True"):
        found.save(tmp_path / "e.npz")
    assert client.exemplars("vector")[5].exemplars[0].place is None
    unlabelled = client.exemplars("unlabelled")
    assert (unlabelled[5].purity, unlabelled[5].exemplars[0].label) == (None, None)


async def test_for_asyncio(server: FakeServer) -> None:
    async with AsyncClient(server.target) as client:
        assert (await client.exemplars("layer1")).layer == "layer1"


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"chanels": [1]}, r"no argument of exemplars 'chanels'; nearest: channels"),
        ({"channels": [-1]}, "channels"),
        ({"count": 1.5}, "count"),
    ],
)
def test_what_makes_no_sense(client: Client, arguments: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        client.exemplars("layer1", **arguments)


def test_a_sheet_has_a_row_for_each_channel(client: Client) -> None:
    found = client.exemplars(count=2, spectrum=True)
    bare, wide = drawing.exemplars(client.exemplars(count=2)), drawing.exemplars(found)
    full = drawing.exemplars(found, [Image.new("RGB", (8, 8), "red")] * 2)
    assert bare.height == wide.height == full.height
    assert bare.width < wide.width < full.width
    pixels = np.asarray(full).astype(int)
    red = (pixels[..., 0] > 200) & (pixels[..., 1:].max(2) < 50)
    assert red.any(1).sum() == 2 * 112
    assert not (np.asarray(wide)[..., 0].astype(int) - np.asarray(wide)[..., 1] > 150).any()


def run(server: FakeServer, *words: Any) -> int:
    with pytest.raises(SystemExit) as ended:
        cli(["exemplars", *map(str, words), "--server", server.target])
    return ended.value.code  # type: ignore[return-value]


def test_the_command(server: FakeServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "new" / "sheet.png"
    words = ["--layer", "layer1", "--channel", 3, "--channel", 1, "--spectrum", "--maximize", "--out", out]
    assert run(server, *words) == 0
    printed = capsys.readouterr().out
    assert "layer1  (tiny, 7 pictures)" in printed
    assert "1 cat, 1 dog" in printed
    assert "50%" in printed
    with Image.open(out) as sheet:
        assert sheet.width > 7 * 112
    made = [request for request in server.requests if hasattr(request, "goals")]
    assert [each.goals[0].summands[0].target.unit.channel for each in made] == [3, 1]


def test_the_command_gives_numbers(server: FakeServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(server, "--count", 2, "--out", tmp_path / "e.npz") == 0
    assert server.requests[-1].values
    assert run(server, "--layer", "unlabelled", "--json") == 0
    text = capsys.readouterr().out
    found = json.loads(text[text.index("{") :])
    assert found["channels"][0]["exemplars"][0]["name"] == "0.png"
    assert found["channels"][0]["purity"] is None
    assert "picture" not in found["channels"][0]["exemplars"][0]


def test_maximize_needs_a_file_for_its_pictures(
    server: FakeServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for words in (["--maximize"], ["--maximize", "--out", tmp_path / "e.npz"]):
        assert run(server, *words) == 2
        assert "--maximize draws pictures: name a file for them by --out" in capsys.readouterr().err.replace("\n", " ")


@pytest.mark.parametrize("name", ["sheet", "sheet.xyz"])
def test_a_file_of_no_known_kind_is_refused_before_anything_is_asked(
    server: FakeServer, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    asked = len(server.requests)
    assert run(server, "--maximize", "--out", tmp_path / name) == 2
    text = " ".join(capsys.readouterr().err.split())
    assert f"--out is for a picture (.png, .jpg, .jpeg, .webp) or for the numbers (.npz), not {name}" in text
    assert len(server.requests) == asked
