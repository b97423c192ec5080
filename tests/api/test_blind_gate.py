"""`gradserve robustness` on networks without a gradient to follow, whose true robustness is known in closed form."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree as Tree

import blind_networks
import numpy as np
import pytest
import torch
from serving import Server

from gradserve.cli import main

EPS = 16  # In levels.
TABLE = """
[models.{name}]
builder = "blind_networks:{name}"
height = {side}
width = {side}
resize = {side}
mean = [0, 0, 0]
std = [1, 1, 1]
precisions = ["exact"]
"""
NETWORKS = ("sighted", "loud", "probabilities", "underflown", "rounded", "closed")


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    tables = "".join(TABLE.format(name=name, side=blind_networks.SIDE) for name in NETWORKS)
    with Server(tables, "--workers", "1") as server:
        yield server.address


class Pictures(NamedTuple):
    """A labelled set, and how many of it no change within the budget turns."""

    path: Path
    count: int
    standing: int


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Pictures:
    """Six pictures that fall to 16 levels and six that stand."""
    weak, strong = blind_networks.pictures(6, 24), blind_networks.pictures(6, 50, seed=1)
    pixels, labels = torch.cat([weak[0], strong[0]]), torch.cat([weak[1], strong[1]])
    path = tmp_path_factory.mktemp("pictures") / "set.npz"
    classes = [f"class {i}" for i in range(blind_networks.CLASSES)]
    np.savez(path, images=pixels.numpy(), labels=labels.numpy(), classes=classes)
    return Pictures(path, 12, int(blind_networks.stands(pixels, labels, EPS).sum()))


class Gate(NamedTuple):
    """What the command left: exit code, text, and the three reports."""

    code: int
    said: str
    results: dict[str, Any]
    junit: Tree.Element
    page: str

    @property
    def robust(self) -> dict[str, Any]:
        """The figures of the only attack."""
        (found,) = self.results["robust"]
        return found


def command(capsys: Any, address: str, pictures: Pictures, model: str, *arguments: object) -> tuple[int, str]:
    options = ["--server", address, "--data", pictures.path, "--eps", f"{EPS}/255", "--model", model, *arguments]
    with pytest.raises(SystemExit) as ended:
        main(["robustness", *map(str, options)])
    return ended.value.code, " ".join(capsys.readouterr().err.split())


def gate(capsys: Any, address: str, pictures: Pictures, out: Path, model: str, *arguments: object) -> Gate:
    code, said = command(capsys, address, pictures, model, "--out", out, *arguments)
    found = json.loads((out / "results.json").read_text())
    return Gate(code, said, found, Tree.parse(out / "junit.xml").getroot(), (out / "report.html").read_text())


@pytest.mark.parametrize(("model", "again"), [("sighted", 0), ("loud", 12), ("probabilities", 6)])
@pytest.mark.parametrize("attack", ["pgd", "apgd", "fgsm"])
def test_what_the_margin_loss_can_measure_is_measured(
    capsys: Any, address: str, pictures: Pictures, tmp_path: Path, model: str, again: int, attack: str
) -> None:
    assert pictures.standing == 6
    found = gate(capsys, address, pictures, tmp_path, model, "--attack", attack, "--min-robust-accuracy", 0.5)
    assert found.code == 0, found.said
    assert (found.robust["right"], found.robust["not_measured"]) == (6, 0)
    assert found.robust["tried_again"] == again
    assert ("tried again with loss margin" in found.said) == bool(again)
    assert (found.junit.get("errors"), found.junit.get("failures")) == ("0", "0")
    assert "Passed" in found.page
    found = gate(capsys, address, pictures, tmp_path, model, "--attack", attack, "--min-robust-accuracy", 0.6)
    assert found.code == 1
    assert found.junit.get("failures") == "1"


BLIND = [
    ("underflown", "pgd", "ZERO_GRADIENT"),
    ("underflown", "apgd", "ZERO_GRADIENT"),
    ("underflown", "square", "FLAT_LOSS"),
    ("rounded", "pgd", "ZERO_GRADIENT"),
    ("rounded", "fgsm", "ZERO_GRADIENT"),
    ("underflown", "ensemble", "ZERO_GRADIENT"),
]
SHORT = {
    "square": ["--param", "queries=40"],
    "ensemble": ["--param", "steps=5", "--param", "classes=2", "--param", "queries=40"],
}


@pytest.mark.parametrize("model", ["sighted", "loud", "probabilities"])
def test_the_ensemble_measures_what_blinds_cross_entropy_at_once(
    capsys: Any, address: str, pictures: Pictures, tmp_path: Path, model: str
) -> None:
    arguments = ["--attack", "ensemble", "--param", "steps=20", "--param", "queries=40"]
    found = gate(capsys, address, pictures, tmp_path, model, *arguments, "--min-robust-accuracy", 0.5)
    assert found.code == 0, found.said
    assert (found.robust["right"], found.robust["not_measured"], found.robust["tried_again"]) == (6, 0, 0)
    assert [stage["right"] for stage in found.robust["stages"]][-1] == 6


@pytest.mark.parametrize(("model", "attack", "why"), BLIND)
def test_what_no_loss_can_measure_is_not_called_robust(
    capsys: Any, address: str, pictures: Pictures, tmp_path: Path, model: str, attack: str, why: str
) -> None:
    arguments = ["--attack", attack, "--worst", 2, *SHORT.get(attack, [])]
    found = gate(capsys, address, pictures, tmp_path, model, *arguments, "--min-robust-accuracy", 0.5)
    assert found.code == 2, found.said
    robust = found.robust
    assert robust["right"] == 0
    assert robust["right"] <= pictures.standing <= robust["right"] + robust["not_measured"]
    assert any(text.startswith(why) for text in robust["reasons"])
    assert sum(robust["verdicts"].values()) == pictures.count
    assert robust["verdicts"]["not_measured"] == robust["not_measured"]
    assert (found.results["verdict"], found.results["holds"]) == ("not_measured", False)
    unknown = f"{robust['not_measured']} of 12 pictures not measured: "
    assert f"not measured: {attack} 16/255: {unknown}" in found.said
    assert "NOT MEASURED: robust accuracy" in found.said
    assert why in found.said
    (error,) = found.junit.iter("error")
    assert "since not every picture was measured" in error.get("message")
    (skipped,) = found.junit.iter("skipped")
    assert skipped.get("message").startswith(unknown)
    assert why in skipped.get("message")
    for text in ("Not measured: the verdict", why, f"{robust['not_measured']} of 12"):
        assert text in found.page, text
    assert f"<td>0.0% to {robust['possible_accuracy']:.1%}</td>" in found.page
    again = gate(capsys, address, pictures, tmp_path, model, *arguments, "--min-robust-accuracy", 0.5)
    assert (again.code, again.robust) == (2, found.robust), "also from the journal"
    assert again.results["effort"]["rows"] == 0
    assert gate(capsys, address, pictures, tmp_path, model, *arguments, "--min-robust-accuracy", 0).code == 0
    nothing_measured = set(robust["verdicts"]) == {"not_measured"}
    assert gate(capsys, address, pictures, tmp_path, model, *arguments).code == (2 if nothing_measured else 0)


def test_an_attack_by_gradients_is_refused_where_there_are_none(
    capsys: Any, address: str, pictures: Pictures, tmp_path: Path
) -> None:
    for name in ("results.json", "junit.xml", "report.html"):
        (tmp_path / name).write_text("of an earlier run")
    code, said = command(capsys, address, pictures, "closed", "--out", tmp_path, "--min-robust-accuracy", 0)
    assert code == 2
    assert "pgd does not apply to closed" in said
    assert "square" in said
    assert [path.name for path in tmp_path.iterdir()] == ["journal.jsonl"], "no report of another run"
    arguments = ["--attack", "square", "--param", "queries=400", "--min-robust-accuracy", 0.5]
    found = gate(capsys, address, pictures, tmp_path, "closed", *arguments)
    assert found.code == 0
    assert found.robust["right"] >= pictures.standing
    assert found.robust["not_measured"] == 0


def test_a_picture_that_fell_to_the_margin_loss_is_shown_as_it_fell(
    capsys: Any, address: str, pictures: Pictures, tmp_path: Path
) -> None:
    found = gate(capsys, address, pictures, tmp_path, "loud", "--attack", "pgd", "--worst", 3)
    assert found.page.count("<article>") == 3
    assert found.page.count("fell at step") == 3


def test_the_reports_say_that_a_network_hides_its_gradients(
    capsys: Any, address: str, pictures: Pictures, tmp_path: Path
) -> None:
    arguments = ["--attack", "ensemble", "--param", "steps=5", "--param", "queries=600", "--param", "classes=2"]
    found = gate(capsys, address, pictures, tmp_path, "rounded", *arguments)
    fell = found.robust["verdicts"]["found"]
    assert 0 < fell <= 6
    assert [stage["possible_accuracy"] for stage in found.robust["stages"]] == [1, 1, 1, 1 - fell / 12]
    text = f"{fell} pictures fell to square alone, which asks for scores and no gradients: the network hides"
    assert f"caution: ensemble 16/255: {text}" in found.said
    assert text in found.page
    assert [each.get("name") for each in found.junit.iter("property") if text in each.get("value")]
