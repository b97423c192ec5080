"""Why a server cannot be reached, found out by connecting to its port without gRPC."""

import socket
import ssl

from gradserve.transport import address
from gradserve.transport.channel import Endpoint

_SECONDS = 2.0  # How long each look at the port may take.
# What a client of HTTP/2 sends first: the preface, and SETTINGS without any (RFC 9113, sections 3.4 and 6.5).
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
_SETTINGS = 4  # The type of the frame that a server of HTTP/2 sends first, in its byte 3.


def cause(endpoint: Endpoint, *, late: bool) -> str:
    """Why no answer came from that server; "" where it cannot be found out, as behind a proxy.

    `late`: the call ran out of time, so that a server may well listen.
    """
    target = endpoint.target
    if endpoint.proxy or (target.startswith(address.SCHEMES) and not target.startswith("unix:")):
        return ""
    try:
        with _connected(target) as connection:
            first = b"" if endpoint.tls else _first_bytes(connection)
    except OSError as error:
        return _about_connecting(target, error)
    if first[3:4] == bytes([_SETTINGS]):
        return f"a server listens on {target}, but did not answer in time: --timeout allows more" if late else ""
    return _about_tls(endpoint)


def _about_connecting(target: str, error: OSError) -> str:
    if isinstance(error, socket.gaierror):
        return f"no host is called {target.rpartition(':')[0]}"
    if isinstance(error, (ConnectionRefusedError, FileNotFoundError)):
        hint = "`gradserve serve` starts a server, which listens when its models are loaded; --server says where it is"
        return f"nobody listens on {target}: {hint}"
    if isinstance(error, TimeoutError):
        return f"{target} does not answer: the machine is down, or a firewall is in between"
    return f"{target} cannot be reached: {error.strerror or error}"


def _about_tls(endpoint: Endpoint) -> str:
    """What a handshake that trusts every certificate tells of a port where somebody listens."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    try:
        with _connected(endpoint.target) as connection, context.wrap_socket(connection):
            speaks = True
    except OSError:  # An ssl.SSLError is one too.
        speaks = False
    if not speaks:
        reply = "speaks no TLS: leave --tls and --ca out, and https:// or grpcs://"
        return f"{endpoint.target} {reply if endpoint.tls else 'speaks neither gRPC nor TLS'}"
    if endpoint.tls:
        return (
            f"{endpoint.target} speaks TLS, but its certificate is perhaps not trusted, or made out to another name: "
            "--ca FILE says whom to trust"
        )
    return f"{endpoint.target} speaks TLS: give --tls, or --ca FILE where its certificate is your own"


def _connected(target: str) -> socket.socket:
    if target.startswith("unix:"):
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(_SECONDS)
        path = target.removeprefix("unix:")
        try:
            connection.connect(path.removeprefix("//"))
        except OSError:
            connection.close()
            raise
        return connection
    host, _, port = target.rpartition(":")
    return socket.create_connection((host.strip("[]"), int(port)), _SECONDS)


def _first_bytes(connection: socket.socket) -> bytes:
    """What is answered to the first words of HTTP/2; nothing where the connection ends or stays silent."""
    try:
        connection.sendall(_PREFACE)
        return connection.recv(64)
    except OSError:
        return b""
