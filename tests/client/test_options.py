"""What the command line offers: names to choose from, completion, the version; and what its sheets say."""

import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import typer
from PIL import Image, ImageFont
from typer.testing import CliRunner

import gradserve
from gradserve import cli, images
from gradserve.cli import drawing, output
from gradserve.messages import fields
from gradserve.messages.attack import ATTACK_METHOD
from gradserve.messages.explain import EXPLAIN_METHOD
from gradserve.messages.influence import INFLUENCE_METHOD
from gradserve.v1 import attack_pb2, common_pb2, influence_pb2, inspect_pb2, maximize_pb2, project_pb2

from . import fake

EXPLANATIONS, ATTACKS = fields.names(EXPLAIN_METHOD), fields.names(ATTACK_METHOD)
COMMANDS: dict[str, Any] = typer.main.get_command(cli.app).commands
# By option, and by command where commands differ: what it takes.
CHOICES: dict[tuple[str, str], list[str]] = {
    ("*", "preprocess"): list(fields.choices(common_pb2.Preprocess.DESCRIPTOR)),
    ("*", "priority"): list(fields.choices(common_pb2.Priority.DESCRIPTOR)),
    ("*", "precision"): list(fields.choices(common_pb2.Precision.DESCRIPTOR)),
    ("*", "norm"): list(fields.choices(attack_pb2.Norm.DESCRIPTOR)),
    ("*", "loss"): list(fields.choices(attack_pb2.Loss.DESCRIPTOR)),
    ("*", "maps"): EXPLANATIONS,
    ("*", "picture"): ["overlay", "heatmap", "cutout"],
    ("*", "colormap"): ["inferno", "magma", "plasma", "viridis", "gray", "RdBu_r"],
    ("*", "preset"): list(fields.choices(maximize_pb2.MaximizePreset.DESCRIPTOR)),
    ("*", "goal"): list(fields.choices(influence_pb2.InfluenceGoal.DESCRIPTOR)),
    ("suspects", "order"): list(fields.choices(influence_pb2.SuspectOrder.DESCRIPTOR)),
    ("inspect", "order"): list(fields.choices(inspect_pb2.ChannelOrder.DESCRIPTOR)),
    ("*", "attack"): [*ATTACKS, "none"],
    ("*", "corruption"): [*fields.choices(attack_pb2.CorruptionKind.DESCRIPTOR), "all"],
    ("explain", "method"): EXPLANATIONS,
    ("attack", "method"): ATTACKS,
    ("project", "method"): list(fields.choices(project_pb2.ProjectionMethod.DESCRIPTOR)),
    ("influence", "method"): fields.names(INFLUENCE_METHOD),
}
OPTIONS = [
    pytest.param(command, option, names, id=f"{command}-{option.name}")
    for command, each in COMMANDS.items()
    for option in each.params
    for (only, name), names in CHOICES.items()
    if option.name == name and only in ("*", command)
]


@pytest.mark.parametrize(("command", "option", "names"), OPTIONS)
def test_choices_are_listed_in_help_errors_and_completion(command, option, names):
    listed = re.findall(r"\w+", option.help)
    assert [name for name in names if name not in listed] == []
    context = typer.Context(COMMANDS[command])
    assert option.shell_complete(context, names[0])[0].value == names[0]
    given = COMMANDS[command].make_parser(context).parse_args([option.opts[0], "nonesuch"])[0]
    with pytest.raises(Exception, match=f"must be one of {', '.join(names)}; not 'nonesuch'"):
        option.handle_parse_result(context, given, [])


def test_every_table_of_choices_has_an_option():
    assert len({(option.values[0], option.values[1].name) for option in OPTIONS}) == len(OPTIONS)
    assert {name for _, name in CHOICES} == {option.values[1].name for option in OPTIONS}


def test_the_version():
    done = CliRunner().invoke(cli.app, ["--version"])
    assert (done.exit_code, done.output) == (0, f"gradserve {gradserve.__version__}\n")


@pytest.mark.parametrize(
    ("words", "place", "offered"),
    [
        ("gradserve pred", 1, "predict"),
        ("gradserve explain --method smo", 3, "smooth_grad"),
        ("gradserve attack --no", 2, "--norm"),
        ("gradserve robustness --corruption fo", 3, "fog"),
    ],
)
def test_completion(monkeypatch, capfd, words, place, offered):
    monkeypatch.setenv("_GRADSERVE_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", words)
    monkeypatch.setenv("COMP_CWORD", str(place))
    with pytest.raises(SystemExit) as ended:
        cli.main([])
    assert not ended.value.code
    assert capfd.readouterr().out.split() == [offered]


@pytest.mark.parametrize("disagreement", [0.5, 0.6])
def test_suspects_say_when_nothing_stands_out(server, monkeypatch, capsys, disagreement):
    made = fake._example
    monkeypatch.setattr(fake, "_example", lambda row, **facts: made(row, disagreement=disagreement, **facts))
    with pytest.raises(SystemExit) as ended:
        cli.main(["suspects", "--top", "3", "--server", server.target])
    assert not ended.value.code
    assert ("Nothing stands out" in capsys.readouterr().out) == (disagreement == 0.5)


def test_names_on_sheets_fit():
    font = ImageFont.load_default(12)
    assert images.fitting("tabby", 100, font) == "tabby"
    cut = images.fitting("a very long name of a class", 60, font)
    assert cut.startswith("a ver")
    assert cut.endswith("...")
    assert font.getlength(cut) <= 60


def test_a_sheet_has_the_names_below_its_pictures():
    red = Image.new("RGB", (80, 60), "red")
    pixels = np.asarray(images.sheet([red, red, red], ["tabby", "", "horse"]))
    assert pixels.shape == (2 * (60 + 16) + 4, 2 * 80 + 4, 3)
    assert (pixels[:60, :80] == (255, 0, 0)).all()
    assert (pixels[61:76, :80] < 100).any()
    assert (pixels[61:76, 84:] == 255).all()
    assert (pixels[80 + 61 :, :80] < 100).any()


def test_the_seconds_of_a_request_are_shown_to_who_watches(monkeypatch, capsys):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    assert list(output.progress(["answer"], 1, "attack")) == ["answer"]
    assert "attack 0:00:00" in re.sub(r"\x1b\[[^m]*m", "", capsys.readouterr().err)


def test_nothing_is_shown_to_a_file(capsys):
    assert list(output.progress(["answer"], 1, "attack")) == ["answer"]
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(("predicted", "red"), [("goldfish", False), ("espresso", True)])
def test_a_suspect_is_red_where_it_is_predicted_wrong(client, predicted, red):
    (example,) = client.suspects(top=1)
    pixels = np.asarray(drawing.suspects([replace(example, predicted_name=predicted)])).astype(int)
    assert ((pixels[..., 0] > 150) & (pixels[..., 1] < 80)).any() == red
