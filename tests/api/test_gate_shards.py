"""`gradserve robustness --shard` and `--merge` against a real server."""

import json

from .test_gate import digits, gate  # noqa: F401  a fixture


def test_three_shards_of_which_one_was_killed_are_one_run(capsys, digits, tmp_path):  # noqa: F811
    arguments = ["--data", digits, "--eps", 0.1, "--param", "steps=3", "--limit", 40, "--worst", 0]
    assert gate(capsys, *arguments, "--out", tmp_path / "whole")[0] == 0
    folders = [tmp_path / f"out-{number}" for number in (1, 2, 3)]
    for number, folder in enumerate(folders, 1):
        code, _, err = gate(capsys, *arguments, "--shard", f"{number}/3", "--out", folder)
        assert code == 0, err
    journal = folders[1] / "journal.jsonl"
    journal.write_text(journal.read_text()[:-700])  # As a kill leaves it, within a line.
    (folders[1] / "results.json").unlink()
    code, _, err = gate(capsys, "--merge", *folders, "--out", tmp_path / "merged")
    assert code == 2
    assert "out-2/results.json; a run writes it when it ends" in err
    assert gate(capsys, *arguments, "--shard", "2/3", "--out", folders[1])[0] == 0

    code, out, err = gate(capsys, "--merge", *folders, "--out", tmp_path / "merged", "--json")
    assert code == 0, err
    merged, whole = json.loads(out), json.loads((tmp_path / "whole" / "results.json").read_text())
    assert 0 < whole["robust"][0]["right"] < 40
    for document in (merged, whole):
        del document["effort"]
        for picture in document["outcomes"]:
            for outcome in picture["trials"].values():
                outcome["margin"] = round(outcome["margin"], 3)  # Its last digits depend on who shares a batch.
    assert merged == whole
    limit = ["--min-robust-accuracy", 0.99]
    assert gate(capsys, "--merge", *folders, "--out", tmp_path / "merged", *limit)[0] == 1


def test_what_cannot_be_merged_or_cut(capsys, digits, tmp_path):  # noqa: F811
    for arguments, complaint in [
        (["--merge"], "--merge needs the folders of all shards"),
        (["--merge", tmp_path, "--data", digits], "--merge takes what its shards measured"),
        (["--merge", tmp_path, "--eps", "0.1"], "--merge takes what its shards measured"),
        (["--data", digits, tmp_path], "folders are for --merge"),
        (["--data", digits, "--shard", "4/3"], "--shard is a number and how many there are"),
        (["--data", digits, "--limit", 3, "--shard", "4/4"], "more shards than pictures"),
        ([], "--data is missing"),
    ]:
        code, _, err = gate(capsys, *arguments, "--out", tmp_path / "out")
        assert code == 2, (arguments, err)
        assert complaint in err, (arguments, err)
