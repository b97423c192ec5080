"""CURVE keys between hosts: who has none is not heard, and nobody else can read what is sent.

A server makes new keys at its start and hands them to those that it starts. ipc endpoints need none: the folder of
their sockets belongs to one user.
"""

import logging
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
