import json
import re
from contextlib import nullcontext
from dataclasses import replace
from importlib.util import find_spec

import numpy as np
import pytest
from PIL import Image

from gradserve import FailedPrecondition, GradserveError, cli, images
from gradserve.cli import options
from gradserve.cli.demo import command, explaining, local_server, samples
from gradserve.cli.demo import page as demo_page
from gradserve.cli.demo.session import Chapter, DemoRequest, Row, Session
from gradserve.messages import inputs
from gradserve.robustness import page

from .fake import METHODS

ATTACKS = ["fgsm", "pgd", "pgd in L2", "sphere", "square", "attacked by pgd", "fog"]
TITLES = [
    "One photo, six answers",
    "Why?",
    "Can it be fooled?",
    "What does it look for?",
    "What is inside?",
    "Does it know stripes?",
    "Another style",
    "Which examples?",
]
needs_pictures = pytest.mark.skipif(
    not (find_spec("skimage") and find_spec("sklearn")), reason="the photos of scikit-image and scikit-learn are shown"
)
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


def test_the_demos_own_server_is_asked_without_tls_and_token(server, photo, tmp_path, monkeypatch):
    monkeypatch.setattr(local_server, "launched", lambda *_: nullcontext(server.target))
    monkeypatch.delenv("GRADSERVE_SERVER", raising=False)
    monkeypatch.setenv("GRADSERVE_TLS", "1")
    monkeypatch.setenv("GRADSERVE_TOKEN", "secret")
    with command.Serving().client(options.Connection(), 10, tmp_path / "log") as client:
        assert client.predict(photo).top
    assert "authorization" not in server.metadata


@needs_pictures
def test_the_demo_shows_every_method(server, capsys, tmp_path):
    with pytest.raises(SystemExit, match="0"):
        cli.main(["demo", "--server", server.target, "--out", str(tmp_path), "--json"])
    printed = capsys.readouterr()
    done = json.loads(printed.out)["done"]
    assert f"{len(done)} of {len(done)} requests are done" in printed.err
    asked = [deed["asked"] for deed in done]
    tables = asked.count("inspect weights")  # The first layer's name is asked for before.
    assert len(done) + tables == len([each for each in server.requests if getattr(each, "model", "")]) < 62
    assert {deed["model"] for deed in done} == {"tiny", "digits"}
    for what in (
        *METHODS,
        *ATTACKS,
        "predict",
        "DeepDream",
        "maximize goldfish",
        "stylize: coffee",
        "influence",
        "inspect activations",
    ):
        assert what in asked
    html = (tmp_path / "index.html").read_text()
    assert re.findall("<h2>(.*)</h2>", html) == TITLES
    assert html.count("Does not apply to this model: deconvnet: the model has no ReLU") == 1
    assert "PARTIALLY_GUIDED" in html
    assert 'class="mark bad">wrong: this is a cat' in html  # The fake server says goldfish to everything.
    assert not re.search(r'(src|href)="(?!data:|#)|url\(|@import', html)  # The page refers to nothing outside the file.


@needs_pictures
def test_a_model_of_ones_own_gets_a_row_and_the_small_ones_none(client):
    card = client.model("tiny")
    cards = [replace(card, name=name) for name in ("tiny", "mine", "cifar10", "cifar10-robust")]
    chapters = command._chapters(card, cards)
    requests = [request for chapter in chapters for row in chapter.rows for request in row.requests]
    assert {request.model for request in requests} == {"tiny", "mine", "cifar10"}
    assert [request.what for request in requests if request.model == "cifar10"] == ["inspect weights"]
    assert [request.what for request in requests if request.model == "mine"] == [
        "predict",
        "grad_cam",
        "attacked by pgd",
    ]


@needs_pictures
def test_the_model_of_photos_is_preferred_to_the_default(client):
    card = client.model("tiny")
    chapters = command._chapters(card, [card, replace(card, name="imagenet")])
    assert {request.model for request in chapters[0].rows[0].requests} == {"imagenet"}


