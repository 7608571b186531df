"""How a long repair says where it is, so that a terminal, the case book and MLflow can all listen."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class ProgressEvent:
    """One step forward.

    Stages, in order: ``unsmoothness``, ``threshold``, ``regions``, ``exemplars`` while selecting; then per epoch
    ``replay``, ``supervised``, ``consistency``, ``unsmoothness``, and ``training`` when the epoch is complete.
    """

    stage: str
    done: int
    """Units finished: inputs, batches or epochs, whichever the stage counts."""
    total: int
    """Units in the stage."""
    metrics: Mapping[str, float] = field(default_factory=lambda: dict[str, float]())
    """What was measured: for ``training`` the epoch's record, within an epoch its number as ``epoch``."""


Progress = Callable[[ProgressEvent], None]
"""A listener. What it raises ends the repair: that is how a caller cancels one."""


def silent(event: ProgressEvent) -> None:
    """Listen to nothing."""
