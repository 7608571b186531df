"""Which columns of tabular inputs moved: one test per column, controlled for their number."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

from fieldrepair_monitoring.errors import DetectorError
from fieldrepair_monitoring.share_changes import MOVED

Table = npt.NDArray[np.generic]
Column = npt.NDArray[np.float64]

FEW_VALUES = 12
"""A column with at most so many different values in the reference counts as categorical."""


@dataclass(frozen=True)
class FeatureChange:
    """How one column differs between field and reference."""

    index: int
    name: str
    test: str
    """``ks`` (two-sample Kolmogorov-Smirnov) or ``chi2`` (of the counts of its values)."""
    statistic: float
    p_value: float
    """Adjusted for the number of columns (Benjamini and Hochberg, 1995)."""
    reference_mean: float
    field_mean: float
    change: float
    """Difference of the means in standard deviations of the reference."""

    @property
    def moved(self) -> bool:
        """Whether chance alone is an unlikely reason."""
        return self.p_value < MOVED

    def to_json(self) -> dict[str, object]:
        """As it stands in a stored explanation."""
        return {
            "name": self.name,
            "test": self.test,
            "statistic": self.statistic,
            "p_value": self.p_value,
            "reference_mean": self.reference_mean,
            "field_mean": self.field_mean,
            "change": self.change,
        }


def feature_changes(names: Sequence[str], reference: Table, field: Table) -> list[FeatureChange]:
    """Compare each column, the most certain change first.

    Args:
        names: one per column.
        reference: ``(n, columns)``.
        field: ``(m, columns)``.

    Raises:
        DetectorError: the number of columns differs, or a sample is empty.
    """
    if reference.ndim != 2 or field.ndim != 2 or not len(names) == reference.shape[1] == field.shape[1]:
        raise DetectorError(
            f"need two tables with {len(names)} columns, got reference {reference.shape} and field {field.shape}"
        )
    if len(reference) == 0 or len(field) == 0:
        raise DetectorError(f"need rows on both sides, got {len(reference)} reference and {len(field)} field inputs")
    columns = [(reference[:, i].astype(np.float64), field[:, i].astype(np.float64)) for i in range(len(names))]
    tests = [_test(old, new) for old, new in columns]
    adjusted = stats.false_discovery_control([p_value for _, _, p_value in tests])
    changes = [
        FeatureChange(
            index, name, test, statistic, float(p_value), float(old.mean()), float(new.mean()), _moved(old, new)
        )
        for index, (name, (old, new), (test, statistic, _), p_value) in enumerate(
            zip(names, columns, tests, adjusted, strict=True)
        )
    ]
    return sorted(changes, key=lambda each: (each.p_value, -abs(each.change)))


def _test(reference: Column, field: Column) -> tuple[str, float, float]:
    """Name, statistic and p-value of the test that fits the column."""
    values = np.unique(np.concatenate([reference, field]))
    if len(values) == 1:
        return "chi2", 0.0, 1.0
    if len(np.unique(reference)) <= FEW_VALUES and len(values) <= 2 * FEW_VALUES:
        counts = np.stack([[int((side == value).sum()) for value in values] for side in (reference, field)])
        result = stats.chi2_contingency(counts)
        return "chi2", float(result.statistic), float(result.pvalue)
    with warnings.catch_warnings():
        # SciPy says when it goes over from the exact to the asymptotic distribution; both are right here.
        warnings.simplefilter("ignore", RuntimeWarning)
        result = stats.ks_2samp(reference, field)
    return "ks", float(result.statistic), float(result.pvalue)


def _moved(reference: Column, field: Column) -> float:
    spread = float(reference.std())
    difference = float(field.mean() - reference.mean())
    return difference / spread if spread > 0 else 0.0
