"""What a trial is, as it comes out of the case book."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from fieldrepair_service.case_book.records import JsonObject


class TrialKind(str, Enum):
    """How a candidate is tried."""

    SHADOW = "shadow"
    """It answers a copy of some of the traffic; nobody gets its answers."""
    CANARY = "canary"
    """It answers a share of the traffic."""

    __str__ = str.__str__


class TrialState(str, Enum):
    """How far a trial is, or how it ended."""

    RUNNING = "running"
    ENDED = "ended"
    """A shadow whose candidate waits no more."""
    PASSED = "passed"
    """A canary that took over."""
    ROLLED_BACK = "rolled_back"
    """A canary that did worse than the champion, and lost its share."""
    CANCELLED = "cancelled"
    """A canary that ended for another reason: the alias moved."""

    __str__ = str.__str__


@dataclass(frozen=True)
class Trial:
    """One shadow or canary."""

    id: int
    kind: TrialKind
    state: TrialState
    model_name: str
    champion_version: str
    candidate_version: str
    reason: str
    """Why it is in this state."""
    report: JsonObject
    """What was measured; see :mod:`fieldrepair_service.trial_reports`."""
    started_ms: int
    updated_ms: int
    ended_ms: int | None
