"""`gradserve surrogate` against a real server."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from serving import shared
from sklearn.datasets import load_digits

from gradserve import Client
from gradserve.cli import main
from gradserve_server.models.catalogue import read_catalogue
from gradserve_server.models.loading import load
from gradserve_server.models.surrogate.training import normalised


def pictures(begin: int, end: int) -> np.ndarray:
    return (load_digits().images[begin:end, ..., None] * 255 / 16).round().astype(np.uint8).repeat(3, 3)


def surrogate(*arguments: object) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["surrogate", "--server", shared().address, "--model", "digits", "--no-mirror", *map(str, arguments)])
    return ended.value.code


def test_it_agrees_with_the_model_that_it_stands_for(capsys, tmp_path):
    np.savez(tmp_path / "set.npz", images=pictures(0, 500))
    arguments = ["--data", tmp_path / "set.npz", "--out", tmp_path, "--epochs", 12, "--name", "twin", "--labels-only"]
    assert surrogate(*arguments, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["name"], found["model"], found["answers"]) == ("twin", "digits", 500)
    (spec,) = read_catalogue(Path(found["catalogue"]))
    source = load(spec)
    assert (source.height, source.width, len(source.labels)) == (8, 8, 10)
    fresh = pictures(500, 600)
    with Client(shared().address) as client:
        answers = [found[0].class_index for found in client.predict_many(list(fresh), model="digits")]
    mine = source.network(normalised(fresh)).argmax(1)
    assert (mine == torch.tensor(answers)).float().mean() > 0.8
    assert found["agreement"] > 0.7


def test_what_cannot_be_asked_about_is_left_out_and_told(capsys, tmp_path):
    for i, pixels in enumerate(pictures(0, 6)):
        Image.fromarray(pixels).save(tmp_path / f"{i}.png")
    (tmp_path / "damaged.png").write_bytes(b"nothing")
    assert surrogate("--data", tmp_path, "--out", tmp_path / "out", "--epochs", 1) == 0
    said = capsys.readouterr()
    assert "left out: damaged.png: not a picture" in said.err
    assert "trained on 6 answers of digits" in said.out


def test_too_few_pictures(capsys, tmp_path):
    Image.fromarray(pictures(0, 1)[0]).save(tmp_path / "one.png")
    assert surrogate("--data", tmp_path) == 2
    assert "too few" in capsys.readouterr().err
