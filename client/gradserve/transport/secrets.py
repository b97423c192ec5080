"""What TLS needs: whom a client trusts, and the certificate by which it is known itself."""

import os
from pathlib import Path
from typing import Any

import grpc

PathLike = str | os.PathLike[str]
Tls = bool | PathLike | None
_CERTIFICATE, _KEY = b"CERTIFICATE-----", b"PRIVATE KEY-----"  # What files in PEM have in them.


def credentials(tls: Tls, certificate: PathLike | None = None, key: PathLike | None = None) -> Any:
    """The credentials of a channel, or None without TLS.

    tls: True for the system's authorities, or a file with the certificates of those that are trusted. certificate, key:
    files by which a server knows this client; they imply TLS. All files are PEM. Raises ValueError and OSError.
    """
    if (certificate is None) != (key is None):
        missing, given = ("key", "certificate") if key is None else ("certificate", "key")
        raise ValueError(
            f"{missing} is missing: {given} needs it, since a client's certificate and its key go together"
        )
    if tls is False and certificate is not None:
        raise ValueError("certificate and key are shown over TLS only; leave tls=False out")
    if not tls and certificate is None:
        return None
    roots = None if tls is None or tls is True else _pem("tls", tls, _CERTIFICATE, "certificate")
    if certificate is None or key is None:
        return grpc.ssl_channel_credentials(roots)
    chain = _pem("certificate", certificate, _CERTIFICATE, "certificate")
    return grpc.ssl_channel_credentials(roots, _pem("key", key, _KEY, "private key"), chain)


def _pem(argument: str, path: Any, mark: bytes, what: str) -> bytes:
    """The file's bytes. Raises ValueError where they hold no such thing in PEM."""
    if not isinstance(path, (str, os.PathLike)):
        raise TypeError(f"{argument} is the path of a file in PEM, not {path!r}")
    data = Path(path).read_bytes()
    if mark not in data:
        raise ValueError(f"{argument}: {os.fspath(path)} holds no {what} in PEM")
    return data
