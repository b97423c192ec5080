"""The extras, which pyproject.toml cannot say: they name the server that lies beside, or in a release the index's."""

import os
import tomllib
from pathlib import Path

from setuptools import setup

ROOT = Path(__file__).resolve().parent
SERVER = ROOT / "server"


def extras(release: bool) -> dict[str, list[str]]:
    """What each extra installs. Those of the server are its own; `release`: for wheels that leave this checkout."""
    tables = tomllib.loads((ROOT / "pyproject.toml").read_text())
    server_extras = tomllib.loads((SERVER / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    where = f"=={tables['project']['version']}" if release else f" @ {SERVER.as_uri()}"
    named = {extra: [f"gradserve-server[{extra}]{where}"] for extra in server_extras}
    groups = {} if release else tables["dependency-groups"]  # Of no use without the checkout.
    return {"server": [f"gradserve-server{where}"], **named, **groups}


# A source distribution has no server beside it, so that a wheel that is made of it is one for a release.
in_checkout = (SERVER / "gradserve_server").is_dir()
setup(extras_require=extras(release="GRADSERVE_RELEASE" in os.environ or not in_checkout))
