"""Kolmogorov-Smirnov on every column of some features; the largest distance counts."""

from __future__ import annotations

from abc import abstractmethod

from fieldrepair_monitoring.detectors.calibrated import CalibratedDetector
from fieldrepair_monitoring.detectors.calibration import Statistics, Windows
from fieldrepair_monitoring.detectors.kolmogorov import ks_distances, leave_out_distances
from fieldrepair_monitoring.features import Features, FloatArray


class ColumnsKsDetector(CalibratedDetector):
    """The largest Kolmogorov-Smirnov distance over the columns.

    The null distribution is that of the largest of all columns' distances on windows of the reference, so looking at
    many columns costs no false alarms, and columns that depend on each other cost no power.
    """

    power = 0.5

    def _learn(self, reference: Features) -> Features:
        self._reference = self._read(reference)
        return reference

    def _leave_out(self, reference: Features, windows: Windows) -> Statistics:
        return leave_out_distances(self._reference, windows).max(axis=1)

    def _statistics(self, pool: Features, windows: Windows) -> Statistics:
        return ks_distances(self._reference, self._read(pool), windows).max(axis=1)

    def _statistic(self, window: Features) -> float:
        return max(self._distances(self._read(window)))

    @abstractmethod
    def _read(self, features: Features) -> FloatArray:
        """``(n, columns)``: what is compared."""

    @abstractmethod
    def _distances(self, window: FloatArray) -> list[float]:
        """The distance of each column of a window, by the library."""
