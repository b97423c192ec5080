"""`gradserve robustness --certify-sigma` against a real server."""

import json

from serving import shared

from gradserve import Client
from gradserve.datasets import open_dataset
from gradserve.robustness.plan import CheckSpec

from .test_gate import digits, gate  # noqa: F401  a fixture

NOISE = ["--attack", "none", "--certify-sigma", 0.25, "--certify-samples", 100]


def test_each_picture_has_the_certificate_that_the_server_gives_for_its_seed(capsys, digits, tmp_path):  # noqa: F811
    thresholds = ["--min-certified-accuracy", "0.125:0.1", "--min-certified-accuracy", "0.3:0.99"]
    arguments = ["--data", digits, *NOISE, "--limit", 12, "--out", tmp_path, "--json", "--seed", 4]
    code, out, err = gate(capsys, *arguments, *thresholds)
    assert code == 1, err
    found = json.loads(out)
    assert [each["holds"] for each in found["thresholds"]] == [True, False]
    assert found["robust"] == []
    assert (found["certified"]["samples"], found["certified"]["selection_samples"]) == (100, 100)
    outcomes = {each["id"]: each["trials"]["certified sigma 0.25"] for each in found["outcomes"]}
    examples = {each.id: each for each in open_dataset(digits)}
    right, abstained, radii = 0, 0, []
    with Client(shared().address) as client:
        plan = CheckSpec([], [], {}, seed=4).plan(client.model("digits"))
        for id, outcome in outcomes.items():
            noise = {"sigma": 0.25, "samples": 100, "seed": plan.seed_for(id)}
            answer = client.certify(examples[id].image, model="digits", **noise)
            assert outcome["radius"] == answer.radius
            assert (outcome.get("detail") == "abstains") == answer.abstains
            label = answer.predicted is not None and answer.predicted.class_index == examples[id].label
            assert outcome["state"] == ("right" if label else "wrong")
            right, abstained = right + label, abstained + answer.abstains
            radii += [answer.radius] if label else []
    assert found["certified"]["abstained"] == abstained
    assert found["certified"]["points"][0]["right"] == right > 0
    for point in found["certified"]["points"]:
        assert point["right"] == sum(radius >= point["radius"] for radius in radii)
    assert "certified within 0.125:" in err
    assert "FAILS: certified accuracy, radius 0.3" in err


def test_shards_of_which_one_was_killed_are_one_run(capsys, digits, tmp_path):  # noqa: F811
    arguments = ["--data", digits, *NOISE, "--limit", 20]
    assert gate(capsys, *arguments, "--out", tmp_path / "whole")[0] == 0
    folders = [tmp_path / f"out-{number}" for number in (1, 2)]
    for number, folder in enumerate(folders, 1):
        assert gate(capsys, *arguments, "--shard", f"{number}/2", "--out", folder)[0] == 0
    journal = folders[1] / "journal.jsonl"
    journal.write_text(journal.read_text()[:-1200])  # As a kill leaves it, within a line.
    assert gate(capsys, *arguments, "--shard", "2/2", "--out", folders[1])[0] == 0
    code, out, err = gate(capsys, "--merge", *folders, "--out", tmp_path / "merged", "--json")
    assert code == 0, err
    merged, whole = json.loads(out), json.loads((tmp_path / "whole" / "results.json").read_text())
    assert 0 < whole["certified"]["points"][0]["right"] <= 20
    for document in (merged, whole):
        del document["effort"]
        for picture in document["outcomes"]:
            clean = picture["trials"]["clean"]
            clean["margin"] = round(clean["margin"], 3)  # Its last digits depend on who shares a batch.
    assert merged == whole


def test_what_cannot_be_certified(capsys, digits, tmp_path):  # noqa: F811
    earlier = ["--baseline", tmp_path / "first" / "results.json"]
    assert gate(capsys, "--data", digits, *NOISE, "--limit", 2, "--out", tmp_path / "first")[0] == 0
    for more, complaint in [
        (["--certify-sigma", 0], "--certify-sigma must be above 0 to 2"),
        (["--certify-sigma", "nan"], "--certify-sigma must be above 0 to 2"),
        (["--certify-samples", 9], "should be greater than or equal to 10"),
        (["--min-certified-accuracy", "0.25"], "a radius from 0 on and a share from 0 to 1"),
        (["--min-certified-accuracy", "1:0.5"], "no picture can have the radius 1: 100 samples of sigma 0.25 prove"),
        ([*earlier, "--certify-samples", 200], "samples is 200 here and 100 in the baseline"),
        ([*earlier, "--certify-sigma", 0.5], "only here there is certified sigma 0.5"),
    ]:
        code, _, err = gate(capsys, "--data", digits, *NOISE, "--limit", 2, *more, "--out", tmp_path / "next")
        assert code == 2, (more, err)
        assert complaint in " ".join(err.replace("│", "").split()), (more, err)
        assert not (tmp_path / "next").exists()
    attack = ["--data", digits, "--limit", 2, "--min-certified-accuracy", "0.25:0.5", "--out", tmp_path / "next"]
    code, _, err = gate(capsys, *attack)
    assert code == 2
    assert "--min-certified-accuracy needs --certify-sigma" in err
    assert gate(capsys, "--data", digits, "--certify-samples", 20, "--out", tmp_path / "next")[0] == 2
