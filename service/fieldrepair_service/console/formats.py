"""How the pages write times, shares and counts."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from datetime import datetime, timezone
from typing import Any

_STEPS = ((86_400, "day"), (3_600, "hour"), (60, "minute"))


def utc(ms: int) -> str:
    """``2026-11-22 15:47:03 UTC`` of epoch milliseconds."""
    return datetime.fromtimestamp(ms / 1000, timezone.utc).strftime("%Y-%m-%d %H:%M:%S UTC")


def iso(ms: int) -> str:
    """The same for machines, as ``<time datetime>`` wants it."""
    return datetime.fromtimestamp(ms / 1000, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def ago(ms: int) -> str:
    """How long ago epoch milliseconds were, roughly."""
    seconds = max(0.0, time.time() - ms / 1000)
    return "just now" if seconds < 60 else f"{duration(seconds)} ago"


def duration(seconds: float) -> str:
    """``3 hours``, ``2 minutes``, ``12 seconds``."""
    for size, name in _STEPS:
        if seconds >= size:
            return plural(int(seconds // size), name)
    return plural(int(seconds), "second")


def percent(share: float | None, digits: int = 1) -> str:
    """``87.5 %`` of 0.875; a dash for None."""
    return "-" if share is None or not math.isfinite(share) else f"{100 * share:.{digits}f} %"


def points(share: float) -> str:
    """A change of a share in percentage points, with its sign."""
    return f"{100 * share:+.1f} points"


def number(value: float | None, digits: int = 4) -> str:
    """A number with so many significant digits; whole numbers in full with thin groups; a dash for None."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return "-"
    if isinstance(value, int) or (value.is_integer() and abs(value) < 1e15):
        return f"{int(value):,}"
    return f"{value:.{digits}g}"


def plural(count: int, word: str, several: str | None = None) -> str:
    """``1 case``, ``2 cases``."""
    return f"{count:,} {word if count == 1 else several or word + 's'}"


def quoted(text: str | None) -> str:
    """Text as a Python and JSON string, for code that people copy."""
    return json.dumps(text or "")


FILTERS: dict[str, Callable[..., Any]] = {
    "utc": utc,
    "iso": iso,
    "ago": ago,
    "duration": duration,
    "percent": percent,
    "number": number,
    "points": points,
    "quoted": quoted,
}
FUNCTIONS: dict[str, Callable[..., Any]] = {"plural": plural}
