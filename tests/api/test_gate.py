"""`gradserve robustness` against a real server: exit codes, a kill, bad input, and the files it leaves."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from serving import shared
from sklearn.datasets import load_digits

from gradserve import Client
from gradserve.cli import main
from gradserve.datasets import open_dataset
from gradserve.robustness.plan import CheckSpec
from gradserve_server.methods.attack.corruptions import corrupt


@pytest.fixture(scope="module")
def digits(tmp_path_factory) -> Path:
    """A hundred digits as the embedded model wants them."""
    path = tmp_path_factory.mktemp("digits") / "digits.npz"
    found = load_digits()
    images = (found.images[:100, ..., None] * 255 / 16).round().astype(np.uint8).repeat(3, 3)
    np.savez(path, images=images, labels=found.target[:100], classes=[str(i) for i in range(10)])
    return path


def gate(capsys, *arguments: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main(["robustness", "--server", shared().address, "--model", "digits", *map(str, arguments)])
    said = capsys.readouterr()
    return ended.value.code, said.out, said.err


def ask(question: Callable[[Client], Any]) -> Any:
    with Client(shared().address) as client:
        return question(client)


def test_exit_codes_and_files(capsys, digits, tmp_path):
    arguments = ["--data", digits, "--eps", "0", "--eps", 0.3, "--out", tmp_path, "--worst", 3, "--json"]
    code, out, err = gate(capsys, *arguments, "--min-clean-accuracy", 0.9)
    assert code == 0, err
    found = json.loads(out)
    assert found == json.loads((tmp_path / "results.json").read_text())
    none, large = found["robust"]
    assert none["right"] == found["clean"]["right"] >= 90
    assert large["right"] < 50
    assert large["low"] < large["accuracy"] < large["high"] or large["accuracy"] == 0
    assert "holds: clean accuracy" in err
    page = (tmp_path / "report.html").read_text()
    assert page.count("<article>") == 3
    assert "pgd 0.3" in page
    code, _, err = gate(capsys, *arguments, "--min-robust-accuracy", 0.9)
    assert code == 1
    assert "FAILS: robust accuracy, pgd 0.3" in err
    assert 'failures="1"' in (tmp_path / "junit.xml").read_text()


def test_a_range_of_budgets_gives_a_curve(capsys, digits, tmp_path):
    arguments = ["--data", digits, "--limit", 30, "--eps", "0:0.2:0.05", "--param", "steps=3", "--worst", 0, "--json"]
    code, out, err = gate(capsys, *arguments, "--out", tmp_path)
    assert code == 0, err
    found = json.loads(out)
    (curve,) = found["curves"]
    rights = [point["right"] for point in curve["points"]]
    assert [point["level"] for point in curve["points"]] == ["0", "0.05", "0.1", "0.15", "51/255"]
    assert rights[0] == found["clean"]["right"] > rights[-1]
    assert rights == sorted(rights, reverse=True)
    for point, eps in zip(curve["points"], (0, 0.05, 0.1, 0.15, 0.2), strict=True):
        least = [picture["smallest_eps"]["pgd"] for picture in found["outcomes"]]
        assert point["right"] == sum(each is None or each > eps for each in least)
    assert 'class="band c0"' in (tmp_path / "report.html").read_text()


def test_a_killed_run_goes_on_and_finds_the_same_figures(capsys, digits, tmp_path):
    arguments = ["--data", digits, "--eps", "0.1", "--seed", 3, "--worst", 0, "--json", "--min-robust-accuracy", 0]
    _, out, _ = gate(capsys, *arguments, "--out", tmp_path / "whole")
    whole = json.loads(out)
    command = [sys.executable, "-m", "gradserve", "robustness", "--server", shared().address, "--model", "digits"]
    command += [*map(str, arguments), "--out", str(tmp_path / "cut"), "--concurrency", "1"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=dict(os.environ))
    journal = tmp_path / "cut/journal.jsonl"
    end = time.monotonic() + 60
    while time.monotonic() < end and not (journal.exists() and journal.read_text().count("\n") > 50):
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert 50 < journal.read_text().count("\n") < 190
    code, out, _ = gate(capsys, *arguments, "--out", tmp_path / "cut")
    rest = json.loads(out)
    assert code == 0
    assert rest["effort"]["answers_from_the_journal"] >= 50
    assert rest["robust"] == whole["robust"]
    assert rest["clean"] == whole["clean"]
    assert 0 < whole["robust"][0]["right"] < whole["clean"]["right"]


def test_a_defence_is_measured_on_all_pictures(capsys, digits, tmp_path):
    arguments = ["--data", digits, "--limit", 20, "--out", tmp_path, "--json", "--attack", "pgd", "--eps", 0.05]
    code, out, err = gate(capsys, *arguments, "--defence", "bit_depth:bits=2", "--adaptive", "--worst", 1)
    assert code == 0, err
    verdicts = json.loads(out)["robust"][0]["verdicts"]
    assert sum(verdicts.values()) == 20


def test_corruption_errors_count_what_predict_says_of_corrupted_pictures(capsys, digits, tmp_path):
    arguments = ["--data", digits, "--limit", 40, "--out", tmp_path, "--json", "--attack", "none", "--worst", 1]
    kinds = ["--corruption", "contrast", "--corruption", "impulse_noise"]
    code, out, err = gate(capsys, *arguments, *kinds, "--reference", "digits", "--max-mce", 1)
    assert code == 0, err
    found = json.loads(out)
    assert found["mce"] == 1  # It is its own reference.
    assert [each["kind"] for each in found["corruptions"]] == ["impulse_noise", "contrast"]
    plan = CheckSpec([], [], {}, ["contrast"]).plan(card := ask(lambda client: client.model("digits")))
    chosen = open_dataset(digits).labelled_for(card.classes).take(40)
    wrong = [0] * 5
    for example in chosen:
        for severity in range(1, 6):
            pixels = corrupt(example.image, "contrast", severity, plan.seed_for(example.id))
            top = ask(lambda client, pixels=pixels: client.predict(pixels, model="digits"))[0]
            wrong[severity - 1] += top.class_index != example.label
    assert [40 * error for error in found["corruptions"][1]["errors"].values()] == pytest.approx(wrong)
    assert "Worst cases under corruption" in (tmp_path / "report.html").read_text()


def test_unreadable_pictures_are_reported_and_counted_apart(capsys, tmp_path):
    for digit in ("3", "7"):
        (tmp_path / "set" / digit).mkdir(parents=True)
        Image.fromarray((load_digits().images[int(digit)] * 15).astype(np.uint8)).save(
            tmp_path / "set" / digit / "a.png"
        )
    (tmp_path / "set/3/damaged.png").write_bytes(b"not a picture")
    (tmp_path / "set/3/empty.jpg").write_bytes(b"")
    code, out, err = gate(capsys, "--data", tmp_path / "set", "--out", tmp_path / "out", "--json")
    found = json.loads(out)
    assert code == 0
    assert set(found["unreadable"]) == {"3/damaged.png", "3/empty.jpg"}
    assert found["clean"]["of"] == found["robust"][0]["of"] == 2
    assert "unreadable: 3/empty.jpg: the file is empty" in err


def test_what_cannot_be_measured_is_neither_passed_nor_failed(capsys, digits, tmp_path):
    (tmp_path / "empty").mkdir()
    out = ["--out", tmp_path / "out"]
    for arguments, complaint in [
        (["--data", tmp_path / "empty"], "holds no pictures"),
        (["--data", digits, "--eps", "2"], "eps"),
        (["--data", digits, "--eps", "-4/255"], "eps"),
        (["--data", digits, "--eps", "a lot"], "number or a fraction"),
        (["--data", digits, "--eps", "8/255:0:1/255"], "the wrong way round"),
        (["--data", digits, "--attack", "pdg"], "nearest: pgd"),
        (["--data", digits, "--param", "steps=1000000"], "steps"),
        (["--data", digits, "--param", "steps=0"], "steps"),
        (["--data", digits, "--corruption", "frog"], "nearest: fog"),
        (["--data", digits, "--attack", "none"], "nothing to measure"),
        (["--data", digits, "--max-mce", "1"], "--reference"),
        (["--data", digits, "--model", "digit"], "nearest: digits"),
        (["--data", digits, "--server", "127.0.0.1:1"], "nobody listens on 127.0.0.1:1"),
    ]:
        code, _, err = gate(capsys, *arguments, *out)
        assert code == 2, (arguments, err)
        assert complaint in err, (arguments, err)


def test_a_journal_of_other_settings_is_not_mistaken(capsys, digits, tmp_path):
    arguments = ["--data", digits, "--limit", 3, "--out", tmp_path]
    assert gate(capsys, *arguments)[0] == 0
    code, _, err = gate(capsys, *arguments, "--seed", 1)
    assert code == 2
    assert "--restart" in err
    assert gate(capsys, *arguments, "--seed", 1, "--restart")[0] == 0
