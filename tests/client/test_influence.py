import json
import re

import numpy as np
import pytest
from PIL import Image

from gradserve import Method, Rank, Reweighting, TrainingExample, cli, images
from gradserve.cli import drawing
from gradserve.messages import fields, influence
from gradserve.messages.influence import INFLUENCE_METHOD
from gradserve.v1 import influence_pb2

PIXELS = np.zeros((8, 8, 3), dtype=np.uint8)


def request(*method, **arguments):
    return influence.influence_request(PIXELS, *method, **arguments)


def test_what_is_asked():
    asked = request(
        Method("last_layer", newton=False), label="tabby cat", goal="margin", top=3, ensemble=["other"],
        what_if=[[3, np.int64(7)], Reweighting([5], 1.0)], seed=4,
    )  # fmt: skip
    assert asked.method == influence_pb2.InfluenceMethod(last_layer={"newton": False})
    assert (asked.label.class_name, asked.goal, asked.top) == ("tabby cat", influence_pb2.INFLUENCE_GOAL_MARGIN, 3)
    assert [(list(each.rows), each.weight) for each in asked.what_if] == [([3, 7], -1.0), ([5], 1.0)]
    assert (list(asked.ensemble), asked.options.seed, asked.thumbnails) == (["other"], 4, True)
    plain = request()
    assert not plain.HasField("method")
    assert not plain.HasField("label")
    assert request(label=Rank(2)).label.rank == 2


def test_every_method_has_a_name():
    assert fields.names(INFLUENCE_METHOD) == ["projected", "last_layer", "neighbours"]


@pytest.mark.parametrize(
    ("broken", "says"),
    [
        (lambda: request("lastlayer"), "nearest: last_layer"),
        (lambda: request(("last_layer", {"newton": 1})), "last_layer.newton: must be true or false"),
        (lambda: request(goal="accuracy"), "goal must be one of logit, loss, margin"),
        (lambda: request(what_if=[5]), "what_if is a list of rows or a Reweighting for each question"),
        (lambda: request(what_if=[[-1]]), "what_if is a list of rows"),
        (lambda: influence.suspects_request(order="age"), "order must be one of"),
        (lambda: influence.embed_request(PIXELS, pooling="sum"), "pooling must be one of max, mean, none"),
        (lambda: request(lable=3), "no argument of influence 'lable'; nearest: label"),
        (lambda: request(timeuot=3), "no argument of influence 'timeuot'; nearest: timeout"),
        (lambda: influence.suspects_request(ordr="loss"), "no argument of suspects 'ordr'; nearest: order"),
        (lambda: influence.embed_request(PIXELS, laier="fc"), "no argument of embed 'laier'; nearest: layer"),
    ],
)
def test_what_makes_no_sense_is_a_value_error(broken, says):
    with pytest.raises(ValueError, match=re.escape(says)):
        broken()


def test_what_comes_back(client):
    found = client.influence(PIXELS, goal="margin", what_if=[[1], [2]])
    assert [each.row for each in found.helpful] == [4, 5]
    assert (found.harmful[0].newton_change, found.harmful[0].similarity) == (-0.5, None)
    assert (found.goal, found.method, found.what_if) == ("margin", "projected", (0.25, 0.25))
    assert found.helpful[0].picture().size == (8, 8)
    assert str(found).splitlines()[1].startswith("helpful  +2.500e-01  goldfish")
    doubtful = client.suspects(top=2)
    assert (len(doubtful), doubtful.total, doubtful[0].row) == (2, 99, 4)
    features = client.embed(PIXELS, layer="features.0")
    assert features.values.tolist() == [1.0, 2.0]
    assert (features.layer, features.is_input) == ("features.0", False)


def run(server, *words):
    with pytest.raises(SystemExit) as ended:
        cli.main([*words, "--server", server.target])
    return ended.value.code


def test_the_command_line(server, photo_path, tmp_path, capsys):
    out = tmp_path / "sheet.png"
    assert run(server, "influence", str(photo_path), "--remove", "3,4", "--double", "7", "--out", str(out)) == 0
    text = capsys.readouterr()
    assert "without 3, 4: the loss changes by +0.25" in text.out
    assert "with twice the weight of 7" in text.out
    assert "NOT_STATIONARY" in text.err
    with Image.open(out) as picture:
        assert min(picture.size) > 100
    assert run(server, "suspects", "--top", "1", "--order", "loss", "--out", str(out)) == 0
    assert "1 of 99 training examples" in capsys.readouterr().out
    assert run(server, "influence", str(photo_path), "--method", "neighbours", "--json") == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["helpful"][0]["similarity"] == 0.9
    assert "thumbnail" not in answer["helpful"][0]
    assert run(server, "influence", str(photo_path), "--no-newton") == 0
    assert not server.requests[-1].method.last_layer.newton


@pytest.mark.parametrize(
    "words", [["--remove", "three"], ["--no-newton", "--method", "projected"], ["--goal", "accuracy"], ["--top", "0"]]
)
def test_arguments_that_make_no_sense(server, photo_path, words, capsys):
    assert run(server, "influence", str(photo_path), *words) == 2
    assert not server.requests


def test_a_sheet_of_no_pictures():
    nothing = TrainingExample(1, "a", 0, "x", 0, "x", 0.1, None, None, 0, 0, 0, 0, 0)
    assert nothing.picture() is None
    assert drawing._draw_sheet([[(None, "a very long name of a class", "text", (0, 0, 0))]]).size[0] > 100
    assert images.png(Image.new("L", (2, 2)))
