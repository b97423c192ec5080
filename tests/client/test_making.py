"""Maximize and Stylize from the caller's side: goals, streams, results, and the commands."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

import gradserve
from gradserve import AsyncClient, Goal, Rank, Unit, cli
from gradserve.arguments import MaximizeArguments, Options, StylizeArguments
from gradserve.cli import drawing
from gradserve.cli.commands.maximize import dream_layer
from gradserve.results.models import Layer
from gradserve.v1 import maximize_pb2, progress_pb2, stylize_pb2

OTHERS = {"layout", "image", "model", "preset", "size", "snapshots", "style_layers", "content_layers"}


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


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(MaximizeArguments, maximize_pb2.MaximizeSettings), (StylizeArguments, stylize_pb2.StylizeSettings)],
)
def test_the_arguments_are_the_contracts_settings(arguments, message):
    typed = arguments.__annotations__.keys() - Options.__annotations__.keys() - OTHERS
    assert typed == {field.name for field in message.DESCRIPTOR.fields}


def test_goals_add_and_subtract():
    goal = 2 * (Goal("cat") - 0.5 * Goal(Unit("a", 3))) + Goal.layer("b") - Goal.direction("c", [1, 2])
    weights = [each.weight if each.HasField("weight") else 1.0 for each in goal.summands]
    assert weights == [2, -1, 1, -1]
    assert [each.WhichOneof("kind") for each in goal.summands] == ["target", "target", "layer", "direction"]
    assert goal.summands[1].target.unit.layer == "a"
    assert list(goal.summands[3].direction.vector) == [1, 2]
    assert Goal(Rank(2)).summands[0].target.rank == 2


def test_one_goal_gives_one_picture_and_a_list_a_sheet(client, server, photo):
    one = client.maximize("goldfish", size=30, steps=5, image=photo, preset="lecture", snapshots=[0])
    assert isinstance(one, gradserve.MaximizedImage)
    assert one.image.size == (30, 30)
    assert one.image.getpixel((0, 0)) == (255, 0, 0)
    assert one.display.getpixel((0, 0)) == (128, 128, 128)
    assert list(one.snapshots) == [0]
    assert one.curves["objective"].tolist() == [1, 2, 4]
    assert one.settings["rate"] == 0.05
    assert repr(one) == "<MaximizedImage goldfish = 4, goldfish 98.0%: 30 x 30, lecture, 3 steps, tiny>"
    request = server.requests[-1]
    assert (request.settings.steps, request.size.longer) == (5, 30)
    assert request.HasField("image")
    several = client.maximize([0, Goal.layer("features.0")], size=(40, 20), allow_partial=True)
    assert isinstance(several, gradserve.MaximizedImages)
    assert len(several) == 2
    assert several[0].completed_fraction == pytest.approx(2 / 3)
    assert several.sheet().size == (72 + 4 + 72, 72 + 16)  # It is three times as large, over a line with the name.
    assert (server.requests[-1].size.width, server.requests[-1].size.height) == (40, 20)


def test_styles_come_with_weights(client, server, photo):
    found = client.stylize(
        photo, [(photo, 2.0), photo], optimizer="lbfgs", style_layers={"pixels": 1, "a": 2.5}, size=30
    )
    request = server.requests[-1]
    assert [style.weight for style in request.styles] == [2, 1]
    assert request.settings.optimizer == progress_pb2.OPTIMIZER_LBFGS
    assert found.style_layers == {"pixels": 1, "a": 2.5}
    assert found.losses == {"style": 0.1, "content": 0.3}
    assert found.completed_fraction == 1
    assert "style 1 -> 0.1" in repr(found)
    client.stylize(None, photo, content_layers=["a"])
    assert not server.requests[-1].HasField("content")
    assert server.requests[-1].content_layers[0].weight == 1
    with pytest.raises(ValueError, match="no parameter of settings 'stepps'"):
        client.stylize(photo, photo, stepps=3)


def test_streams_end_with_the_result(client, photo):
    *reports, result = client.maximize_stream("goldfish")
    assert [(each.step, each.steps, each.losses["objective"]) for each in reports] == [(1, 3, 2.0), (2, 3, 4.0)]
    assert reports[0].pictures()[0].size == (8, 8)
    assert result.name == "goldfish"
    *reports, result = client.stylize_stream(photo, photo)
    assert repr(reports[1]) == "<Progress 2 of 3: style 0.1, content 0.3>"
    assert isinstance(result, gradserve.StylizedImage)
    with pytest.raises(gradserve.NotFound):
        list(client.stylize_stream(photo, photo, model="missing"))


async def test_a_caller_who_leaves_with_the_result_has_not_cancelled(client, server):
    stream = client.maximize_stream("goldfish")
    assert next(event for event in stream if not isinstance(event, gradserve.Progress)).name == "goldfish"
    stream.close()
    async with AsyncClient(server.target) as other:
        async for event in other.maximize_stream("goldfish"):
            if not isinstance(event, gradserve.Progress):
                break
    assert server.ended_well == [True, True]


async def test_async_streams(server, photo):
    async with AsyncClient(server.target) as client:
        events = [event async for event in client.maximize_stream(["goldfish", 1])]
        assert [type(event).__name__ for event in events] == ["Progress", "Progress", "MaximizedImages"]
        assert (await client.maximize(1)).name == "tabby cat"
        assert (await client.stylize(photo, photo)).done == 3
        async for event in client.stylize_stream(photo, photo):
            assert event.step == 1
            break
        with pytest.raises(gradserve.ResourceExhausted):
            async for _ in client.maximize_stream(0, model="full"):
                pass


def test_maximize_on_the_command_line(run, server, tmp_path):
    code, out, err = run(
        "maximize", "-t", "goldfish", "-t", "unit:features.0:3", "--param", "rate=1/50", "--snapshot", 4
    )
    assert code == 0
    assert "goldfish 98.0%" in out
    assert "maximize-1-step4.png" in out
    assert "warning: ODD" in err
    assert Image.open(tmp_path / "maximize.png").size == (148, 88)
    assert server.requests[-1].settings.rate == 0.02
    code, out, _ = run("maximize", "--layer", "features.0", "--out", "a/b.jpg", "--json")
    assert json.loads(out)["images"][0]["curves"]["objective"] == [1, 2, 4]
    assert Image.open(tmp_path / "a/b.jpg").format == "JPEG"


def test_dream_on_the_command_line(run, server, photo_path):
    assert run("dream", photo_path, "--steps", 2)[0] == 0
    request = server.requests[-1]
    assert request.preset == maximize_pb2.MAXIMIZE_PRESET_DREAM
    assert request.goals[0].summands[0].layer == "features.0"  # The card names it so.
    assert request.settings.steps == 2
    assert request.HasField("image")


LAYERS = [("stem", 112), ("b.0.a", 14), ("b.0", 14), ("b.1", 14), ("b.2.a", 14), ("b.2", 7), ("b", 7), ("head", 7)]


@pytest.mark.parametrize(
    ("layers", "layer"),
    [
        (LAYERS, "b.1"),
        ([("conv3", 17), ("layer3", 15), ("layer3.relu", 15), ("head", 7)], "layer3"),
        ([("blocks.0", 14), ("blocks.1", 14), ("head", 14)], "head"),
        ([("blocks.0", 14)], "head"),
    ],
    ids=["blocks", "odd heights", "a ViT", "Grad-CAM's layer is not listed"],
)
def test_the_layer_of_a_dream(layers, layer):
    found = [Layer(name, "", 8, height, height) for name, height in layers]
    assert dream_layer(SimpleNamespace(layers=found, grad_cam_layer="head")) == layer


def test_stylize_on_the_command_line(run, server, photo_path, tmp_path):
    code, out, _ = run(
        *("stylize", photo_path, "--style", photo_path, "--style", photo_path, "--weight", 1, "--weight", 3),
        *("--style-layer", "pixels", "--style-layer", "a=2", "--keep-colours", "--out", "out.png"),
    )
    assert code == 0
    assert "style            1 -> 0.1" in out
    assert [style.weight for style in server.requests[-1].styles] == [1, 3]
    assert {each.layer: each.weight for each in server.requests[-1].style_layers} == {"pixels": 1, "a": 2}
    assert server.requests[-1].settings.keep_colours
    assert Image.open(tmp_path / "out.png").size == (80, 80)
    assert json.loads(run("stylize", photo_path, "--json")[1])["losses"]["style"] == 0.1


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["maximize"], "say what to maximise"),
        (["maximize", "-t", "0", "--param", "speed"], "NAME one of blur_every"),
        (["maximize", "-t", "0", "--param", "rte=3"], "no parameter of settings 'rte'; nearest: rate"),
        (["maximize", "-t", "0", "--param", "rate=fast"], "rate must be a number, not 'fast'"),
        (["maximize", "-t", "0", "--preset", "odd"], "must be one of strong, lucid, lecture, dream, plain; not 'odd'"),
        (["stylize", "--style-layer", "a=b"], "write LAYER or LAYER=WEIGHT"),
        (["stylize", "--weight", "1"], "1 weights for 0 styles"),
    ],
)
def test_arguments_that_make_no_sense(run, arguments, says):
    code, _, err = run(*arguments)
    assert code == 2
    assert says in err


def test_curves_are_drawn():
    drawn = np.asarray(drawing.curves({"a": np.array([0.0, 1.0, 4.0]), "b": np.array([2.0])}))
    assert len({tuple(pixel) for pixel in drawn.reshape(-1, 3)}) > 2
