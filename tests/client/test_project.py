"""Project in the client and on the command line; the page with its map in a browser."""

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from gradserve import AsyncClient, Client, Projection
from gradserve.cli import main as cli
from gradserve.scatter import palette, sprites
from gradserve.v1 import common_pb2, project_pb2

from .fake import CLASSES, SIZE, FakeServer

PIXELS = np.zeros((2, SIZE, SIZE, 3), np.uint8)
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def test_a_map(server: FakeServer, client: Client, photo_path: Path) -> None:
    found = client.project(
        [photo_path, PIXELS[0]], layer="layer3", method="tsne", neighbours=4, points=6, preprocess="whole_image"
    )
    sent = server.requests[-1]
    assert (sent.layer, sent.method, sent.neighbours, sent.points) == ("layer3", 2, 4, 6)
    assert sent.thumbnails
    assert sent.preprocess == common_pb2.PREPROCESS_WHOLE_IMAGE
    assert sent.images[0].encoded == photo_path.read_bytes()
    assert isinstance(found, Projection)
    assert [(each.name, each.label_name, each.agreement) for each in found.pictures] == [
        ("photo.jpg", "goldfish", 0.75),
        ("2", "tabby cat", 0.75),
    ]
    assert found.pictures[0].picture().size == (80, 60)
    near = found.pictures[0].neighbours[1]
    assert (near.row, near.name, near.label, near.label_name, near.distance) == (1, "n1.png", 1, "tabby cat", 1.5)
    assert near.picture().size == (32, 24)  # type: ignore[union-attr]
    assert (len(found.points), found.points[5].label, found.total) == (6, 2, 600)
    assert [layer.accuracy for layer in found.layers] == [0.25, 0.5, 0.75]
    assert repr(found) == "<Projection of 2 pictures and 6 of 600 points: tsne of layer3, tiny>"


def test_without_pictures_labels_or_thumbnails(server: FakeServer, client: Client) -> None:
    found = client.project(layer="unlabelled", points=3, thumbnails=False)
    assert not server.requests[-1].images
    assert server.requests[-1].method == project_pb2.PROJECTION_METHOD_PCA
    assert (found.method, found.pictures, found.classes, found.separability_pictures) == ("pca", (), (), 0)
    assert all(each.label is None and each.picture() is None for each in found.points)
    assert all(each.accuracy is None for each in found.layers)


