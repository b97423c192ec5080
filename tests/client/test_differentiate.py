"""Differentiate, contrasts and similarities in the client and on the command line."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gradserve
from gradserve import AsyncClient, Client, Contrast, Goal, Rank, Similarity, Unit
from gradserve.cli import main as cli
from gradserve.cli import parse
from gradserve.messages.common import target_message
from gradserve.v1 import differentiate_pb2

from .fake import CLASSES, SIZE, FakeServer
from .fake_differentiate import gradient

PIXELS = np.zeros((3, SIZE, SIZE, 3), np.uint8)
ROUNDING = {"float32": 0.0, "bfloat16": 2**-7, "float16": 2**-11}  # The tests' server cuts bfloat16 off.


@pytest.mark.parametrize("form", ROUNDING)
def test_small_gradients_arrive_in_every_format(server: FakeServer, client: Client, form: str) -> None:
    found = client.differentiate(PIXELS, "goldfish", format=form)
    expected = gradient(server.requests[-1], SIZE)
    assert found.gradient is not None
    assert found.gradient.dtype == np.float32
    assert found.gradient.shape == (3, SIZE, SIZE, 3)
    assert 1e-12 < found.gradient.max() < 6e-8
    assert (np.abs(found.gradient - expected) <= ROUNDING[form] * np.abs(expected)).all()
    assert found.values.tolist() == [0, 1, 2]
    assert found.logits is not None
    assert found.logits.shape == (3, len(CLASSES))
    assert [region.width for region in found.regions] == [SIZE] * 3
    assert repr(found) == f"<Gradients of 3: values [0.0, 1.0, 2.0], gradient 3 x {SIZE} x {SIZE} x 3, tiny>"


def test_what_is_sent(server: FakeServer, client: Client, photo_path: Path) -> None:
    client.differentiate(photo_path)
    sent = server.requests[-1]
    assert len(sent.images) == 1
    assert not sent.goals
    assert sent.preprocess == gradserve.v1.common_pb2.PREPROCESS_AS_IS  # type: ignore[attr-defined]
    goals = [Goal(1) - 0.5 * Goal(Unit("features.0", 3)), Goal.logits([0.0, 1.0, -1.0])]
    client.differentiate([photo_path, PIXELS[0]], goals, layer="features.0", rule="guided", preprocess="whole_image")
    sent = server.requests[-1]
    assert [len(each.summands) for each in sent.goals] == [2, 1]
    assert sent.goals[0].summands[1].weight == -0.5
    assert np.frombuffer(sent.goals[1].summands[0].logits.data, "<f4").tolist() == [0.0, 1.0, -1.0]
    assert (sent.rule, sent.layer) == (differentiate_pb2.BACKWARD_RULE_GUIDED, "features.0")


def test_forward_only(client: Client) -> None:
    found = client.differentiate(PIXELS, forward_only=True)
    assert found.gradient is None
    assert len(found) == 3


async def test_with_asyncio(server: FakeServer) -> None:
    async with AsyncClient(server.target) as client:
        found = await client.differentiate(PIXELS, 1, layer="features.0")
    assert found.gradient is not None
    assert found.gradient.shape == (3, 4)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (
            {"rule": "guidd"},
            "rule must be one of deconvnet, guided, lrp_epsilon, lrp_gamma, lrp_z_plus, plain; not 'guidd'",
        ),
        ({"fromat": "float16"}, "no argument of differentiate 'fromat'; nearest: format"),
        ({"goal": 1}, "no argument of differentiate 'goal'; nearest: goals"),
        ({"format": "fp16"}, "format must be one of bfloat16, float16, float32; not 'fp16'"),
        (
            {"goals": 1.5},
            "a target is a class's index or name, a Rank, a Unit, a Contrast, a Similarity or a Direction, not 1.5",
        ),
    ],
)
def test_what_makes_no_sense(client: Client, arguments: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        client.differentiate(PIXELS, **arguments)


# Targets

TABBY, CAT = "tabby", "tiger cat"


def test_contrasts_as_messages() -> None:
    message = target_message(Contrast(TABBY, CAT, Rank(3))).contrast
    assert [term.weight for term in message.terms] == [1.0, -0.5, -0.5]
    assert [term.target.WhichOneof("kind") for term in message.terms] == ["class_name", "class_name", "rank"]
    assert not message.HasField("others_of_top")
    message = target_message(Contrast(TABBY, top=5)).contrast
    assert ([term.weight for term in message.terms], message.others_of_top) == ([1.0], 5)
    message = target_message(Contrast.sum((281, 2), (Unit("a", 1), -0.25))).contrast
    assert [term.weight for term in message.terms] == [2.0, -0.25]


def test_similarities_as_messages(photo_path: Path) -> None:
    message = target_message(Similarity(photo_path, "features.0", "as_is")).similarity
    assert message.image.encoded == photo_path.read_bytes()
    assert (message.layer, message.preprocess) == ("features.0", gradserve.v1.common_pb2.PREPROCESS_AS_IS)  # type: ignore[attr-defined]


def test_a_contrast_needs_another(client: Client) -> None:
    with pytest.raises(ValueError, match="names what the target is contrasted with, or top=5"):
        Contrast(TABBY)
    with pytest.raises(ValueError, match="a similarity needs the other picture"):
        target_message(Similarity(None, "features.0"))


def test_explanations_of_contrasts_and_similarities(client: Client, photo_path: Path) -> None:
    targets = [Contrast("goldfish", "espresso"), Similarity(photo_path)]
    contrast, similarity = client.explain(photo_path, "gradient", target=targets)
    assert contrast.target == Contrast.sum((0, 1), (2, -1))
    assert isinstance(similarity.target, Similarity)
    assert (similarity.target.image, similarity.target.layer) == (None, "features.0")


def test_the_maps_of_an_attack_have_a_target(server: FakeServer, client: Client, photo_path: Path) -> None:
    client.attack(photo_path, maps="gradient", maps_target=Contrast(0, 1))
    assert [term.weight for term in server.requests[-1].maps_target.contrast.terms] == [1.0, -1.0]


def test_the_command_of_an_attack_has_a_target_of_maps(server: FakeServer, photo_path: Path, tmp_path: Path) -> None:
    words = ["attack", photo_path, "--server", server.target, "--out", tmp_path / "adversarial.png"]
    assert run(*words, "--maps", "gradient", "--maps-target", "espresso - goldfish") == 0
    terms = server.requests[-1].maps_target.contrast.terms
    assert [(term.target.class_name, term.weight) for term in terms] == [("espresso", 1.0), ("goldfish", -1.0)]


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("tabby - tiger cat", Contrast.sum((TABBY, 1), (CAT, -1))),
        ("281 + 0.5 * tiger cat - rank:2", Contrast.sum((281, 1), (CAT, 0.5), (Rank(2), -1))),
        (
            "tabby - 1/3*unit:layer1.0.relu:0:7:1,2",
            Contrast.sum((TABBY, 1), (Unit("layer1.0.relu:0", 7, 1, 2), -1 / 3)),
        ),
        ("tabby - top:5", Contrast.sum((TABBY, 1), top=5)),
        ("tabby - 0.5 * tiger cat - top:5", Contrast.sum((TABBY, 1), (CAT, -0.5), top=5)),
        ("2 * tabby", Contrast.sum((TABBY, 2))),
        ("jack-o'-lantern", "jack-o'-lantern"),
        ("tabby", "tabby"),
    ],
)
def test_targets_of_the_command_line(text: str, target: Any) -> None:
    assert parse.target(text) == target


@pytest.mark.parametrize("text", ["tabby + top:5", "tabby - top:five", "tabby - 2 * top:5"])
def test_a_top_that_makes_no_sense(text: str) -> None:
    with pytest.raises(ValueError, match="write TARGET - top:5"):
        parse.target(text)


def test_similarities_of_the_command_line() -> None:
    target = parse.target("like:other:photo.jpg@layer1.0.relu:0")
    assert isinstance(target, Similarity)
    assert (target.image, target.layer) == (Path("other:photo.jpg"), "layer1.0.relu:0")


# The command


def run(*words: Any) -> int:
    with pytest.raises(SystemExit) as ended:
        cli(list(map(str, words)))
    return ended.value.code  # type: ignore[return-value]


def test_the_command_saves_numbers(
    server: FakeServer, photo_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "gradients.npz"
    words = ["differentiate", photo_path, photo_path, "--server", server.target, "--out", out]
    assert run(*words, "--target", "goldfish - espresso", "--format", "float16", "--json") == 0
    sent = server.requests[-1]
    assert [term.weight for term in sent.goals[0].summands[0].target.contrast.terms] == [1.0, -1.0]
    assert sent.preprocess == gradserve.v1.common_pb2.PREPROCESS_MODEL_DEFAULT  # type: ignore[attr-defined]
    with np.load(out) as saved:
        assert saved["gradient"].shape == (2, SIZE, SIZE, 3)
        assert saved["values"].tolist() == [0, 1]
        assert saved["logits"].shape == (2, len(CLASSES))
    printed = json.loads(capsys.readouterr().out)
    assert printed["shape"] == [2, SIZE, SIZE, 3]
    assert [each["value"] for each in printed["gradients"]] == [0, 1]


def test_the_command_prints_a_table(
    server: FakeServer, photo_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save(tmp_path / "vector.npy", np.array([1.0, 0.0, -1.0]))
    words = ["differentiate", photo_path, "--server", server.target, "--out", tmp_path / "gradients.npz"]
    assert run(*words, "--vector", tmp_path / "vector.npy", "--layer", "features.0") == 0
    vector = server.requests[-1].goals[0].summands[0].logits
    assert np.frombuffer(vector.data, "<f4").tolist() == [1.0, 0.0, -1.0]
    printed = capsys.readouterr().out
    assert "photo.jpg" in printed
    assert "3e-12" in printed
    assert run(*words, "--vector", tmp_path / "vector.npy", "--target", "goldfish") == 2
    assert "--vector and --target both say what is differentiated" in capsys.readouterr().err
