"""Changes of the served models from the caller's side: progress, results, errors, and the commands."""

import json

import pytest

from gradserve import AsyncClient, FailedPrecondition, cli


@pytest.fixture
def run(server, capsys, monkeypatch):
    monkeypatch.setenv("GRADSERVE_SERVER", server.target)
    monkeypatch.setenv("COLUMNS", "200")

    def call(*arguments):
        with pytest.raises(SystemExit) as ended:
            cli.main(list(arguments))
        captured = capsys.readouterr()
        return ended.value.code or 0, captured.out, captured.err

    return call


def test_a_change_tells_its_progress_and_returns_the_cards(client, server):
    told = []
    changed = client.load_model("tiny", "small", on_progress=told.append)
    assert list(server.requests[-1].names) == ["tiny", "small"]
    assert [card.name for card in changed.models] == ["tiny", "small"]
    assert changed.served == ("tiny", "digits", "tiny", "small")
    assert changed.seconds == 3.0
    assert [(each.state, each.worker, each.workers, each.model) for each in told] == [
        ("reading", 0, 0, ""),
        ("loading", 1, 2, "tiny"),
        ("ready", 2, 2, ""),
    ]
    assert client.unload_model("digits").served == ("tiny",)


def test_a_change_that_fails_raises_the_reason(client):
    with pytest.raises(FailedPrecondition, match="no file of weights"):
        client.reload_model("gone")


async def test_the_client_for_asyncio_has_the_same(server):
    async with AsyncClient(server.target) as client:
        assert [card.name for card in (await client.reload_model("tiny")).models] == ["tiny"]


@pytest.mark.parametrize(("command", "said"), [("load", "loaded"), ("unload", "unloaded"), ("reload", "reloaded")])
def test_the_commands(run, command, said):
    code, out, err = run(command, "tiny")
    assert code == 0
    assert f"{said} in 3.0 s; served: tiny" in out
    assert f"{command} tiny: worker 1 of 2 loads tiny\n" in err
    code, out, _ = run(command, "tiny", "--json")
    assert code == 0
    assert json.loads(out)["served"][0] == "tiny"


def test_a_command_that_fails_says_why(run):
    code, out, err = run("reload", "gone")
    assert (code, out) == (1, "")
    assert "model gone: no file of weights" in err