async def test_with_asyncio(server: FakeServer) -> None:
    async with AsyncClient(server.target) as client:
        assert len((await client.project(PIXELS)).pictures) == 2


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"method": "umap"}, "method must be one of pca, tsne; not 'umap'"),
        ({"neighbours": -1}, "neighbours must be a whole number from 0 on, not -1"),
        ({"point": 3}, "no argument of project 'point'; nearest: points"),
    ],
)
def test_what_makes_no_sense(client: Client, arguments: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        client.project(**arguments)


def test_what_is_saved(client: Client, tmp_path: Path) -> None:
    found = client.project(PIXELS, points=30)
    document = json.loads(found.save(tmp_path / "map.json").read_text())
    assert document == found.to_dict()
    assert len(document["points"]) == 30
    assert "thumbnail" not in document["points"][0]
    drawn = np.asarray(Image.open(found.save(tmp_path / "map.png")).convert("RGB"))
    for colour in palette.colours(3):
        wanted = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
        assert (np.abs(drawn.astype(int) - wanted).sum(-1) < 12).sum() > 100
    with pytest.raises(ValueError, match=r"map.gif: a map is saved as one of \.html, \.json, \.png"):
        found.save(tmp_path / "map.gif")
    assert Image.open(client.project().save(tmp_path / "empty.png")).size == (1220, 1000)


def test_the_page_stands_alone(client: Client, tmp_path: Path) -> None:
    text = client.project(PIXELS, points=30).save(tmp_path / "map.html").read_text()
    assert not re.findall(r"(?:src|href)\s*=\s*[\"'](?!data:)", text)
    assert not re.findall(r"https?://(?!www\.w3\.org)", text)
    assert "Separability: 10 nearest neighbours, over 600 pictures" in text
    assert "no curve of separability" in client.project(layer="unlabelled").save(tmp_path / "map.html").read_text()


def test_names_end_no_script(client: Client, tmp_path: Path) -> None:
    bad = tmp_path / "<script>alert(1)<!--.png"
    Image.new("RGB", (9, 9)).save(bad)
    text = client.project([bad]).save(tmp_path / "map.html").read_text()
    assert "alert(1)" in text
    assert "<script>alert" not in text


def test_many_small_pictures_are_one_sheet() -> None:
    red, blue = Image.new("RGB", (96, 48), "red"), Image.new("RGB", (20, 20), "blue")
    sheet = sprites.sheet([red, None, blue])
    assert (sheet.side, sheet.columns) == (64, 2)
    assert sprites.sheet([red] * 1001).side == 48
    assert sprites.sheet([red] * 5001).side == 32
    assert sprites.sheet([blue]).side == 20
    assert sprites.sheet([None]) == sprites.sheet([]) == sprites.Sheet("", 0, 0)


def test_classes_have_colours_of_their_own() -> None:
    assert [len(set(palette.colours(count))) for count in (0, 3, 10, 11, 100)] == [0, 3, 10, 11, 100]
    assert all(re.fullmatch("#[0-9a-f]{6}", each) for each in palette.colours(1000))


# In a browser


FRAME = """<body style="margin:0"><iframe src="{file}" style="width:{width}px;height:890px;border:0"></iframe><script>
addEventListener("message", event => {{
  document.documentElement.innerHTML = "<pre id=found></pre>";
  document.getElementById("found").textContent = event.data;
}});</script>"""


def browsed(page: Path, script: str, width: int = 1300) -> dict[str, Any]:
    """What the script returns in the page once it has loaded; it may be a promise.

    The page is in a frame of that width, since a window cannot be as narrow as a telephone.
    """
    asked = f"""<script>addEventListener("load", async () => {{
      parent.postMessage(JSON.stringify(await (async () => {{ {script} }})()), "*");
    }});</script>"""
    page.with_name("probe.html").write_text(page.read_text().replace("</body>", f"{asked}</body>"))
    frame = page.with_name("frame.html")
    frame.write_text(FRAME.format(file="probe.html", width=width))
    assert CHROMIUM is not None
    flags = ("--headless", "--no-sandbox", "--disable-gpu", "--window-size=1400,900", "--virtual-time-budget=20000")
    where = f"--user-data-dir={page.with_name('profile')}"
    command = [CHROMIUM, *flags, where, "--dump-dom", frame.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    found = re.search(r'<pre id="found">(.*?)</pre>', done.stdout, re.DOTALL)
    assert found, done.stdout[-2000:] + done.stderr[-2000:]
    return json.loads(html.unescape(found[1]))  # type: ignore[no-any-return]


WAIT = "await new Promise(done => setTimeout(done, 200));"
# Points at a picture, and tells what the card shows: its texts, and the colour in the middle of its small picture.
HOVER = """
canvas.setPointerCapture = () => {};  // There is no real pointer to capture.
const told = () => {
  const shown = !card.hidden && card.getBoundingClientRect().width > 0, small = document.getElementById("thumbnail");
  const [x, y] = [small.width >> 1, small.height >> 1];
  const middle = small.hidden ? null : [...small.getContext("2d").getImageData(x, y, 1, 1).data];
  return {shown, name: document.getElementById("name").textContent, class: document.getElementById("class").textContent,
    middle};
};
const hover = (each, type = "pointermove", pointerType = "mouse") => {
  const box = canvas.getBoundingClientRect();
  const where = {clientX: box.left + across(each) + 2, clientY: box.top + down(each) - 1};
  canvas.dispatchEvent(new PointerEvent(type, {...where, pointerId: 1, pointerType, bubbles: true}));
};
"""
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")


@pytest.fixture
def page(client: Client, tmp_path: Path) -> Path:
    return client.project(PIXELS, points=30).save(tmp_path / "map.html")


@needs_chromium
def test_a_picture_that_is_pointed_at_is_shown(page: Path) -> None:
    script = f"""{WAIT} {HOVER}
    const found = [];
    for (const i of [3, 4, 30]) {{ hover(all[i]); found.push(told()); }}
    canvas.dispatchEvent(new PointerEvent("pointermove", {{clientX: 1, clientY: 1, pointerType: "mouse"}}));
    found.push(told());
    return {{found}};"""
    first, second, sent, nothing = browsed(page, script)["found"]
    assert (first["shown"], first["name"], first["class"]) == (True, "p3.png", CLASSES[0])
    assert (second["name"], second["class"]) == ("p4.png", CLASSES[1])
    for found, colour in ((first, (255, 0, 0)), (second, (0, 255, 0)), (sent, (0, 0, 0))):
        assert np.abs(np.array(found["middle"][:3]) - colour).max() < 30
    assert (sent["name"], sent["class"]) == ("1", f"sent; by its neighbours: {CLASSES[0]} (75% of 10 neighbours)")
    assert not nothing["shown"]


@needs_chromium
def test_keys_and_taps_show_pictures_too(page: Path) -> None:
    script = f"""{WAIT} {HOVER}
    const press = key => canvas.dispatchEvent(new KeyboardEvent("keydown", {{key, bubbles: true}}));
    canvas.focus();
    const focused = told(), x = current && across(current);
    press("ArrowRight");
    const right = told(), moved = across(current) > x;
    press("Escape");
    const closed = told();
    hover(all[6], "pointerdown", "touch");
    return {{focused, right, moved, closed, tapped: told()}};"""
    found = browsed(page, script)
    assert found["focused"]["shown"]
    assert found["right"]["shown"]
    assert found["moved"]
    assert found["right"]["name"] != found["focused"]["name"]
    assert not found["closed"]["shown"]
    assert (found["tapped"]["shown"], found["tapped"]["name"]) == (True, "p6.png")


@needs_chromium
def test_classes_are_switched_off_and_on(page: Path) -> None:
    """Counted by the pixels of the class's colour, which is drawn over nothing else."""
    script = f"""{WAIT} {HOVER}
    const count = async () => {{
      {WAIT}
      draw();
      const [r, g, b] = [1, 3, 5].map(i => parseInt(data.colours[2].slice(i, i + 2), 16));
      const pixels = pen.getImageData(0, 0, canvas.width, canvas.height).data;
      let found = 0;
      for (let i = 0; i < pixels.length; i += 4)
        if (pixels[i + 3] > 100 && [r, g, b].every((each, k) => Math.abs(pixels[i + k] - each) < 25)) found++;
      return found;
    }};
    const names = [...legend.children].map(each => each.textContent);
    const before = await count();
    legend.children[4].click();
    const off = await count(), pressed = legend.children[4].getAttribute("aria-pressed");
    hover(all[5]);
    const hiddenOne = told();
    legend.children[4].click();
    return {{names, before, off, pressed, hiddenOne, after: await count()}};"""
    found = browsed(page, script)
    assert found["names"] == [
        "all classes",
        "sent pictures2",
        *(f"{name}1{i}" for name, i in zip(CLASSES, "110", strict=True)),
    ]
    assert found["before"] > 50
    assert (found["off"], found["pressed"]) == (0, "false")
    assert found["hiddenOne"]["name"] != "p5.png"
    assert found["after"] == found["before"]


@needs_chromium
@pytest.mark.parametrize("width", [1300, 390])
def test_wheel_and_drag_move_the_map_within_the_page(page: Path, width: int) -> None:
    script = f"""{WAIT} {HOVER}
    const box = canvas.getBoundingClientRect();
    const at = {{clientX: Math.round(box.left + 100), clientY: Math.round(box.top + 80)}};
    const place = () => [(at.clientX - box.left - left) / scale, (top_ - at.clientY + box.top) / scale];
    const before = place(), size = scale;
    canvas.dispatchEvent(new WheelEvent("wheel", {{...at, deltaY: -300, cancelable: true}}));
    const zoomed = scale / size, still = place();
    const [x, y] = [left, top_];
    const pointer = (type, dx) => canvas.dispatchEvent(new PointerEvent(type, {{clientX: at.clientX + dx,
      clientY: at.clientY, pointerId: 1, pointerType: "mouse"}}));
    pointer("pointerdown", 0);
    pointer("pointermove", 25);
    pointer("pointerup", 25);
    const wide = document.documentElement.scrollWidth - innerWidth;
    return {{before, still, zoomed, dragged: [left - x, top_ - y], wide, map: canvas.clientWidth,
      all: all.every(each => Number.isFinite(across(each)))}};"""
    found = browsed(page, script, width)
    assert found["zoomed"] > 1.3
    assert np.allclose(found["before"], found["still"])
    assert found["dragged"] == [25, 0]
    assert found["wide"] <= 0, "nothing is wider than the window"
    assert found["map"] > 0.6 * width
    assert found["all"]


# The command


def run(server: FakeServer, *words: object) -> int:
    with pytest.raises(SystemExit) as ended:
        cli(["project", *map(str, words), "--server", server.target])
    return int(ended.value.code or 0)


def test_the_command(server: FakeServer, photo_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "new" / "map.html"
    assert not run(server, photo_path, "--layer", "layer3", "--method", "tsne", "--neighbours", 3, "--out", out)
    sent = server.requests[-1]
    assert (sent.points, sent.neighbours, sent.thumbnails, sent.method) == (5000, 3, True, 2)
    told = capsys.readouterr().out
    for text in ("photo.jpg", "goldfish", "75%", "n0.png", "conv1", "75.0%", "33.0%", f"saved as {out}"):
        assert text in told
    assert out.stat().st_size > 10_000


def test_the_command_without_a_map(server: FakeServer, capsys: pytest.CaptureFixture[str]) -> None:
    assert not run(server, "--json")
    assert (server.requests[-1].points, server.requests[-1].thumbnails) == (0, False)
    assert json.loads(capsys.readouterr().out)["layers"][0]["accuracy"] == 0.25
    assert not run(server, "--layer", "unlabelled")
    assert "no separability: the index has no labels, or a single one" in capsys.readouterr().out


def test_the_command_refuses_other_files(server: FakeServer, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(server, "--out", "map.gif") == 2
    assert "--out is for a map, which is saved as one of .html, .json, .png, not map.gif" in capsys.readouterr().err
    assert not server.requests
