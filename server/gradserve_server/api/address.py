"""The server's address and certificate, checked before the models are loaded."""

import socket
import ssl
from pathlib import Path

from ..config import ServerSettings


class ReservedAddress:
    """The address that the service will listen on.

    Nobody else can take it, and until the service listens connections are refused, so that callers and balancers turn
    to other servers while this one loads its models.
    """

    def __init__(self, settings: ServerSettings) -> None:
        """Raises OSError where it cannot be had."""
        self.text = settings.address(settings.port)
        self._path = settings.socket
        self._socket: socket.socket | None = None
        self.check_unused()
        if self._path is None:
            try:
                self._socket = _bound(settings.host.strip("[]"), settings.port)
            except OSError as error:
                reason = f"{error.strerror or error}; --port 0 takes a free port"
                raise OSError(f"cannot listen on {self.text}: {reason}") from error
            self.text = settings.address(self._socket.getsockname()[1])

    def check_unused(self) -> None:
        """Raises OSError where a server listens on the unix socket: gRPC would take it away from it."""
        if self._path is None:
            return
        if not Path(self._path).parent.is_dir():
            raise OSError(f"cannot listen on {self.text}: there is no folder {Path(self._path).parent}")
        with socket.socket(socket.AF_UNIX) as probe:
            try:
                probe.connect(self._path)
            except OSError:  # No process listens, or there is no such file. gRPC reports any other fault.
                return
        raise OSError(f"cannot listen on {self.text}: another process does; stop that, or take another path")

    def release(self) -> None:
        """For when the service listens, or never will."""
        if self._socket is not None:
            self._socket.close()


def _bound(host: str, port: int) -> socket.socket:
    """A socket that does not listen; gRPC can bind the same address, since both let it be reused."""
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    holder = socket.socket(family, kind, protocol)
    try:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind(address)
    except OSError:
        holder.close()
        raise
    return holder


def certificate(settings: ServerSettings) -> tuple[bytes, bytes] | None:
    """The private key and the certificate, if the service is to speak TLS. Raises OSError where they are of no use."""
    if not (settings.tls_certificate and settings.tls_key):
        return None
    pair = settings.tls_key.read_bytes(), settings.tls_certificate.read_bytes()
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(settings.tls_certificate, settings.tls_key)
    except ssl.SSLError as error:
        files = f"{settings.tls_certificate} and {settings.tls_key}"
        raise OSError(f"{files} are no certificate with its private key: {error}") from error
    return pair
