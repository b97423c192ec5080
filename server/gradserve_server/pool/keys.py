"""CURVE keys for connections between hosts: peers without them are refused, and all messages are encrypted.

A server makes new keys when it starts and hands them to the processes that it starts. ipc endpoints need none: the
folder of their sockets belongs to one user.
"""

import logging
from typing import NamedTuple

import zmq
import zmq.auth
from zmq.auth.thread import ThreadAuthenticator

log = logging.getLogger(__name__)

DOMAIN = "gradserve"
MAX_LOGGED_KEYS = 1000  # Most unknown keys that are logged and remembered.


class Keys(NamedTuple):
    """The key pairs of the hubs and of those who connect to them, in ZeroMQ's Z85 text."""

    hub_public: str
    hub_secret: str
    peer_public: str
    peer_secret: str


def new_keys() -> Keys:
    """New random keys."""
    pairs = [each.decode() for _ in range(2) for each in zmq.curve_keypair()]
    return Keys(*pairs)


def secure_line(sock: "zmq.Socket[bytes]", keys: Keys) -> None:
    """Lets a socket connect to hubs with these keys."""
    sock.curve_publickey, sock.curve_secretkey = keys.peer_public.encode(), keys.peer_secret.encode()
    sock.curve_serverkey = keys.hub_public.encode()


def secure_hub(context: "zmq.Context[zmq.Socket[bytes]]", sock: "zmq.Socket[bytes]", keys: Keys) -> ThreadAuthenticator:
    """Makes the endpoints that the socket binds from now on accept only peers that have these keys.

    Returns the authenticator, which must be stopped; without it CURVE would encrypt, but let everybody in.
    """
    sock.curve_secretkey, sock.curve_server, sock.zap_domain = keys.hub_secret.encode(), True, DOMAIN.encode()
    authenticator = ThreadAuthenticator(context)
    authenticator.start()
    authenticator.configure_curve_callback(domain=DOMAIN, credentials_provider=_KnownPeers(keys))
    return authenticator


class _KnownPeers:
    """Accepts the peers' public key, and logs each unknown one the first time."""

    def __init__(self, keys: Keys) -> None:
        self._known, self._logged = keys.peer_public.encode(), set[bytes]()

    def callback(self, domain: str, key: bytes) -> bool:
        """Whether to accept a peer with that public key, in Z85."""
        known = key == self._known
        if not known and key not in self._logged and len(self._logged) < MAX_LOGGED_KEYS:
            self._logged.add(key)
            log.warning("a peer with an unknown key is refused")
        return known
