"""The server's certificate, and the authorities of its clients', read again when their files change."""

import logging
from pathlib import Path

import grpc

from ...config import ServerSettings
from .address import check_certificates

log = logging.getLogger(__name__)


class Certificates:
    """The credentials of a server that speaks TLS. Files at fault are logged, and the old ones stay."""

    def __init__(self, settings: ServerSettings) -> None:
        """Raises OSError."""
        check_certificates(settings)
        self._settings, self._files = settings, _contents(settings)

    def credentials(self) -> grpc.ServerCredentials:
        """For gRPC, which asks at every connection for what has changed."""
        return grpc.dynamic_ssl_server_credentials(
            _configuration(self._files), self._changed, require_client_authentication=bool(self._settings.tls_client_ca)
        )

    def _changed(self) -> grpc.ServerCertificateConfiguration | None:
        try:
            files = _contents(self._settings)
            if files == self._files:
                return None
            check_certificates(self._settings)
        except OSError as error:
            log.error("the new files for TLS are at fault, and the old ones stay: %s", error)
            return None
        self._files = files
        log.info("the files for TLS were read again")
        return _configuration(files)


def _contents(settings: ServerSettings) -> tuple[bytes | None, ...]:
    """The contents of the files of the key, the certificate, and the certificates of authorities; None for no file."""
    paths: tuple[Path | None, ...] = (settings.tls_key, settings.tls_certificate, settings.tls_client_ca)
    return tuple(path.read_bytes() if path else None for path in paths)


def _configuration(files: tuple[bytes | None, ...]) -> grpc.ServerCertificateConfiguration:
    key, certificate, authorities = files
    return grpc.ssl_server_certificate_configuration([(key, certificate)], authorities)
