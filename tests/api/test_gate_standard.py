"""`gradserve robustness --standard` and `--quick` against a real server."""

import json

from serving import shared

from gradserve import Client
from gradserve.datasets import open_dataset
from gradserve.robustness.plan import Plan

from .test_gate import digits, gate  # noqa: F401  a fixture

SHORT = ["--attack", "ensemble", "--param", "steps=3", "--param", "queries=30", "--param", "classes=3"]


def test_the_stages_are_those_of_the_replies(capsys, digits, tmp_path):  # noqa: F811
    arguments = ["--data", digits, "--limit", 24, "--eps", 0.08, *SHORT, "--worst", 2, "--json"]
    code, out, err = gate(capsys, *arguments, "--out", tmp_path)
    assert code == 0, err
    found = json.loads(out)
    (robust,) = found["robust"]
    standing = [stage["right"] for stage in robust["stages"]]
    assert [stage["method"] for stage in robust["stages"]] == ["apgd", "apgd_targeted", "fab_targeted", "square"]
    assert standing == sorted(standing, reverse=True)
    assert 24 > standing[0] >= standing[-1] == robust["right"] > 0, "some fall and some stand, or this shows little"
    felled = {
        each["id"]: each["trials"]["ensemble 0.08"].get("felled_by", "")
        for each in found["outcomes"]
        if "ensemble 0.08" in each["trials"]
    }
    examples = {each.id: each for each in open_dataset(digits)}
    parameters = {"steps": 3, "queries": 30, "classes": 3}
    plan_seed = found["seed"]
    with Client(shared().address) as client:
        for id in list(felled)[:6]:
            answer = client.attack(
                examples[id].image,
                "ensemble",
                **parameters,
                label=examples[id].label,
                eps=0.08,
                model="digits",
                first_success=True,
                seed=seed_for(plan_seed, id),
            )
            reached = [stage.method for stage in answer.stages if stage.reached]
            assert felled[id] == ("" if answer.certificate.verdict == "not_found" else reached[0])
    assert f"after apgd {standing[0] / 24:.1%}" in " ".join(err.split())
    again = json.loads(gate(capsys, *arguments, "--out", tmp_path)[1])
    assert again["robust"] == found["robust"], "also from the journal"


def seed_for(seed: int, id: str) -> int:
    """The seed that a run with this one gives to a picture."""
    return Plan("", {}, {}, [], seed).seed_for(id)


def test_both_verdicts_on_pictures_that_fall(capsys, digits, tmp_path):  # noqa: F811
    """With so large a budget all fall to the first attack, so that the defaults take little time."""
    for option, attack in (("--standard", "ensemble"), ("--quick", "malt")):
        arguments = ["--data", digits, "--limit", 4, "--eps", 0.9, option, "--worst", 0, "--json"]
        code, out, err = gate(capsys, *arguments, "--out", tmp_path / attack, "--min-robust-accuracy", 0.5)
        assert code == 1, err
        found = json.loads(out)
        (robust,) = found["robust"]
        assert (robust["attack"], robust["right"]) == (attack, 0)
        assert len(robust["stages"]) == (4 if option == "--standard" else 0)
        assert found["trials"][0]["settings"] == {"first_success": "True", "norm": "linf"}


def test_in_l2_too(capsys, digits, tmp_path):  # noqa: F811
    arguments = ["--data", digits, "--limit", 8, "--eps", 0.5, "--norm", "l2", *SHORT, "--worst", 0, "--json"]
    code, out, err = gate(capsys, *arguments, "--out", tmp_path)
    assert code == 0, err
    (robust,) = json.loads(out)["robust"]
    assert robust["stages"][-1]["right"] == robust["right"]
