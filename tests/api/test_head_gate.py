"""`gradserve robustness` on linear networks with every kind of head, whose true robustness is known in closed form."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree as Tree

import numpy as np
import pytest
import torch
from heads import KINDS
from linear_heads import entry, logits, margins, pictures
from serving import Server
from torch import Tensor

from gradserve.cli import main
from gradserve.robustness.plan import Plan
from gradserve_server.methods.attack.corruptions import corrupt

from .test_heads import as_toml

COUNT, EPS = 24, 16  # The number of pictures, and eps in levels.
EXCLUSIVE, INDEPENDENT = "whose label is predicted", "whose own label is present"


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    entries = {name: entry(name) for name in KINDS}
    entries["loud_labels"] = entry("label_logits", strength=4000.0)
    tables = "".join(as_toml(name, {**facts, "precisions": ("exact",)}) for name, facts in entries.items())
    with Server(tables, "--workers", "1") as server:
        yield server.address


class Known(NamedTuple):
    """A labelled set in a file, and which of its pictures are right as they are and after any change of EPS levels."""

    path: Path
    pixels: Tensor
    labels: Tensor
    right: Tensor
    standing: Tensor


def known(name: str, folder: Path) -> Known:
    pixels, labels = pictures(name, COUNT, EPS)
    path = folder / "set.npz"
    np.savez(path, images=pixels.numpy(), labels=labels.numpy())
    right, standing = (margins(name, pixels, labels, eps) > 0 for eps in (0, EPS))
    assert len(pixels) == COUNT
    assert 0 < int(standing.sum()) < int(right.sum()) < COUNT
    return Known(path, pixels, labels, right, standing)


def command(capsys: Any, address: str, model: str, path: Path, *arguments: object) -> tuple[int, str]:
    options = ["--server", address, "--data", path, "--model", model, "--seed", 1, *arguments]
    with pytest.raises(SystemExit) as ended:
        main(["robustness", *map(str, options)])
    return ended.value.code, " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("name", KINDS)
def test_accuracies_are_those_of_the_closed_form(capsys: Any, address: str, tmp_path: Path, name: str) -> None:
    own, head = known(name, tmp_path), KINDS[name].head
    clean, robust = (float(each.double().mean()) for each in (own.right, own.standing))
    arguments = ["--attack", "pgd", "--attack", "apgd", "--eps", f"{EPS}/255", "--worst", 3, "--out", tmp_path / "out"]
    limits = ["--min-clean-accuracy", clean, "--min-robust-accuracy"]
    code, said = command(capsys, address, name, own.path, *arguments, *limits, robust)
    assert code == 0, said
    found = json.loads((tmp_path / "out/results.json").read_text())
    assert (found["head"], found["clean"]["right"]) == (head, int(own.right.sum()))
    for figures in (*found["robust"], *found["robust_to_all"]):
        assert (figures["right"], figures["not_measured"], figures["failed"]) == (int(own.standing.sum()), 0, 0)
    assert not found["clean"]["warnings"]
    page, suite = (tmp_path / "out/report.html").read_text(), Tree.parse(tmp_path / "out/junit.xml")
    properties = {each.get("name"): each.get("value") for each in suite.iter("property")}
    means = INDEPENDENT if head == "multilabel" else EXCLUSIVE
    for text in (said, page, found["accuracy_means"], properties["accuracy"]):
        assert means in text
    assert page.count("<article>") == 3
    assert page.count(" absent after") == (3 if head == "multilabel" else 0)
    assert command(capsys, address, name, own.path, *arguments, *limits, robust + 0.01)[0] == 1


@pytest.mark.parametrize("name", ["label_logits", "label_sigmoids"])
def test_the_journal_keeps_every_picture_s_state_and_margin(
    capsys: Any, address: str, tmp_path: Path, name: str
) -> None:
    own = known(name, tmp_path)
    present_below_others = own.right & (logits(name, own.pixels).argmax(1) != own.labels)
    assert present_below_others.any(), "or the largest logit would do"
    code, said = command(capsys, address, name, own.path, "--eps", f"{EPS}/255", "--out", tmp_path)
    assert code == 0, said
    _, *lines = map(json.loads, (tmp_path / "journal.jsonl").read_text().splitlines())
    for eps in (0, EPS):
        outcomes = {int(each["id"]): each for each in lines if (each["trial"] == "clean") == (eps == 0)}
        least = margins(name, own.pixels, own.labels, eps)
        assert sorted(outcomes) == (list(range(COUNT)) if eps == 0 else own.right.nonzero()[:, 0].tolist())
        for i, outcome in outcomes.items():
            assert outcome["state"] == ("right" if least[i] > 0 else "wrong")
            if eps == 0:
                assert outcome["margin"] == pytest.approx(float(least[i]), abs=1e-4)
            else:  # Attacks end at the first success.
                assert (outcome["margin"] > 0) == bool(least[i] > 0)
                assert outcome["margin"] >= float(least[i]) - 1e-4


@pytest.mark.parametrize("name", ["softmax", "one_logit", "label_logits"])
def test_corruption_errors_are_those_of_plain_torch(capsys: Any, address: str, tmp_path: Path, name: str) -> None:
    own = known(name, tmp_path)
    arguments = ["--attack", "none", "--corruption", "brightness", "--worst", 2, "--out", tmp_path]
    code, said = command(capsys, address, name, own.path, *arguments)
    assert code == 0, said
    (found,) = json.loads((tmp_path / "results.json").read_text())["corruptions"]
    plan = Plan("", {}, {}, [], seed=1)  # It is for the seed of each picture.
    for severity, error in found["errors"].items():
        changed = [
            corrupt(pixels.numpy(), "brightness", int(severity), plan.seed_for(str(i)))
            for i, pixels in enumerate(own.pixels)
        ]
        wrong = margins(name, torch.from_numpy(np.stack(changed)), own.labels) <= 0
        assert error * COUNT == pytest.approx(int(wrong.sum()))


@pytest.mark.parametrize(
    ("name", "surrogate"),
    [("label_logits", "label_sigmoids"), ("one_sigmoid", "one_logit"), ("two_logits", "two_logits")],
)
def test_attacks_crafted_on_a_model_of_the_same_weights_are_as_strong(
    capsys: Any, address: str, tmp_path: Path, name: str, surrogate: str
) -> None:
    own = known(name, tmp_path)
    arguments = ["--attack", "transfer", "--param", f"surrogate={surrogate}", "--eps", f"{EPS}/255", "--out", tmp_path]
    code, said = command(capsys, address, name, own.path, *arguments)
    assert code == 0, said
    (found,) = json.loads((tmp_path / "results.json").read_text())["robust"]
    assert (found["right"], found["not_measured"]) == (int(own.standing.sum()), 0)


def test_saturated_labels_are_measured_with_the_margin_loss(capsys: Any, address: str, tmp_path: Path) -> None:
    """The sign of each logit, and so what stands, is that of the network with moderate logits."""
    own = known("label_logits", tmp_path)
    code, said = command(capsys, address, "loud_labels", own.path, "--eps", f"{EPS}/255", "--out", tmp_path)
    assert code == 0, said
    (found,) = json.loads((tmp_path / "results.json").read_text())["robust"]
    assert found["tried_again"] > 0
    assert (found["right"], found["not_measured"]) == (int(own.standing.sum()), 0)


def test_what_means_nothing_for_the_head_is_refused(capsys: Any, address: str, tmp_path: Path) -> None:
    own = known("label_logits", tmp_path)
    arguments = ["--out", tmp_path / "out"]
    for asked, complaint in [
        (["--loss", "dlr"], "label_logits has the head multilabel; take MARGIN"),
        (["--corruption", "fog", "--reference", "softmax"], "take a reference with the head multilabel"),
        (["--attack", "transfer", "--param", "surrogate=softmax"], "must mean the same by its outputs"),
    ]:
        code, said = command(capsys, address, "label_logits", own.path, *arguments, *asked)
        assert code == 2, said
        assert complaint in said
    many = np.eye(4, dtype=np.int64)[own.labels.numpy()]
    np.savez(tmp_path / "several.npz", images=own.pixels.numpy(), labels=many)
    code, said = command(capsys, address, "label_logits", tmp_path / "several.npz", *arguments)
    assert code == 2
    assert "labels must be 24 whole numbers, one for each picture" in said


def test_a_picture_with_several_labels_is_refused(capsys: Any, address: str, tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text("file,class_index\na.png,0\nb.png,1\na.png,2\n")
    code, said = command(capsys, address, "label_logits", tmp_path, "--out", tmp_path / "out")
    assert code == 2
    assert "a.png has several labels, but each picture is judged by one" in said


def test_a_journal_of_another_head_is_refused(capsys: Any, tmp_path: Path) -> None:
    """The weights are the same whether the catalogue calls the logits exclusive or independent."""
    own = known("label_logits", tmp_path)
    facts = {**entry("label_logits"), "precisions": ("exact",)}
    for head, code in (("multilabel", 0), ("softmax", 2)):
        with Server(as_toml("net", {**facts, "head": head}), "--workers", "1") as server:
            ended, said = command(capsys, server.address, "net", own.path, "--limit", 3, "--out", tmp_path)
        assert ended == code, said
    assert "the journal of a run with other heads" in said
