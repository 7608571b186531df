"""The form of addresses that settings and requests name."""

from __future__ import annotations

from urllib.parse import urlsplit

from fieldrepair_service.errors import ConfigurationError


def normalise_http_url(url: str, what: str) -> str:
    """The URL without a slash at its end.

    Args:
        url: to check.
        what: it is to be, as messages name it, say "an upstream".

    Raises:
        ConfigurationError: if it is not ``http(s)://host[:port][/prefix]``.
    """
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
        usable = usable and url.isascii() and url.isprintable() and " " not in url  # its path goes into request lines
    except ValueError:
        usable, parts = False, None
    if not usable or parts is None or parts.query or parts.fragment or parts.username or parts.password:
        raise ConfigurationError(f"{what} must look like http://host:port, got {url!r}")
    return url.rstrip("/")