@needs_pictures
def test_a_picture_of_two_things_is_asked_for_one_rather_than_the_other(client):
    card = client.model("tiny")
    (row,) = [row for row in explaining.chapter(card).rows if row.title == "One picture, two things"]
    assert [request.what for request in row.requests] == [
        "predict",
        "lrp of one thing rather than the other",
        "grad_cam of one thing rather than the other",
        "dense: tabby cat and espresso",
    ]
    figures = row.requests[1].draw(row.requests[1].call(client))
    assert len(figures) == 3
    sent = images.opened(inputs.message(samples.stacked(*samples.photos("cat", "coffee")).data))
    assert sent.size == (448, 448)
    assert not explaining._two_things(replace(card, classes=("espresso", "dog")))


def test_every_method_has_a_sentence():
    assert sorted(explaining.SENTENCES) == sorted(METHODS)


def test_progress_inside_a_request_is_reported_and_adds_up_to_its_weight(client):
    goals, reports = ["goldfish"], []
    request = DemoRequest(
        "tiny", "noise", "maximize", lambda client: client.maximize_stream(goals, model="tiny"), lambda _: [], weight=3
    )
    refused = DemoRequest("tiny", "x", "refuses", lambda client: refuse(), lambda _: [], weight=2)
    demo = Session(client, lambda what, weight: reports.append((what, weight)))
    demo.run([Chapter("Why?", "", [Row([request, refused])])])
    assert [weight for what, weight in reports if what == "maximize: noise"] == pytest.approx([0, 1, 1, 1])
    assert sum(weight for _, weight in reports) == pytest.approx(5)


def refuse():
    raise FailedPrecondition("no")


@pytest.mark.parametrize(("name", "mark"), [("dog", "wrong: this is a dog"), ("cat", "right")])
def test_a_prediction_is_called_right_or_wrong(client, name, mark):
    card = replace(client.model("tiny"), classes=("cat", "dog"))
    picture = samples.SamplePicture("rex", b"", f"a {name}" if name == "dog" else "a cat", (name,))
    assert explaining.verdict(card, picture, "cat").text == mark
    stranger = samples.SamplePicture("it", b"", "a bear", ("bear",))
    assert explaining.verdict(card, stranger, "cat").text == "wrong: this is a bear, for which it has no class"


def test_the_demos_page_escapes_what_it_shows():
    evil = "<b a=\"c\" d='e'>"
    picture = Image.fromarray(np.eye(8, dtype=np.uint8) * 255)
    figure = demo_page.Figure(
        evil, [picture, Image.new("RGB", (1000, 500))], evil, evil, demo_page.Mark(evil, "good"), [(evil, 0.5)], [evil]
    )
    section = demo_page.Section(evil, evil, [demo_page.Grid([figure], evil, evil)], ["sign"])
    html = demo_page.html(evil, evil, [section], evil)
    assert "<b " not in html
    assert html.count("&lt;b a=") == 17  # Every text above, the title and the name of each picture come twice.
    assert html.count('class="crisp"') == 1


def test_a_page_escapes_what_it_shows():
    small = Image.fromarray(np.eye(8, dtype=np.uint8) * 255)
    large = Image.new("RGB", (1000, 500))
    figure = page.Figure("<b>", [small, large], value="<i>", facts=["<u>"], warnings=["<s>"])
    html = page.html("<t>", "<l>", [page.Section("<h>", "<d>", [page.Story("<n>", small, [("<c>", 0.5)], [figure])])])
    assert not re.search(r"<(b|i|u|s|t|l|h|d|n|c)>", html.replace("<b>&lt;", "").replace("<i style", ""))
    assert html.count('class="crisp"') == 2
    assert html.count("image/jpeg") == 1


@needs_pictures
def test_photos_are_found_on_disk_only():
    found = samples.photos("cat", "astronaut", "coffee", "rocket", "flower", "temple")
    assert [picture.name for picture in found] == ["cat", "astronaut", "coffee", "rocket", "flower", "temple"]
    assert all(min(picture.open().size) > 200 for picture in found)
    assert [picture.open().size for picture in samples.digits()] == [(8, 8)] * 2
