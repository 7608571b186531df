"""What a detector remembers of the windows before: a mean of long ago, the last few windows, and how inputs scatter.

Everything is in coordinates (:mod:`.coordinates`) in which the reference has mean 0 and variance 1. The size is
fixed, however long the field has been watched.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

Vector = npt.NDArray[np.float64]

RECENT = 8
"""So many of the last windows are kept one by one; older ones are in the mean of long ago."""
_NUMBERS = 3
_PROBE_TOLERANCE = 0.02


@dataclass(frozen=True)
class RecentWindow:
    """One of the last windows."""

    size: int
    mean: Vector
    """``(k,)``."""
    scatter: Vector
    """``(k, k)`` sum of squares and products of its inputs around their mean."""
    calm: bool
    """Only calm windows become part of the past that others are compared with."""


@dataclass(frozen=True)
class FieldHistory:
    """The field so far, in ``k`` coordinates. Unchangeable: what comes after a window is a new one."""

    past_sum: Vector
    """``(k,)`` sum over the inputs of calm windows that are no longer among the recent ones: the past."""
    past_scatter: Vector
    """``(k, k)`` sum of squares and products of these inputs, each around the mean of its window."""
    past_inputs: int = 0
    past_windows: int = 0
    past_squares: float = 0.0
    """Over the past windows: size times squared length of the mean. Says how much windows differ from one another."""
    recent: tuple[RecentWindow, ...] = ()
    """Oldest first."""

    @classmethod
    def empty(cls, k: int) -> FieldHistory:
        """Before the first window."""
        return cls(np.zeros(k), np.zeros((k, k)))

    @property
    def past_mean(self) -> Vector:
        """``(k,)`` mean of all inputs of long ago; there must be some."""
        return self.past_sum / self.past_inputs

    @property
    def freedom(self) -> int:
        """Degrees of freedom in ``past_scatter``."""
        return self.past_inputs - self.past_windows

    def latest(self, window: Vector) -> tuple[Vector, Vector]:
        """Sizes ``(w,)`` and means ``(w, k)`` of the windows kept one by one, oldest first, and of a new one."""
        sizes = np.array([*(each.size for each in self.recent), len(window)], dtype=np.float64)
        return sizes, np.stack([*(each.mean for each in self.recent), window.mean(axis=0)])

    def after(self, window: Vector, *, calm: bool) -> FieldHistory:
        """This history and one more window.

        Args:
            window: ``(m, k)`` coordinates of its inputs.
            calm: whether it looked like those before; one that did not is no standard for later ones.
        """
        recent = (*self.recent, RecentWindow(len(window), window.mean(axis=0), scatter_of(window), calm))
        if len(recent) <= RECENT or not recent[0].calm:
            return replace(self, recent=recent[-RECENT:])
        oldest = recent[0]
        return FieldHistory(
            past_sum=self.past_sum + oldest.size * oldest.mean,
            past_scatter=self.past_scatter + oldest.scatter,
            past_inputs=self.past_inputs + oldest.size,
            past_windows=self.past_windows + 1,
            past_squares=self.past_squares + oldest.size * float(oldest.mean @ oldest.mean),
            recent=recent[1:],
        )

    def to_text(self, probe: Vector) -> str:
        """All of it as ASCII, for the case book.

        Args:
            probe: ``(k,)`` some input in these coordinates, to know them again by.
        """
        k = len(self.past_sum)
        corner = np.triu_indices(k)
        kept = np.zeros((RECENT, 2 + k + len(corner[0])))
        for at, window in enumerate(self.recent):
            kept[at] = [window.size, float(window.calm), *window.mean, *window.scatter[corner]]
        numbers = [self.past_inputs, self.past_windows, self.past_squares]
        past = np.concatenate([probe, numbers, self.past_sum, self.past_scatter[corner]])
        # The past adds up for years, recent windows do not: half the digits will do for these.
        written = past.astype("<f8").tobytes() + kept.astype("<f4").tobytes()
        return base64.b64encode(written).decode("ascii")

    @classmethod
    def from_text(cls, text: str, probe: Vector) -> FieldHistory | None:
        """What :meth:`to_text` wrote; None if it is damaged, or was written in other coordinates."""
        k = len(probe)
        corner = k * (k + 1) // 2
        parts = [k, _NUMBERS, k, corner]
        long, short = 8 * sum(parts), 4 * RECENT * (2 + k + corner)
        try:
            written = base64.b64decode(text, validate=True)
        except (ValueError, binascii.Error):
            return None
        if len(written) != long + short:
            return None
        past = np.frombuffer(written[:long], dtype="<f8").astype(np.float64)
        kept = np.frombuffer(written[long:], dtype="<f4").astype(np.float64).reshape(RECENT, -1)
        known, numbers, past_sum, past_scatter = np.split(past, np.cumsum(parts)[:-1])
        if not (np.isfinite(past).all() and np.isfinite(kept).all()):
            return None
        if not np.allclose(known, probe, rtol=_PROBE_TOLERANCE, atol=_PROBE_TOLERANCE):
            return None
        return cls(
            past_sum=past_sum,
            past_scatter=_symmetric(past_scatter, k),
            past_inputs=int(numbers[0]),
            past_windows=int(numbers[1]),
            past_squares=float(numbers[2]),
            recent=tuple(
                RecentWindow(int(row[0]), row[2 : 2 + k], _symmetric(row[2 + k :], k), bool(row[1]))
                for row in kept
                if row[0] > 0
            ),
        )


def scatter_of(window: Vector) -> Vector:
    """``(k, k)`` sum of squares and products of ``(m, k)`` inputs around their mean."""
    moved = window - window.mean(axis=0)
    return moved.T @ moved


def _symmetric(corner: Vector, k: int) -> Vector:
    """``(k, k)`` from its upper right corner."""
    matrix = np.zeros((k, k))
    matrix[np.triu_indices(k)] = corner
    return matrix + np.triu(matrix, 1).T
