"""Counts of categories in many windows at once, and Pearson's statistic of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt


def chi_square(
    observed: npt.NDArray[np.float64], other: npt.NDArray[np.float64]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Pearson's statistic of two rows of counts and its degrees of freedom (at least 1): ``(b, k)`` to ``(b,)``."""
    n, m = observed.sum(axis=1, keepdims=True), other.sum(axis=1, keepdims=True)
    both = observed + other
    squared = (observed * np.sqrt(m / n) - other * np.sqrt(n / m)) ** 2
    statistic = np.where(both > 0, squared / np.where(both > 0, both, 1.0), 0.0).sum(axis=1)
    return statistic, np.maximum((both > 0).sum(axis=1) - 1.0, 1.0)


def count_categories(values: npt.NDArray[Any], categories: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """How often each category is in each window.

    Args:
        values: ``(b, m)`` numbers.
        categories: ``(k,)`` ascending.

    Returns:
        ``(b, k + 1)``; the last is for values that are none of the categories.
    """
    at = np.searchsorted(categories, values).clip(max=len(categories) - 1)
    at = np.where(categories[at] == values, at, len(categories))
    cells = at + np.arange(len(values))[:, None] * (len(categories) + 1)
    counts = np.bincount(cells.ravel(), minlength=len(values) * (len(categories) + 1))
    return counts.reshape(len(values), -1).astype(np.float64)
