"""The server's address and certificate, checked before the models are loaded."""

import socket
import ssl
from pathlib import Path

from ...config import ServerSettings


class ReservedAddress:
    """The address that the service will listen on.

    It is bound from the start, so that a server which listens there already is found before the models are loaded.
    Until the service listens connections are refused, so that callers and balancers turn to other servers meanwhile.
    """

    def __init__(self, settings: ServerSettings, *, shared: bool = False) -> None:
        """`shared`: whether several front-ends listen on the port. Raises OSError where the address cannot be had."""
        self.text, self.port = settings.address(settings.port), settings.port
        self._socket: socket.socket | None = None
        check_unused(settings)
        if settings.socket is None:
            try:
                self._socket = bound(settings.host.strip("[]"), settings.port, shared)
            except OSError as error:
                reason = f"{error.strerror or error}; --port 0 takes a free port"
                raise OSError(f"cannot listen on {self.text}: {reason}") from error
            self.port = self._socket.getsockname()[1]
            self.text = settings.address(self.port)

    def release(self) -> None:
        """Frees the address, once the service listens no more."""
        if self._socket is not None:
            self._socket.close()


def check_unused(settings: ServerSettings) -> None:
    """Raises OSError where a server listens on the unix socket: gRPC would take it away from it."""
    path, text = settings.socket, settings.address(settings.port)
    if path is None:
        return
    if not Path(path).parent.is_dir():
        raise OSError(f"cannot listen on {text}: there is no folder {Path(path).parent}")
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(path)
        except OSError:  # No process listens, or there is no such file. gRPC reports any other fault.
            return
    raise OSError(f"cannot listen on {text}: another process does; stop that, or take another path")


def bound(host: str, port: int, shared: bool = False) -> socket.socket:
    """A socket that is bound to the address and does not listen; front-ends can bind the same address. Raises OSError.

    `shared`: several front-ends can listen there, each with SO_REUSEPORT. The port must be free before it is shared.
    """
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    holder = socket.socket(family, kind, protocol)
    try:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind(address)
        if shared:
            address = holder.getsockname()
            holder.close()
            holder = socket.socket(family, kind, protocol)
            holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            holder.bind(address)
    except OSError:
        holder.close()
        raise
    return holder


def check_certificates(settings: ServerSettings) -> None:
    """Raises OSError where the files for TLS are of no use."""
    if not (settings.tls_certificate and settings.tls_key):
        return
    for path in filter(None, (settings.tls_key, settings.tls_certificate, settings.tls_client_ca)):
        path.read_bytes()  # Unlike the errors of what follows, this one names the file.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(settings.tls_certificate, settings.tls_key)
    except ssl.SSLError as error:
        files = f"{settings.tls_certificate} and {settings.tls_key}"
        raise OSError(f"{files} are no certificate with its private key: {error}") from error
    if settings.tls_client_ca:
        try:
            context.load_verify_locations(settings.tls_client_ca)
        except ssl.SSLError as error:
            raise OSError(f"{settings.tls_client_ca} has no certificates of authorities: {error}") from error
