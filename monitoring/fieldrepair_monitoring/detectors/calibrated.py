"""The part that all detectors of this package share: fit, calibrate, score."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import numpy as np

from fieldrepair_monitoring.detectors.base import (
    MIN_REFERENCE,
    MIN_WINDOW,
    DetectorOptions,
    DriftScore,
    Reading,
    reading,
)
from fieldrepair_monitoring.detectors.calibration import (
    CAUTION,
    Calibration,
    Statistics,
    Windows,
    calibration_size,
    draw_windows,
)
from fieldrepair_monitoring.errors import DetectorError
from fieldrepair_monitoring.features import Features


class CalibratedDetector(ABC):
    """A statistic of one window, with a threshold from the reference (:mod:`.calibration`).

    A subclass says what it learns, how it computes the statistic of one window or of many, and what the statistic is
    on windows of the reference itself.

    Args:
        options: rate of false alarms, window size and the rest.
    """

    name: ClassVar[str]
    reads: ClassVar[tuple[Reading, ...]]
    power: ClassVar[float]
    """1 if the statistic is a squared distance, 0.5 if it is a distance."""
    caution: ClassVar[float] = CAUTION
    """How many times the reference's own part of the distance counts (:mod:`.calibration`)."""

    def __init__(self, options: DetectorOptions | None = None) -> None:
        self.options = options or DetectorOptions()
        self._calibration: Calibration | None = None
        self._widths: dict[Reading, int] = {}

    def fit(self, reference: Features) -> None:
        """Learn the reference, then draw the null distribution from it; see :class:`.base.Detector`."""
        self._widths = {which: reading("reference", reference, which, MIN_REFERENCE).shape[1] for which in self.reads}
        compared = self._learn(reference)
        size = calibration_size(len(compared), self.options.window_size)
        windows = draw_windows(len(compared), size, self.options.calibration_windows, self.options.seed)
        self._calibration = Calibration(
            self._leave_out(compared, windows),
            size=self._effective(size),
            rest=self._compared_with(len(compared), size),
            reference=self._compared_with(len(compared), 0),
            power=self.power,
            caution=self.caution,
            options=self.options,
        )

    def score(self, window: Features) -> DriftScore:
        """Compare one window; see :class:`.base.Detector`."""
        calibration = self._checked(window)
        return calibration.judge(self._statistic(window), self._effective(len(window)))

    def score_many(self, pool: Features, windows: Windows) -> list[DriftScore]:
        """The scores of many windows of one pool, much faster than one by one where there is algebra for it.

        Args:
            pool: ``n`` inputs.
            windows: ``(b, m)`` indices into the pool.
        """
        calibration = self._checked(pool)
        size = self._effective(windows.shape[1])
        return [calibration.judge(float(statistic), size) for statistic in self._statistics(pool, windows)]

    @abstractmethod
    def _learn(self, reference: Features) -> Features:
        """Learn from the reference; the part of it that windows are compared with from now on."""

    @abstractmethod
    def _leave_out(self, reference: Features, windows: Windows) -> Statistics:
        """The statistic of each of these windows of the reference against the reference's other inputs."""

    @abstractmethod
    def _statistic(self, window: Features) -> float:
        """The statistic of a window against the whole reference."""

    def _statistics(self, pool: Features, windows: Windows) -> Statistics:
        """The statistics of many windows of a pool."""
        return np.array([self._statistic(pool.take(window)) for window in windows])

    def _effective(self, size: int) -> int:
        """How many inputs of a window of this size the statistic averages over."""
        return size

    def _compared_with(self, reference: int, left_out: int) -> int:
        """How many reference inputs a window is compared with, if so many are in the window itself."""
        return reference - left_out

    def _checked(self, window: Features) -> Calibration:
        if self._calibration is None:
            raise DetectorError("the detector was not fitted")
        for which, columns in self._widths.items():
            rows = reading("window", window, which, MIN_WINDOW)
            if rows.shape[1] != columns:
                raise DetectorError(f"expected {which} with {columns} columns, got {rows.shape[1]}")
        return self._calibration
