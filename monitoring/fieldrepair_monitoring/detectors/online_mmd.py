"""Online MMD: a short window slides over the field inputs one by one, as alibi-detect's ``MMDDriftOnline`` does it.

It sees a shift that fills only part of a window. alibi-detect's detector keeps every statistic it ever computed, so its
memory grows without bound; the remedy is to rebuild it on a schedule. Here the schedule is the monitor's window: the
slide begins anew with each, nothing is carried over, and the same window always gets the same answer, after a restart
too.

The expected run time (inputs until a false alarm, if nothing changes) is ``window_size / p_value``: the threshold is
such that a window of that size raises one with probability ``p_value``.
"""

from __future__ import annotations

import numpy as np
import torch

from fieldrepair_monitoring.detectors.calibration import Statistics, Windows
from fieldrepair_monitoring.detectors.kernel_distance import to_numpy
from fieldrepair_monitoring.detectors.mmd import MmdDetector
from fieldrepair_monitoring.features import Features

SLIDES = 2
"""A window of the monitor is so many times as long as the one that slides over it."""
SHORTEST = 10


class OnlineMmdDetector(MmdDetector):
    """The largest MMD^2 that a short window reaches while it slides over the window's inputs in order."""

    name = "online_mmd"

    @property
    def sliding(self) -> int:
        """Inputs in the window that slides."""
        return max(SHORTEST, self.options.window_size // SLIDES)

    @property
    def expected_run_time(self) -> float:
        """Field inputs until a false alarm, on average."""
        return self.options.window_size / self.options.p_value

    def _leave_out(self, reference: Features, windows: Windows) -> Statistics:
        rows = self.distance.reference
        with torch.inference_mode():
            matrix = to_numpy(self.distance.kernel(rows, rows).fill_diagonal_(0.0))
        n, m = len(matrix), windows.shape[1]
        totals, everything = matrix.sum(axis=1), float(matrix.sum())
        found = np.empty(len(windows))
        for at, window in enumerate(windows):
            own = matrix[np.ix_(window, window)]
            inside = own.sum(axis=1)
            among_rest = everything - 2.0 * float(totals[window].sum()) + float(own.sum())
            to_rest = (totals[window] - inside) / (n - m)
            found[at] = self._slide(own, to_rest).max() + among_rest / ((n - m) * (n - m - 1))
        return found

    def _statistic(self, window: Features) -> float:
        return float(self.trajectory(window).max())

    def _statistics(self, pool: Features, windows: Windows) -> Statistics:
        return np.array([self._statistic(pool.take(window)) for window in windows])

    def trajectory(self, window: Features) -> Statistics:
        """MMD^2 after each input from the first full slide on: ``(len(window) - sliding + 1,)``."""
        moved = self._moved(window.embeddings)
        with torch.inference_mode():
            own = to_numpy(self.distance.kernel(moved, moved).fill_diagonal_(0.0))
            towards = to_numpy(self.distance.kernel(self.distance.reference, moved).mean(0, dtype=torch.float64))
        return self._slide(own, towards) + self.distance.within

    def _slide(self, own: Statistics, towards: Statistics) -> Statistics:
        """The part of MMD^2 that depends on the sliding window, at each of its positions.

        Args:
            own: ``(m, m)`` similarities of a window's inputs, zero on the diagonal.
            towards: ``(m,)`` mean similarity of each to the reference.
        """
        m, w = len(own), min(self.sliding, len(own))
        sums = np.zeros((m + 1, m + 1))
        sums[1:, 1:] = own.cumsum(0).cumsum(1)
        at = np.arange(m - w + 1)
        within = sums[at + w, at + w] - 2.0 * sums[at, at + w] + sums[at, at]
        passed = np.concatenate([[0.0], towards.cumsum()])
        return within / (w * (w - 1)) - 2.0 * (passed[at + w] - passed[at]) / w

    def _effective(self, size: int) -> int:
        return min(size, self.sliding)
