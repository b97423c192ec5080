import json
import sys

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from gradserve import Method, Rank, Unit, cli
from gradserve.cli import parse

from . import fake
from .fake import METHODS, SIZE


@pytest.fixture
def run(server, capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("GRADSERVE_SERVER", server.target)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        with pytest.raises(SystemExit) as ended:
            cli.main([str(each) for each in arguments])
        captured = capsys.readouterr()
        return ended.value.code or 0, captured.out, captured.err

    return call


def test_predict(run, photo_path):
    code, out, _ = run("predict", photo_path, "--top-k", 2)
    assert code == 0
    assert "goldfish" in out
    assert "70.00%" in out


def test_predict_as_json(run, photo_path):
    code, out, err = run("predict", photo_path, photo_path, "--json")
    predictions = json.loads(out)["predictions"]
    assert [each["image"] for each in predictions] == [str(photo_path)] * 2
    assert predictions[0]["top"][0] == {"class_index": 0, "class_name": "goldfish", "probability": 0.7, "logit": 9.0}
    assert predictions[0]["provenance"]["model"] == "tiny"
    assert (code, err) == (0, "")


@pytest.mark.parametrize("command", [("predict",), ("explain", "--method", "gradient"), ("attack",), ("influence",)])
def test_a_quick_decode_is_asked_for(run, server, photo_path, command):
    name, *options = command
    for flags, asked in (((), False), (("--quick-decode",), True)):
        code, _, err = run(name, photo_path, *options, *flags)
        assert code == 0, err
        assert server.requests[-1].options.quick_decode == asked


def test_explain_as_in_the_readme(run, photo_path, tmp_path):
    code, out, _ = run(
        *("explain", photo_path, "--method", "smooth_grad", "--model", "tiny"),
        *("--out", tmp_path / "heat.png", "--save-map", tmp_path / "map.npy"),
    )
    assert code == 0
    assert "heat.png" in out
    assert Image.open(tmp_path / "heat.png").size == (240, 180)
    assert np.load(tmp_path / "map.npy").shape == (SIZE, SIZE)


def test_explain_without_out_saves_beside_you(run, photo_path, tmp_path):
    code, _, _ = run("explain", photo_path, "--method", "gradient", "--method", "grad_cam", "--picture", "heatmap")
    assert code == 0
    assert Image.open(tmp_path / "photo-gradient.png").size == (SIZE, SIZE)
    assert (tmp_path / "photo-grad_cam.png").exists()


def test_explain_several_photos_methods_and_targets(run, server, photo_path, tmp_path):
    code, out, _ = run(
        *("explain", photo_path, photo_path, "--method", "smooth_grad", "--method", "gradient"),
        *("--target", "tabby cat", "--target", "unit:features.0:3:1,2", "--param", "smooth_grad.samples=7"),
        *("--out", tmp_path / "maps", "--seed", 3, "--alone", "--json"),
    )
    found = json.loads(out)["explanations"]
    assert code == 0
    assert len(found) == 8
    assert len({each["picture"] for each in found}) == 8
    assert (tmp_path / "maps" / "photo-smooth_grad-tabby_cat.png").exists()
    assert found[0]["parameters"] == {"samples": 7}
    assert found[0]["map_size"] == [SIZE, SIZE]
    assert found[1]["target"] == {"layer": "features.0", "channel": 3, "y": 1, "x": 2}
    assert found[0]["provenance"]["seed"] == 3
    assert server.requests[0].options.seed == 3
    assert server.requests[0].options.alone


def test_explain_says_how_far_to_trust_each_map(run, server, photo_path, tmp_path):
    saved = ("--out", tmp_path / "maps", "--save-map", tmp_path / "map.npz", "--method", "gradient")
    code, out, _ = run("explain", photo_path, *saved, "--trust")
    assert code == 0
    assert "beats both chance and the middle of the picture" in out
    assert "insertion" not in out
    with np.load(tmp_path / "map.npz") as file:
        assert json.loads(str(file["metadata"]))["trust"]["verdict"] == "beats_both"
    assert (server.requests[-1].trust, server.requests[-1].curves) == (True, False)
    assert "insertion 0.500, deletion 0.375" in run("explain", photo_path, *saved, "--curves")[1]
    assert (server.requests[-1].trust, server.requests[-1].curves) == (True, True)
    found = json.loads(run("explain", photo_path, *saved, "--curves", "--json")[1])["explanations"][0]["trust"]
    assert (found["agreement"], found["curves"]["insertion"]) == (0.5, [0.0, 0.5, 1.0])
    assert "beats both" not in run("explain", photo_path, *saved)[1]


def test_warnings_go_to_standard_error(run, photo_path):
    _, out, err = run("explain", photo_path, "--method", "guided_backprop")
    assert "PARTIALLY_GUIDED" in err
    assert "PARTIALLY_GUIDED" not in out


@pytest.mark.parametrize("form", [[], ["--json"]])
@pytest.mark.parametrize(
    "command",
    [
        ["predict", "PHOTO", "PHOTO"],
        ["explain", "PHOTO", "--out", "map.png"],
        ["attack", "PHOTO", "--out", "adversarial.png"],
        ["maximize", "--target", "goldfish", "--out", "made.png"],
        ["stylize", "PHOTO", "--style", "PHOTO", "--out", "made.png"],
        ["influence", "PHOTO"],
        ["suspects"],
        ["exemplars"],
        ["project", "PHOTO"],
    ],
    ids=lambda command: command[0],
)
def test_every_command_shows_the_warnings_of_its_answers_once(run, photo_path, command, form):
    arguments = [photo_path if word == "PHOTO" else word for word in command]
    code, out, err = run(*arguments, "--model", fake.DOUBTFUL, *form)
    assert code == 0, err
    assert err.count("warning: DOUBTFUL: made up") == 1
    assert ("DOUBTFUL" in out) == bool(form)


def test_warnings_name_the_map_where_there_are_several(run, photo_path):
    _, out, err = run("explain", photo_path, "--method", "gradient", "--method", "guided_backprop", "--out", "maps")
    assert "photo.jpg, guided_backprop of goldfish: PARTIALLY_GUIDED" in err
    assert "done" not in out, "all is done"
    assert " 46%" in run("explain", photo_path, "--allow-partial", "--out", "maps")[1]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--method", "smoothgrad"], "nearest: smooth_grad"),
        (["--param", "layers=x"], "nearest: layer"),
        (["--param", "layer"], "write NAME=VALUE"),
        (["--method", "gradient", "--method", "grad_cam", "--param", "layer=x"], "write METHOD.layer=x"),
        (["--target", "unit:x"], "write unit:LAYER:CHANNEL"),
        (["--target", "0", "--target", "1", "--out", "heat.png"], "give a folder"),
        (["--picture", "both"], "must be one of overlay, heatmap, cutout; not 'both'"),
        (["--picture", "cutout", "--out", "object.jpg"], "give a file in .png, .webp"),
        (["--restart"], "--restart is for a folder"),
        (["--priority", "urgent"], "must be one of interactive, batch; not 'urgent'"),
        (["--no-such-option"], "--no-such-option"),
    ],
)
def test_arguments_that_make_no_sense_exit_with_2(run, photo_path, arguments, says):
    code, out, err = run("explain", photo_path, *arguments)
    assert code == 2
    assert says in err
    assert out == ""


