"""The variables of the environment that say which server is meant: arguments win over them, empty ones are unset.

TLS, certificates and token of the environment belong to the server that it names, and reach no other one.
"""

import os
from pathlib import Path

from gradserve.transport.address import DEFAULT_ADDRESS
from gradserve.transport.secrets import Tls

SERVER, TLS, CA, TOKEN = "GRADSERVE_SERVER", "GRADSERVE_TLS", "GRADSERVE_CA", "GRADSERVE_TOKEN"
_YES, _NO = ("1", "true", "t", "yes", "y", "on"), ("0", "false", "f", "no", "n", "off")


def server(argument: str | None) -> str:
    """The server's address: the argument, else GRADSERVE_SERVER, else that of a server on this machine."""
    if argument is not None:
        return argument
    return named_server() or DEFAULT_ADDRESS


def named_server() -> str | None:
    """The address in GRADSERVE_SERVER, if there is one."""
    return os.environ.get(SERVER) or None


def means(target: str | None) -> bool:
    """Whether the environment's other variables hold for a target: it is left out, or what GRADSERVE_SERVER says.

    Addresses are compared letter by letter, since `grpcs://h:1` and `h:1` differ in whether a token is sent in clear.
    """
    return target is None or target == named_server()


def ca() -> Path | None:
    """The file of certificates in GRADSERVE_CA, if there is one."""
    path = os.environ.get(CA)
    return Path(path) if path else None


def tls(argument: Tls) -> Tls:
    """Whether to use TLS, and whom to trust: the argument, else the file in GRADSERVE_CA, else GRADSERVE_TLS.

    Raises ValueError where GRADSERVE_TLS says neither yes nor no.
    """
    if argument is not None:
        return argument
    if trusted := ca():
        return trusted
    answer = os.environ.get(TLS, "").lower()
    if answer and answer not in _YES + _NO:
        raise ValueError(f"{TLS} must be one of {', '.join(_YES + _NO)}; not {os.environ[TLS]!r}")
    return True if answer in _YES else None


def token(argument: str | None) -> str | None:
    """The token: the argument, else GRADSERVE_TOKEN. An empty argument stands for none."""
    if argument is not None:
        return argument
    return os.environ.get(TOKEN) or None
