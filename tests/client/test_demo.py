import json
import re

import numpy as np
import pytest
from PIL import Image

from gradserve import GradserveError, cli
from gradserve.cli import page
from gradserve.cli.demo import local_server, samples

from .fake import METHODS

ATTACKS = ["fgsm", "pgd", "pgd to the least likely class", "pgd, eps 0.5 in L2", "square", "one_pixel"]
STUB = """
import sys, time
print("metrics on 127.0.0.1:9", *sys.argv[1:], flush=True)
{then}
"""


@pytest.fixture
def stub(tmp_path, monkeypatch):
    """A gradserve_server that does as it is told."""
    package = tmp_path / "stub" / "gradserve_server"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    monkeypatch.setenv("PYTHONPATH", str(package.parent), prepend=":")

    def write(then):
        (package / "__main__.py").write_text(STUB.format(then=then))
        return tmp_path / "server.log"

    return write


def test_a_launched_server_gives_its_address_and_is_stopped(stub):
    log = stub("print('gradserve ready on 127.0.0.1:4711', flush=True); time.sleep(60)")
    with local_server.launched(["--model", "digits"], log, timeout=20) as address:
        assert address == "127.0.0.1:4711"


def test_a_server_that_dies_tells_its_last_words(stub):
    log = stub("sys.exit('no such model')")
    with (
        pytest.raises(GradserveError, match=r"ended with 1(?s:.*)no such model"),
        local_server.launched([], log, timeout=20),
    ):
        pass


def test_a_server_that_never_is_ready(stub):
    log = stub("time.sleep(60)")
    with pytest.raises(GradserveError, match="not ready within"), local_server.launched([], log, timeout=0.3):
        pass


def test_the_demo_shows_every_method(server, capsys, tmp_path):
    pytest.importorskip("sklearn", reason="its digits are shown")
    pytest.importorskip("skimage", reason="its photos are shown")
    with pytest.raises(SystemExit, match="0"):
        cli.main(["demo", "--server", server.target, "--out", str(tmp_path), "--pictures", "1", "--json"])
    printed = capsys.readouterr()
    done = json.loads(printed.out)["done"]
    assert f"{len(done)} of {len(done)} requests are done" in printed.err
    for model in ("tiny", "digits"):
        asked = [deed["asked"] for deed in done if deed["model"] == model]
        assert asked[: len(METHODS) + 1] == ["predict", *METHODS]
        assert asked[-2 - len(ATTACKS)] == "smooth_grad, 3 targets"
        assert asked[-1 - len(ATTACKS) :] == [*ATTACKS, "maximize 3 classes"]
    html = (tmp_path / "index.html").read_text()
    assert html.count("<figure>") == 2 * (len(METHODS) + 3 + len(ATTACKS) + 3 + 2)
    assert html.count("does not apply to this model: deconvnet: the model has no ReLU") == 2
    assert "PARTIALLY_GUIDED" in html
    assert not re.search(r'(src|href)="(?!data:|#)', html)  # nothing outside the file


def test_a_page_escapes_what_it_shows():
    small = Image.fromarray(np.eye(8, dtype=np.uint8) * 255)
    large = Image.new("RGB", (1000, 500))
    figure = page.Figure("<b>", [small, large], value="<i>", facts=["<u>"], warnings=["<s>"], refusal="<p1>")
    html = page.html(
        "<t>", "<l>", [page.Section("<h>", "<d>", [page.Story("<n>", small, [("<c>", 0.5)], ["<f>"], [figure])])]
    )
    assert not re.search(r"<(b|i|u|s|p1|t|l|h|d|n|c|f)>", html.replace("<b>&lt;", "").replace("<i style", ""))
    assert html.count('class="crisp"') == 2
    assert html.count("image/jpeg") == 1


def test_photos_are_found_on_disk_only():
    pytest.importorskip("skimage")
    pytest.importorskip("sklearn")
    card = type("Card", (), {"name": "any"})()
    found = samples.pictures(card, 6)
    assert [picture.name for picture in found] == ["cat", "astronaut", "coffee", "rocket", "flower", "temple"]
    assert all(min(picture.open().size) > 200 for picture in found)
    digits = samples.pictures(type("Card", (), {"name": "digits"})(), 4)
    assert [picture.open().size for picture in digits] == [(8, 8)] * 4
