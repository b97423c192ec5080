"""Pictures that say themselves that they are a model's input, and the command that judges them."""

import shlex

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from gradserve import Client, cli
from gradserve.cli import command_lines, marks
from gradserve.cli.options import Connection
from gradserve.v1 import common_pb2

from .fake_attack import BEFORE, CHANGE, png

DEFAULT, WHOLE, AS_IS = (
    common_pb2.PREPROCESS_MODEL_DEFAULT,
    common_pb2.PREPROCESS_WHOLE_IMAGE,
    common_pb2.PREPROCESS_AS_IS,
)


@pytest.fixture
def run(server, capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("GRADSERVE_SERVER", server.target)
    monkeypatch.setenv("COLUMNS", "60")  # It is narrower than the commands that are printed.
    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        with pytest.raises(SystemExit) as ended:
            cli.main([str(each) for each in arguments])
        captured = capsys.readouterr()
        assert not ended.value.code, captured.err
        return captured.out, captured.err

    return call


@pytest.fixture
def marked(tmp_path):
    return marks.save(png(BEFORE + CHANGE), tmp_path / "marked.png")


def test_the_mark_changes_no_pixel(marked):
    assert np.array_equal(np.asarray(Image.open(marked)), BEFORE + CHANGE)
    assert Image.open(marked).text == {"gradserve:preprocess": "as_is"}
    assert marks.is_marked(marked)


def test_what_has_no_mark(tmp_path, photo_path):
    plain, other, broken = (tmp_path / name for name in ("plain.png", "other.png", "broken.png"))
    plain.write_bytes(png(BEFORE))
    text = PngImagePlugin.PngInfo()
    text.add_text(marks.KEY, "sideways")
    Image.fromarray(BEFORE).save(other, pnginfo=text)
    broken.write_bytes(png(BEFORE)[:20])
    assert not any(map(marks.is_marked, (plain, other, broken, photo_path)))


def test_attack_marks_its_pictures_and_prints_the_command_that_judges_them(run, server, photo_path, tmp_path):
    out, _ = run("attack", photo_path, "--out", "an adv.png")
    assert marks.is_marked(tmp_path / "an adv.png")
    assert np.array_equal(np.asarray(Image.open(tmp_path / "an adv.png")), BEFORE + CHANGE)
    (line,) = (line for line in out.splitlines() if line.startswith("judge it: gradserve predict"))
    program, *words = shlex.split(line.removeprefix("judge it: "))
    assert program == "gradserve"
    run(*words)
    request = server.requests[-1]
    assert (request.preprocess, request.options.precision, request.model) == (AS_IS, common_pb2.PRECISION_EXACT, "tiny")
    assert request.image.encoded == (tmp_path / "an adv.png").read_bytes()


def test_a_defended_model_is_judged_without_its_defence(run, photo_path):
    for options, what in (((), "judge it: "), (("--defence", "jpeg"), "judge it without the defence: ")):
        assert f"\n{what}gradserve predict" in run("attack", photo_path, *options)[0]


def test_json_of_attack_stays_alone(run, photo_path):
    assert "judge it" not in run("attack", photo_path, "--json")[0]


def test_predict_reads_the_mark_and_says_so(run, server, marked, photo_path):
    out, err = run("predict", photo_path, marked, photo_path)
    assert [request.preprocess for request in server.requests] == [DEFAULT, AS_IS, DEFAULT]
    assert err == "marked.png: used as_is, as the file says; --preprocess overrules it\n"
    assert [line.split()[0] for line in out.splitlines() if "(tiny)" in line] == [
        "photo.jpg",
        "marked.png",
        "photo.jpg",
    ]


def test_an_option_that_is_given_wins(run, server, marked):
    _, err = run("predict", marked, "--preprocess", "whole_image")
    assert (server.requests[-1].preprocess, err) == (WHOLE, "")
    run("predict", marked, "--preprocess", "model_default")
    assert server.requests[-1].preprocess == DEFAULT


def test_only_predict_of_the_command_line_reads_it(run, server, marked):
    run("explain", marked)
    assert server.requests[-1].preprocess == DEFAULT
    with Client(server.target, timeout=10) as client:
        client.predict(marked)
    assert server.requests[-1].preprocess == DEFAULT


def test_one_maximized_picture_is_marked_and_a_sheet_is_not(run, tmp_path):
    run("maximize", "-t", "goldfish", "--out", "one.png")
    run("maximize", "-t", "goldfish", "-t", "espresso", "--out", "two.png")
    assert marks.is_marked(tmp_path / "one.png")
    assert not marks.is_marked(tmp_path / "two.png")


def test_the_command_names_what_the_server_needs(tmp_path, monkeypatch):
    monkeypatch.delenv("GRADSERVE_TOKEN", raising=False)
    there = Connection("grpcs://example.org:7", ca=tmp_path / "ca.pem", token="secret")
    command = command_lines.judge([tmp_path / "a b.png"], "net", there)
    assert "secret" not in command
    assert shlex.split(command)[2:] == [
        *(str(tmp_path / "a b.png"), "--model", "net", "--preprocess", "as_is", "--precision", "exact"),
        *("--server", "grpcs://example.org:7", "--ca", str(tmp_path / "ca.pem"), "--token", "$GRADSERVE_TOKEN"),
    ]
    monkeypatch.setenv("GRADSERVE_TOKEN", "secret")
    assert "--token" not in command_lines.judge([tmp_path / "a.png"], "net", Connection(token="secret"))
    assert "--server" not in command_lines.judge([tmp_path / "a.png"], "net", Connection())