def test_errors_of_the_server_exit_with_1(run, photo_path):
    code, out, err = run("predict", photo_path, "--model", "invalid", "--json")
    assert code == 1
    assert out == ""
    assert err.splitlines()[:3] == [
        "error: invalid request",
        "  methods[0].smooth_grad.samples: 1 to 2000, not 0",
        "  preprocess: one of 1 to 3",
    ]
    assert str(photo_path) in err


def test_no_server(run, photo_path):
    code, _, err = run("models", "--server", "127.0.0.1:1")
    assert code == 1
    assert err.startswith("error: nobody listens on 127.0.0.1:1: `gradserve serve` starts a server")


def test_a_server_that_says_why_is_not_looked_for(run, photo_path):
    code, _, err = run("predict", photo_path, "--model", "down:99")
    assert code == 1
    assert "error: the server is starting" in err
    assert "listen" not in err


@pytest.mark.parametrize("command", ["predict", "explain"])
def test_one_bad_file_does_not_hide_what_was_done_before(run, photo_path, tmp_path, command):
    bad = tmp_path / "bad.png"
    bad.write_text("not a picture")
    code, out, err = run(command, photo_path, bad, photo_path)
    assert code == 1
    assert photo_path.name in out
    assert f"{bad}" in err


def test_a_missing_file_exits_with_2(run):
    code, _, err = run("predict", "none.jpg")
    assert code == 2
    assert "none.jpg" in err


def test_models(run):
    code, out, _ = run("models")
    assert code == 0
    assert "tiny" in out
    assert "deconvnet" in out
    assert "tiny (default)" in out
    plain = json.loads(run("models", "--json")[1])
    assert [each["name"] for each in plain["models"]] == ["tiny", "digits"]
    assert plain["default_model"] == "tiny"


def test_one_model(run):
    code, out, _ = run("models", "tiny")
    assert code == 0
    assert "features.0" in out
    assert "does not apply" in out
    assert json.loads(run("models", "tiny", "--json")[1])["layers"][0]["name"] == "features.0"
    code, _, err = run("models", "tinny")
    assert code == 1
    assert "nearest: tiny" in err


