"""A few coordinates that say most about some features: principal components of the reference, scaled to variance 1."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from fieldrepair_monitoring.detectors.field_history import Vector
from fieldrepair_monitoring.errors import DetectorError

INPUTS_PER_COORDINATE = 20
"""Directions of the reference are known only so well: one coordinate for so many inputs."""
LEAST_VARIANCE = 1e-6
"""As a share of the largest: directions with less never move."""


class Coordinates:
    """Maps features to ``k`` numbers each, which have mean 0, variance 1 and no correlation on the reference.

    Args:
        reference: ``(n, d)`` features.
        most: coordinates to keep at most, those with the largest variance.

    Raises:
        DetectorError: all inputs are the same.
    """

    def __init__(self, reference: npt.NDArray[np.floating[Any]], *, most: int) -> None:
        rows = reference.astype(np.float64)
        self._centre = rows.mean(axis=0)
        moved = rows - self._centre
        variances, directions = np.linalg.eigh(moved.T @ moved / len(rows))
        variances, directions = variances[::-1], directions[:, ::-1]
        if variances[0] <= 1e-12 * float(np.square(rows).mean()):
            raise DetectorError(f"all {len(rows)} reference inputs have the same features, so nothing can be compared")
        known = int((variances > LEAST_VARIANCE * variances[0]).sum())
        kept = max(1, min(most, known, len(rows) // INPUTS_PER_COORDINATE))
        # A direction and its opposite are the same component: the largest entry is made positive.
        directions = directions[:, :kept]
        signs = np.sign(directions[np.abs(directions).argmax(axis=0), np.arange(kept)])
        self._directions = directions * signs / np.sqrt(variances[:kept])
        self.reference: Vector = moved @ self._directions
        """``(n, k)`` the reference itself."""

    def of(self, features: npt.NDArray[np.floating[Any]]) -> Vector:
        """``(m, d)`` to ``(m, k)``."""
        return (features.astype(np.float64) - self._centre) @ self._directions
