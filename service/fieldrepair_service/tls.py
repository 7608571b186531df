"""Certificates: those that the ports show, and those that upstreams have to show."""

from __future__ import annotations

import ssl
from pathlib import Path

from fieldrepair_service.errors import ConfigurationError


def server_context(name: str, cert: Path | None, key: Path | None) -> ssl.SSLContext | None:
    """What a port serves TLS with; None if it serves plain HTTP.

    Args:
        name: of the port, as its settings spell it.
        cert: PEM file with the certificate and those that it hangs on.
        key: PEM file with its key, not encrypted.

    Raises:
        ConfigurationError: if only one of the two is given, or they cannot be used.
    """
    if cert is None and key is None:
        return None
    if cert is None or key is None:
        missing = "tls_cert" if cert is None else "tls_key"
        raise ConfigurationError(f"TLS needs a certificate and its key; {name}_{missing} is not set")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(cert, key, password=lambda: b"")  # never ask on a terminal
    except (OSError, ssl.SSLError) as error:
        raise ConfigurationError(f"the {name} port cannot use the certificate {cert} with {key}: {error}") from error
    return context


def client_context(ca_file: Path | None) -> ssl.SSLContext | None:
    """How upstreams with an https URL are checked; None for the system's authorities.

    Raises:
        ConfigurationError: if the file cannot be used.
    """
    if ca_file is None:
        return None
    try:
        return ssl.create_default_context(cafile=ca_file)
    except (OSError, ssl.SSLError) as error:
        raise ConfigurationError(f"the file of certificate authorities {ca_file} cannot be used: {error}") from error
