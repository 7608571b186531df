"""Which control ports the names of sidecars stand for, at present."""

from __future__ import annotations

import asyncio
import socket
from dataclasses import dataclass
from urllib.parse import urlsplit

from fieldrepair_service.http_url import normalise_http_url

_DEFAULT_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True)
class SidecarName:
    """A sidecar, or several under one host name, as the settings name it."""

    url: str
    """Without a slash at its end."""
    scheme: str
    host: str
    port: int
    prefix: str
    """Path before ``/metrics``; empty or with a slash at its start."""

    @property
    def authority(self) -> str:
        """Host and port as a request's Host header has them."""
        return urlsplit(self.url).netloc


@dataclass(frozen=True)
class SidecarAddress:
    """One control port."""

    name: SidecarName
    """What it was found under."""
    url: str
    """With the IP address in place of the host name."""


def parse_sidecar(url: str) -> SidecarName:
    """A sidecar's control URL.

    Raises:
        ConfigurationError: if it is not ``http(s)://host[:port][/prefix]``.
    """
    url = normalise_http_url(url, "a sidecar's control URL")
    parts = urlsplit(url)
    port = parts.port or _DEFAULT_PORTS[parts.scheme]
    return SidecarName(url, parts.scheme, parts.hostname or "", port, parts.path)


async def addresses_of(name: SidecarName) -> list[SidecarAddress]:
    """Every address of the host, of one family: IPv4 where there is any, since hosts with both have each twice.

    Raises:
        OSError: the name cannot be resolved.
    """
    found = await asyncio.get_running_loop().getaddrinfo(name.host, name.port, type=socket.SOCK_STREAM)
    family = socket.AF_INET if any(each[0] == socket.AF_INET for each in found) else socket.AF_INET6
    hosts = dict.fromkeys(str(each[4][0]) for each in found if each[0] == family)
    return [SidecarAddress(name, f"{name.scheme}://{_in_url(host)}:{name.port}{name.prefix}") for host in hosts]


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host
