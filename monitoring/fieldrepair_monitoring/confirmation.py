"""From single windows to a shift: when one has begun, when it hurts, and when it is over.

Everything here is a function of windows that are in the case book, so a restarted monitor decides as it would have.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fieldrepair_service.case_book import WindowRecord

AS_RARE_AS = 2
"""Alarms in different windows that are as rare by chance as one that needs no confirmation."""


@dataclass(frozen=True)
class Shift:
    """A confirmed shift."""

    windows: tuple[WindowRecord, ...]
    """The drifted windows among those looked back on, oldest first."""
    field_inputs: int
    """From the first input of the first drifted window to the last input of the last window."""
    estimated_accuracy: float | None
    """Mean over the drifted windows; None if none has an estimate."""

    @property
    def start(self) -> WindowRecord:
        """The window it began with."""
        return self.windows[0]


@dataclass(frozen=True)
class Confirmation:
    """``confirmations`` of the last ``windows`` windows make a shift; ``windows`` calm ones in a row end it.

    One window makes a shift if it needs no other to confirm it (:attr:`.detectors.DriftScore.confirmed`): that is as
    rare by chance as two independent alarms, so it does where two are enough.
    """

    confirmations: int
    windows: int

    def shift(self, recent: Sequence[WindowRecord], *, confirmed: bool = False) -> Shift | None:
        """The shift that the last windows show.

        Args:
            recent: windows in order, the newest last; only the last ``self.windows`` count.
            confirmed: whether the newest, which has drifted, needs no other to confirm it.
        """
        looked_at = list(recent)[-self.windows :]
        drifted = [window for window in looked_at if window.drifted]
        if len(drifted) < self.confirmations and not (confirmed and self.confirmations <= AS_RARE_AS):
            return None
        estimates = [window.estimated_accuracy for window in drifted if window.estimated_accuracy is not None]
        return Shift(
            windows=tuple(drifted),
            field_inputs=sum(window.size for window in looked_at if window.index >= drifted[0].index),
            estimated_accuracy=sum(estimates) / len(estimates) if estimates else None,
        )

    def calm(self, recent: Sequence[WindowRecord]) -> bool:
        """Whether the last ``self.windows`` windows are all there and none drifted."""
        looked_at = list(recent)[-self.windows :]
        return len(looked_at) == self.windows and not any(window.drifted for window in looked_at)


def hurts(shift: Shift, *, reference_accuracy: float, margin: float) -> bool:
    """Whether a shift's estimated accuracy lies at least ``margin`` below the reference; unknown counts as harm."""
    if shift.estimated_accuracy is None:
        return True
    # Compared as a loss with a hair of tolerance, so that exactly the margin counts whatever the rounding.
    return reference_accuracy - shift.estimated_accuracy >= margin - 1e-9
