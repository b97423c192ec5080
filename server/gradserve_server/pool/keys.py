"""CURVE keys between hosts: who has none is not heard, and nobody else can read what is sent.

ipc endpoints need none: the folder of their sockets belongs to one user.
"""

import json
import logging
import os
from pathlib import Path
from typing import NamedTuple

import zmq
import zmq.auth
from zmq.auth.thread import ThreadAuthenticator

log = logging.getLogger(__name__)

DOMAIN = "gradserve"


class Keys(NamedTuple):
    """The key pairs of the hubs and of those who connect to them, in ZeroMQ's Z85 text."""

    hub_public: str
    hub_secret: str
    peer_public: str
    peer_secret: str


def new_keys() -> Keys:
    """Keys that nobody else has."""
    pairs = [each.decode() for _ in range(2) for each in zmq.curve_keypair()]
    return Keys(*pairs)


def write_keys(path: Path, keys: Keys) -> None:
    """Writes a file that only this user can read. Raises OSError, also where there is one already."""
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        json.dump(keys._asdict(), file, indent=1)


def read_keys(path: Path) -> Keys:
    """The keys of a file. Raises OSError, ValueError where others can read it or it holds no keys."""
    if path.stat().st_mode & 0o077:
        raise ValueError(f"{path} can be read by others: chmod 600 {path}")
    try:
        return Keys(**json.loads(path.read_text()))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path} holds no keys ({error}); `gradserve keys FILE` writes such a file") from error


def secure_line(sock: "zmq.Socket[bytes]", keys: Keys) -> None:
    """Lets a socket connect to hubs with these keys."""
    sock.curve_publickey, sock.curve_secretkey = keys.peer_public.encode(), keys.peer_secret.encode()
    sock.curve_serverkey = keys.hub_public.encode()


def secure_hub(context: "zmq.Context[zmq.Socket[bytes]]", sock: "zmq.Socket[bytes]", keys: Keys) -> ThreadAuthenticator:
    """Lets the endpoints that a socket binds from now on hear only who has these keys; the result must be stopped.

    Without the authenticator CURVE would encrypt, and let everybody in.
    """
    sock.curve_secretkey, sock.curve_server, sock.zap_domain = keys.hub_secret.encode(), True, DOMAIN.encode()
    authenticator = ThreadAuthenticator(context)
    authenticator.start()
    authenticator.configure_curve_callback(domain=DOMAIN, credentials_provider=_KnownPeers(keys))
    return authenticator


class _KnownPeers:
    """Says whose key is known, and logs each stranger's once."""

    def __init__(self, keys: Keys) -> None:
        self._known, self._told = keys.peer_public.encode(), set[bytes]()

    def callback(self, domain: str, key: bytes) -> bool:
        """Whether to hear who has that public key, in Z85."""
        known = key == self._known
        if not known and key not in self._told and len(self._told) < 1000:
            self._told.add(key)
            log.warning("a peer with an unknown key is refused")
        return known
