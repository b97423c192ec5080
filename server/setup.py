"""The version, which is the client's, and the client of that version as a dependency beside the others."""

import tomllib
from email import message_from_string
from pathlib import Path

from setuptools import setup

SERVER = Path(__file__).resolve().parent
FACTS = SERVER / "PKG-INFO"  # What setuptools writes into a source distribution, and a checkout does not have.


def version() -> str:
    """That of the source distribution, or of the client's pyproject.toml in a checkout."""
    if FACTS.is_file():
        return str(message_from_string(FACTS.read_text("utf-8"))["Version"])
    return str(tomllib.loads((SERVER.parent / "pyproject.toml").read_text())["project"]["version"])


needed = tomllib.loads((SERVER / "pyproject.toml").read_text())["tool"]["gradserve"]["dependencies"]
setup(version=version(), install_requires=[f"gradserve=={version()}", *needed])
