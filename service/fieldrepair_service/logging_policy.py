"""What of the traffic is logged: the choices of the operator, as the request path looks them up."""

from __future__ import annotations

from dataclasses import dataclass

from fieldrepair_service.routes import protocol_of


@dataclass(frozen=True)
class LoggingPolicy:
    """Which requests are logged, and how much of each. Read on the request path, so every look-up is cheap."""

    sampling_fraction: float = 1.0
    """Chance, in (0, 1], with which a scoring request is logged."""
    max_logged_body: int = 4 << 20
    """Largest request or answer body that is logged, in bytes."""
    kept_headers: frozenset[bytes] = frozenset()
    """Names, in lower case, of the request header fields that are logged with it."""

    def protocol_of(self, method: str, raw_path: bytes) -> str | None:
        """The protocol in which a request is logged, by its method and path; None if it is not logged."""
        return protocol_of(method, raw_path)
