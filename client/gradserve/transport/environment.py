"""The variables of the environment that say which server is meant: arguments win over them, empty ones are unset."""

import os
from pathlib import Path

from gradserve.transport.address import DEFAULT_ADDRESS
from gradserve.transport.secrets import Tls

SERVER, TLS, CA, TOKEN = "GRADSERVE_SERVER", "GRADSERVE_TLS", "GRADSERVE_CA", "GRADSERVE_TOKEN"
_YES, _NO = ("1", "true", "t", "yes", "y", "on"), ("0", "false", "f", "no", "n", "off")


def server(argument: str | None) -> str:
    """The server's address: the argument, else GRADSERVE_SERVER, else that of a server on this machine."""
    return named_server() or DEFAULT_ADDRESS if argument is None else argument


def named_server() -> str | None:
    """The address in GRADSERVE_SERVER, if there is one."""
    return os.environ.get(SERVER) or None


def tls(argument: Tls) -> Tls:
    """Whether to use TLS, and whom to trust: the argument, else the file in GRADSERVE_CA, else GRADSERVE_TLS.

    Raises ValueError where GRADSERVE_TLS says neither yes nor no.
    """
    if argument is not None:
        return argument
    if os.environ.get(CA):
        return Path(os.environ[CA])
    answer = os.environ.get(TLS, "").lower()
    if answer and answer not in _YES + _NO:
        raise ValueError(f"{TLS} must be one of {', '.join(_YES + _NO)}; not {os.environ[TLS]!r}")
    return True if answer in _YES else None


def token(argument: str | None) -> str | None:
    """The token: the argument, else GRADSERVE_TOKEN. An empty argument stands for none."""
    return os.environ.get(TOKEN) or None if argument is None else argument
