"""Tables: Kolmogorov-Smirnov for each number column and chi-square for each category column, as one decision.

Each column gives a p-value (Smirnov's limit, Pearson's limit). They are combined by Bonferroni (the smallest, times the
number of columns) or Benjamini-Hochberg (Simes: the smallest of ``p(i) f / i``), and the combined value is then ranked
among those of calibration windows like any other statistic: columns that depend on each other, small counts and ties
make limits wrong, and the ranking does not mind.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import chdtrc, kolmogi, kolmogorov

from fieldrepair_monitoring.detectors.base import DetectorOptions, reading
from fieldrepair_monitoring.detectors.calibrated import CalibratedDetector
from fieldrepair_monitoring.detectors.calibration import Statistics, Windows
from fieldrepair_monitoring.detectors.chi_square import chi_square, count_categories
from fieldrepair_monitoring.detectors.combination import Multiplicity, PValues, combined_p
from fieldrepair_monitoring.detectors.kolmogorov import ks_distances, leave_out_distances
from fieldrepair_monitoring.features import Features, FloatArray

MOST_CATEGORIES = 20
"""A column with at most so many different whole numbers is taken for categories."""
_SMALLEST_P = 1e-290


class TabularDetector(CalibratedDetector):
    """Per-column tests of the rows themselves.

    The statistic is the Kolmogorov-Smirnov distance that would have the combined p-value; for a table of one number
    column it is that column's distance.
    """

    name = "tabular"
    reads = ("rows",)
    power = 0.5

    def __init__(self, options: DetectorOptions | None = None, multiplicity: Multiplicity = "bh") -> None:
        super().__init__(options)
        self._multiplicity: Multiplicity = multiplicity

    def _learn(self, reference: Features) -> Features:
        self._rows = _rows(reference)
        self._categories = {
            column: np.unique(self._rows[:, column])
            for column in range(self._rows.shape[1])
            if _is_categorical(self._rows[:, column])
        }
        self._numbers = [column for column in range(self._rows.shape[1]) if column not in self._categories]
        return reference

    def p_values(self, window: Features) -> PValues:
        """``(f,)``: each column's own p-value, before they are combined."""
        everything = np.arange(len(window))[None]
        return self._columns(_rows(window), everything, leave_out=False)[0]

    def _leave_out(self, reference: Features, windows: Windows) -> Statistics:
        size = windows.shape[1]
        p_values = self._columns(self._rows, windows, leave_out=True)
        return self._as_distance(p_values, 1 / size + 1 / (len(self._rows) - size))

    def _statistic(self, window: Features) -> float:
        return float(self._statistics(window, np.arange(len(window))[None])[0])

    def _statistics(self, pool: Features, windows: Windows) -> Statistics:
        p_values = self._columns(_rows(pool), windows, leave_out=False)
        return self._as_distance(p_values, 1 / windows.shape[1] + 1 / len(self._rows))

    def _columns(self, pool: FloatArray, windows: Windows, *, leave_out: bool) -> PValues:
        """``(b, f)`` p-values of the windows' columns."""
        size, rest = windows.shape[1], len(self._rows) - (windows.shape[1] if leave_out else 0)
        found = np.ones((len(windows), pool.shape[1]))
        if self._numbers:
            numbers = self._rows[:, self._numbers]
            distances = (
                leave_out_distances(numbers, windows)
                if leave_out
                else ks_distances(numbers, pool[:, self._numbers], windows)
            )
            found[:, self._numbers] = kolmogorov(distances / np.sqrt(1 / size + 1 / rest))
        for column, categories in self._categories.items():
            expected = count_categories(self._rows[:, column][None], categories)[0]
            observed = count_categories(pool[:, column][windows], categories)
            other = expected - observed if leave_out else np.broadcast_to(expected, observed.shape)
            statistic, freedom = chi_square(observed, other)
            found[:, column] = chdtrc(freedom, statistic)
        return found

    def _as_distance(self, p_values: PValues, scale: float) -> Statistics:
        combined = np.clip(combined_p(p_values, self._multiplicity), _SMALLEST_P, 1.0)
        return kolmogi(combined) * np.sqrt(scale)


def _is_categorical(column: npt.NDArray[np.floating[Any]]) -> bool:
    values = np.unique(column)
    return len(values) <= MOST_CATEGORIES and bool((values == np.round(values)).all())


def _rows(features: Features) -> FloatArray:
    return reading("window", features, "rows", 1)
