"""What of the traffic is logged: the choices of the operator, as the request path looks them up."""

from __future__ import annotations

import fnmatch
import random
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import orjson

from fieldrepair_service.drops import EXCLUDED, NOT_SAMPLED
from fieldrepair_service.routes import protocol_of

TRACEPARENT = b"traceparent"
_LONGEST_HEADER = 1_000
# Version, trace, parent, flags; later versions may append fields (W3C Trace Context, section 3.2).
_TRACEPARENT = re.compile(rb"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(?:-.*)?")


@dataclass(frozen=True)
class LoggingPolicy:
    """Which requests are logged, and how much of each. Read on the request path, so every look-up is cheap."""

    sampling_fraction: float = 1.0
    """Chance, in (0, 1], with which a scoring request is logged."""
    max_logged_body: int = 4 << 20
    """Largest request or answer body that is logged, in bytes."""
    kept_headers: frozenset[bytes] = frozenset()
    """Names, in lower case, of the request header fields that are logged with it."""
    include: tuple[str, ...] = ()
    """Patterns of paths; if there are any, only scoring requests whose path matches one are logged. ``*`` stands for
    any characters, slashes too, ``?`` for one, ``[ab]`` for one of several."""
    exclude: tuple[str, ...] = ()
    """Patterns of paths that are not logged; these come before ``include``."""

    def protocol_of(self, method: str, raw_path: bytes) -> str | None:
        """The protocol of a scoring request, by its method and path; None if it is none."""
        return protocol_of(method, raw_path)

    def left_out(self, raw_path: bytes) -> str | None:
        """Why a scoring request is not logged: the reason to count it under; None if it is. Each call draws anew."""
        if self._excluded is not None and self._excluded.fullmatch(raw_path):
            return EXCLUDED
        if self._included is not None and not self._included.fullmatch(raw_path):
            return EXCLUDED
        if self.sampling_fraction < 1.0 and random.random() >= self.sampling_fraction:  # noqa: S311 - a sample, no secret
            return NOT_SAMPLED
        return None

    def kept(self, headers: Iterable[tuple[bytes, bytes]]) -> str:
        """The header fields to log as a JSON object of text; empty if there are none.

        Repeated fields are joined by a comma, as RFC 9110 has it, and each is cut at 1,000 characters.
        """
        if not self.kept_headers:
            return ""
        kept: dict[str, str] = {}
        for name, value in headers:
            if name in self.kept_headers:
                key, text = name.decode("latin-1"), value.decode("latin-1")
                kept[key] = f"{kept[key]}, {text}" if key in kept else text
        return orjson.dumps({name: text[:_LONGEST_HEADER] for name, text in kept.items()}).decode() if kept else ""

    @cached_property
    def _included(self) -> re.Pattern[bytes] | None:
        return _any_of(self.include)

    @cached_property
    def _excluded(self) -> re.Pattern[bytes] | None:
        return _any_of(self.exclude)


def trace_id_of(traceparent: bytes) -> str:
    """The trace id in a ``traceparent`` header; empty if it is not what W3C Trace Context says it is."""
    return read_traceparent(traceparent)[0]


def read_traceparent(traceparent: bytes) -> tuple[str, str, bool]:
    """(trace id, span id of the sender, whether it is sampled); empty ids if it is not what the standard says."""
    match = _TRACEPARENT.fullmatch(traceparent.strip())
    if match is None:
        return "", "", False
    return match[1].decode("ascii"), match[2].decode("ascii"), bool(int(match[3], 16) & 1)


def header_names(names: Sequence[str]) -> frozenset[bytes]:
    """Names of header fields as they arrive: in lower case, as bytes."""
    return frozenset(name.strip().lower().encode("latin-1", "replace") for name in names if name.strip())


def _any_of(patterns: tuple[str, ...]) -> re.Pattern[bytes] | None:
    if not patterns:
        return None
    return re.compile(b"|".join(b"(?:%s)" % fnmatch.translate(each).encode("utf-8") for each in patterns))