def test_the_token_is_sent(run, photo_path, monkeypatch):
    assert run("predict", photo_path, "--model", "secret")[0] == 1
    monkeypatch.setenv("GRADSERVE_TOKEN", "open sesame")
    assert run("predict", photo_path, "--model", "secret")[0] == 0


def test_serve_without_the_server_says_how_to_install_it(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "gradserve_server.__main__", None)
    code, _, err = run("serve", "--port", "0")
    assert code == 1
    assert "pip install 'gradserve[server]'" in err


def test_serve_passes_all_its_arguments_on(run, monkeypatch):
    passed = []
    main = type(sys)("gradserve_server.__main__")
    main.main = lambda arguments: passed.extend(arguments) or 3
    monkeypatch.setitem(sys.modules, "gradserve_server", type(sys)("gradserve_server"))
    monkeypatch.setitem(sys.modules, "gradserve_server.__main__", main)
    assert run("serve", "--model", "digits", "--help", "-p", "0")[0] == 3
    assert passed == ["--model", "digits", "--help", "-p", "0"]


@pytest.mark.parametrize("command", ["predict", "explain", "models"])
def test_help_has_an_example(command):
    done = CliRunner().invoke(cli.app, [command, "--help"], env={"COLUMNS": "200"})
    assert done.exit_code == 0
    assert f"gradserve {command}" in done.output
    assert "Example" in done.output


def test_help_names_every_method():
    done = CliRunner().invoke(cli.app, ["explain", "--help"], env={"COLUMNS": "300"})
    assert all(method in done.output for method in METHODS)


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("3", 3),
        ("tabby cat", "tabby cat"),
        ("rank:2", Rank(2)),
        ("rank: the film", "rank: the film"),
        ("unit:layer4.1:17", Unit("layer4.1", 17)),
        ("unit:layer4.1:17:3,5", Unit("layer4.1", 17, 3, 5)),
    ],
)
def test_targets(text, target):
    assert parse.target(text) == target


def test_parameters_find_their_methods():
    found = parse.methods(["smooth_grad", "grad_cam"], ["smooth_grad.samples=25", "grad_cam.signed=true"])
    assert found == [Method("smooth_grad", samples=25), Method("grad_cam", signed=True)]
    with pytest.raises(ValueError, match="no method among those asked for"):
        parse.methods(["gradient"], ["grad_cam.signed=true"])


def test_names_with_brackets_are_no_markup(run, photo_path, monkeypatch):
    monkeypatch.setattr(fake, "CLASSES", ["[red]fish", "b", "c"])
    assert "[red]fish" in run("predict", photo_path)[1]


def test_health_is_an_exit_code(run, server):
    assert run("health")[:2] == run("health", "--token", "open sesame")[:2] == (0, "SERVING\n")
    assert run("health", "--wait", "9")[:2] == (0, "SERVING\n")
    server.health = b"\x08\x02"
    code, _, err = run("health", "--wait", "0.3")
    assert code == 1
    assert "NOT_SERVING" in err
    code, out, _ = run("health", "--json")
    assert (code, json.loads(out)) == (1, {"state": "NOT_SERVING"})


def test_a_layer_may_be_named_with_its_call():
    assert parse.target("unit:layer1.0.relu:0:17:3,5") == Unit("layer1.0.relu:0", 17, 3, 5)
    assert parse.target("unit:layer1.0.relu:0:17") == Unit("layer1.0.relu:0", 17)


def test_an_object_is_cut_out(run, photo_path, tmp_path):
    code, _, err = run("explain", photo_path, "--method", "gradient", "--picture", "cutout", "--out", "object.png")
    assert code == 0, err
    with Image.open(tmp_path / "object.png") as cut:
        assert cut.mode == "RGBA"
        assert cut.size == (80, 30)
    code, out, _ = run("explain", photo_path, "--method", "gradient", "--segment", "--json")
    [found] = json.loads(out)["explanations"]
    assert found["segment"]["box"] == [0, 30, 80, 60]
    assert found["segment"]["share"] == 0.5


def test_no_object_is_cut_out(run, photo_path, tmp_path):
    methods = "--method", "occlusion", "--method", "gradient"
    asked = "explain", photo_path, *methods, "--picture", "cutout", "--out", "maps"
    code, out, err = run(*asked)
    assert code == 0, err
    assert out.count("no object to cut out") == 1
    assert "NO_SEGMENT" in err
    assert [path.name for path in (tmp_path / "maps").iterdir()] == [f"{photo_path.stem}-gradient.png"]
    pictures = [each["picture"] for each in json.loads(run(*asked, "--json")[1])["explanations"]]
    assert pictures == [None, f"maps/{photo_path.stem}-gradient.png"]
