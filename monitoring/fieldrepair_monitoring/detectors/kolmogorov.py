"""Kolmogorov-Smirnov distances of many windows at once, column by column."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from fieldrepair_monitoring.detectors.calibration import Windows

Distances = npt.NDArray[np.float64]

# Numbers held at once while windows are counted: 32 MB as float64.
_CELLS = 4_000_000


def ks_distances(
    reference: npt.NDArray[np.floating[Any]], pool: npt.NDArray[np.floating[Any]], windows: Windows
) -> Distances:
    """The largest difference between the distribution functions of the reference and of each window.

    Args:
        reference: ``(n, f)``.
        pool: ``(p, f)``.
        windows: ``(b, m)`` indices into the pool.

    Returns:
        ``(b, f)`` in 0..1, as ``scipy.stats.ks_2samp`` computes for each pair.
    """
    columns = range(reference.shape[1])
    return np.stack([_column(reference[:, at], pool[:, at], windows) for at in columns], axis=1)


def leave_out_distances(reference: npt.NDArray[np.floating[Any]], windows: Windows) -> Distances:
    """The same for windows of the reference, each against the inputs that are not in it: ``(b, f)``."""
    n, m = len(reference), windows.shape[1]
    # F_all is the mixture of F_window and F_rest, so F_window - F_rest = (F_window - F_all) n / (n - m).
    return ks_distances(reference, reference, windows) * (n / (n - m))


def _column(
    reference: npt.NDArray[np.floating[Any]], pool: npt.NDArray[np.floating[Any]], windows: Windows
) -> Distances:
    values, ranks = np.unique(np.concatenate([reference, pool]), return_inverse=True)
    expected = np.cumsum(np.bincount(ranks[: len(reference)], minlength=len(values))) / len(reference)
    of_pool = ranks[len(reference) :]
    at_once = max(1, _CELLS // len(values))
    found = np.empty(len(windows))
    for start in range(0, len(windows), at_once):
        chunk = of_pool[windows[start : start + at_once]]
        offsets = np.arange(len(chunk))[:, None] * len(values)
        counts = np.bincount((chunk + offsets).ravel(), minlength=len(chunk) * len(values))
        share = np.cumsum(counts.reshape(len(chunk), len(values)), axis=1) / windows.shape[1]
        found[start : start + at_once] = np.abs(share - expected).max(axis=1)
    return found
