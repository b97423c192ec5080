"""The version, which is the client's, and the client of that version as a dependency beside the others."""

import tomllib
from pathlib import Path

from setuptools import setup

SERVER = Path(__file__).resolve().parent
VERSION = tomllib.loads((SERVER.parent / "pyproject.toml").read_text())["project"]["version"]
NEEDED = tomllib.loads((SERVER / "pyproject.toml").read_text())["tool"]["gradserve"]["dependencies"]

setup(version=VERSION, install_requires=[f"gradserve=={VERSION}", *NEEDED])
