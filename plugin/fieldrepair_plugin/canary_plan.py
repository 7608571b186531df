"""How a new version is let in. By itself, so that a command's settings can name it without loading anything."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class CanaryPlan:
    """How a new version is let in."""

    percent: float = 0.0
    """Share of the traffic it gets at first; 0: all of it at once, without a canary."""
    seconds: float = 600.0
    """For how long, at least."""
    requests: int = 100
    """And until it had so many."""
    max_failures: float = 0.02
    """Share of failures that it may have more than the champion."""
    max_slowdown: float = 1.5
    """Mean time, as a multiple of the champion's, that it may take."""
    max_accuracy_loss: float = 0.05
    """Estimated accuracy that it may have less than the champion."""

    @property
    def wanted(self) -> bool:
        """Whether there is to be a canary at all."""
        return self.percent > 0
