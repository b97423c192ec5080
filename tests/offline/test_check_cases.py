"""`gradserve check` beside a real server, over the networks of ../shared/cases: both must say the same of each."""

import inspect
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from models.test_kinds import SHARED, SIZE, Kind
from paths import CASES
from serving import Server

from gradserve import Client
from gradserve_server.models.served import not_served
from gradserve_server.models.tables import toml_value
from gradserve_server.offline import check

pytestmark = pytest.mark.skipif(not CASES.is_file(), reason="needs the networks in ../shared/cases")


def named(number: int, kind: Kind) -> str:
    return f"{kind.builder.partition(':')[2]}-{number}"


KINDS = {named(number, kind): kind for number, kind in enumerate(SHARED)} if CASES.is_file() else {}


def tables() -> str:
    """A settings file of all of them."""
    lines = []
    for name, kind in KINDS.items():
        table = {"builder": kind.builder, **SIZE, **kind.facts}
        lines += [f"[models.{name}]", *(f"{key} = {toml_value(value)}" for key, value in table.items())]
    return "\n".join(["[pool]", "workers = 1", *lines, ""])


class Told(NamedTuple):
    """What a server says of its models."""

    notes: dict[str, tuple[str, ...]]
    unavailable: dict[str, str]
    log: str


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The settings file, in a folder where `cases` can be imported by processes of their own."""
    folder = tmp_path_factory.mktemp("cases")
    (folder / "cases.py").symlink_to(CASES)
    (folder / "models.toml").write_text(tables())
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")])))
        yield folder / "models.toml"


@pytest.fixture(scope="module")
def told(config: Path) -> Iterator[Told]:
    with Server(config.read_text()) as server, Client(server.address) as client:
        notes = {card.name: card.notes for card in client.models()}
        yield Told(notes, client.unavailable_models(), server.log())


def test_every_network_is_among_them() -> None:
    functions = inspect.getmembers(sys.modules["cases"], inspect.isfunction)
    own = [(name, function) for name, function in functions if function.__module__ == "cases"]
    builders = {
        name
        for name, function in own
        if all(each.default is not each.empty for each in inspect.signature(function).parameters.values())
    }
    assert builders == {kind.builder.partition(":")[2] for kind in KINDS.values()}


@pytest.mark.parametrize("name", KINDS)
def test_as_a_server_says(name: str, config: Path, told: Told, capfd: pytest.CaptureFixture[str]) -> None:
    capfd.readouterr()
    code = check.main(["--config", str(config), "--model", name, "--json"])
    (model,) = json.loads(capfd.readouterr().out)["models"]
    served = name in told.notes
    assert (model["served"], code) == (served, 0 if served else 1)
    assert bool(KINDS[name].refused) != served
    if served:
        assert set(told.notes[name]) <= {*model["odd"], *model["notes"]}
        assert all(each["map"] for each in model["methods"].values() if each["applies"])
    else:
        assert model["reason"] == told.unavailable[name]
        assert not_served(name, model["reason"]) in told.log
