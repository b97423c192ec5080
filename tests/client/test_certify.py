"""Certify in the client and on the command line."""

import json
from pathlib import Path
from typing import Any

import pytest

from gradserve import AsyncClient, Client, PictureError
from gradserve.cli import main as cli
from gradserve.results.certify import ClassCount

from .fake import CLASSES, FakeServer


def test_a_certified_class(server: FakeServer, client: Client, photo_path: Path) -> None:
    found = client.certify(photo_path, sigma=0.5, samples=2000, selection_samples=50, alpha=0.01, seed=3)
    sent = server.requests[-1]
    assert (sent.sigma, sent.samples, sent.selection_samples, sent.alpha) == (0.5, 2000, 50, 0.01)
    assert sent.options.seed == 3
    assert found.predicted == found.candidate == ClassCount(1, CLASSES[1], 50, 1800)
    assert found.counts == (found.candidate, ClassCount(0, CLASSES[0], 0, 200))
    assert (found.radius, found.lower_bound, found.abstains) == (0.25, 0.875, False)
    assert found.plain.class_name == CLASSES[0]
    assert repr(found) == f"<CertifiedClass: {CLASSES[1]} within 0.25 (1800 of 2000), sigma 0.5, alpha 0.01, tiny>"
    assert json.loads(json.dumps(found.to_dict()))["candidate"]["count"] == 1800


def test_what_is_left_out_is_left_to_the_server(server: FakeServer, client: Client, photo_path: Path) -> None:
    found = client.certify(photo_path)
    sent = server.requests[-1]
    assert not any(sent.HasField(name) for name in ("sigma", "samples", "selection_samples", "alpha"))
    assert (found.sigma, found.selection_samples, found.samples, found.alpha) == (0.25, 100, 1000, 0.001)


def test_an_abstention(client: Client, photo_path: Path) -> None:
    found = client.certify(photo_path, sigma=1.0)
    assert found.predicted is None
    assert (found.radius, found.candidate.count) == (0.0, 100)
    assert "abstains (100 of 1000)" in repr(found)


def test_many(client: Client, photo_path: Path) -> None:
    answers = list(client.certify_many([photo_path, b"no picture"], on_error="return"))
    assert answers[0].radius == 0.125  # type: ignore[union-attr]
    assert isinstance(answers[1], PictureError)


async def test_with_asyncio(server: FakeServer, photo_path: Path) -> None:
    async with AsyncClient(server.target) as client:
        assert (await client.certify(photo_path, sigma=0.5)).radius == 0.25
        assert [each.samples async for each in client.certify_many([photo_path] * 2, samples=20)] == [20, 20]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"sample": 3}, "no argument of certify 'sample'; nearest: samples"),
        ({"sigma": "a"}, "sigma must be a number, not 'a'"),
        ({"alpha": [0.1]}, r"alpha must be a number, not \[0\.1\]"),
        ({"samples": 2.5}, "samples must be a whole number from 0 on, not 2.5"),
        ({"selection_samples": -1}, "selection_samples must be a whole number from 0 on, not -1"),
    ],
)
def test_what_cannot_be_sent(client: Client, photo_path: Path, arguments: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        client.certify(photo_path, **arguments)


def run(capsys: pytest.CaptureFixture[str], server: FakeServer, *arguments: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        cli(["certify", "--server", server.target, *map(str, arguments)])
    said = capsys.readouterr()
    assert isinstance(ended.value.code, int)
    return ended.value.code, said.out, said.err


def test_the_command(capsys: pytest.CaptureFixture[str], server: FakeServer, photo_path: Path) -> None:
    code, out, err = run(capsys, server, photo_path, "--sigma", 0.5, "--samples", 200, "--seed", 9)
    assert code == 0
    assert "warning: OTHER_CLASS: made up" in err
    row = next(line for line in out.splitlines() if line.startswith(" photo.jpg"))
    assert row.split() == ["photo.jpg", "tabby", "cat", "0.250", "0.8750", "180", "of", "200", "goldfish", "(75.0%)"]
    assert "noise of sigma 0.5; each wrong with a probability of at most 0.001" in out
    assert (server.requests[-1].options.seed, server.requests[-1].selection_samples) == (9, 100)
    code, out, _ = run(capsys, server, photo_path, "--sigma", 1)
    assert code == 0
    assert "abstains" in out


def test_the_command_in_json(capsys: pytest.CaptureFixture[str], server: FakeServer, photo_path: Path) -> None:
    code, out, _ = run(capsys, server, photo_path, photo_path, "--json")
    assert code == 0
    first, second = json.loads(out)["certified"]
    assert first == second
    assert (first["image"], first["radius"], first["abstains"]) == (str(photo_path), 0.125, False)
    assert first["provenance"]["model"] == "tiny"


def test_the_command_fails(capsys: pytest.CaptureFixture[str], server: FakeServer, photo_path: Path) -> None:
    assert run(capsys, server, photo_path, "--samples", 0)[0] == 2
    assert run(capsys, server, photo_path, "--model", "missing")[0] == 1
    assert run(capsys, server, "no-such-file.jpg")[0] == 2
