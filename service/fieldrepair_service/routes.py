"""Which request path belongs to which protocol: the one table of it.

The request path looks up the protocol's name here and keeps the path as bytes; which model the path names is read
later, by the decoders, with the same pattern.
"""

from __future__ import annotations

import re
from urllib.parse import unquote_to_bytes

MLFLOW = "mlflow"
OPEN_INFERENCE = "open_inference"
TORCHSERVE = "torchserve"
KSERVE = "kserve"
"""Mirrored traffic, which comes without its path."""

# One alternative per protocol, named by it; inside, at most two groups: the model's name, and its version.
_ROUTES = re.compile(
    rb"(?P<mlflow>/invocations)"
    rb"|(?P<open_inference>/v2/models/([^/]+)(?:/versions/([^/]+))?/infer)"
    rb"|(?P<torchserve>/predictions/([^/]+)(?:/([^/]+))?)"
)


def protocol_of(method: str, raw_path: bytes) -> str | None:
    """The protocol that a request speaks, by its method and path; None if none of those that are decoded."""
    if method != "POST":
        return None
    match = _ROUTES.fullmatch(raw_path)
    return None if match is None else match.lastgroup


def model_in(path: str) -> tuple[str, str]:
    """(name, version) of the model that a scoring request's path names; empty where it does not."""
    match = _ROUTES.fullmatch(path.encode("latin-1", "replace"))
    if match is None or match.lastindex is None:
        return "", ""
    name, version = (*match.groups()[match.lastindex :], None, None)[:2]
    return _text(name), _text(version)


def _text(part: bytes | None) -> str:
    return "" if part is None else unquote_to_bytes(part).decode("utf-8", "replace")
