"""What a process with torch is asked."""

import os

import pytest

from gradserve_server.config import PoolSettings, StartError, devices
from gradserve_server.pool import forking


def test_it_answers_in_another_process() -> None:
    assert forking.ask(os.getpid) != os.getpid()
    assert forking.ask(devices, PoolSettings(device="cpu", workers=3)) == ["cpu"] * 3


def test_what_it_raises_is_raised_here() -> None:
    with pytest.raises(ValueError, match=r"^invalid literal for int\(\) with base 10: 'three'$"):
        forking.ask(int, "three")


def die() -> None:
    os._exit(3)


def test_a_process_that_dies_is_told() -> None:
    with pytest.raises(StartError, match="the process that was asked for die died"):
        forking.ask(die)


def test_the_death_of_the_process_that_forks_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(self: object) -> None:
        raise EOFError

    monkeypatch.setattr(forking.CONTEXT.Process, "start", start)
    with pytest.raises(StartError, match="the process that was asked for getpid died"):
        forking.ask(os.getpid)
