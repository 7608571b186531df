"""Drift detectors: two methods, ``fit`` on reference embeddings and ``score`` on a window of field embeddings."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from fieldrepair_monitoring.errors import DetectorError

FloatArray = npt.NDArray[np.float32]

MIN_REFERENCE = 20
MIN_WINDOW = 10


@dataclass(frozen=True)
class DriftScore:
    """What a detector says about one window."""

    statistic: float
    """How far the window is from the reference; larger is farther."""
    p_value: float
    """Probability of a statistic at least this large if the window came from the reference."""
    threshold: float
    """The window counts as drifted if the statistic is larger than this."""
    drifted: bool
    """Whether it is."""


class Detector(Protocol):
    """What every detector can do. Scoring the same window twice gives the same answer."""

    @property
    def name(self) -> str:
        """Short name, as it stands in the case book and in metrics."""
        ...

    def fit(self, reference: FloatArray) -> None:
        """Learn what is normal from ``(n, d)`` reference embeddings.

        Raises:
            DetectorError: too few rows, or rows that cannot be told apart.
        """
        ...

    def score(self, window: FloatArray) -> DriftScore:
        """Compare ``(m, d)`` field embeddings with the reference.

        Raises:
            DetectorError: not fitted, too few rows, or another number of columns.
        """
        ...


class WindowTest(Protocol):
    """A library's test of one window, behind a detector."""

    def score(self, x: FloatArray) -> tuple[float, float, float]:
        """P-value, statistic and threshold for ``(m, d)`` window embeddings."""
        ...


class PermutationDetector(ABC):
    """Maximum mean discrepancy with a permutation test; which library computes it is for the subclass to say.

    The statistic is the unbiased estimate of MMD^2 (Gretton et al., 2012) under a Gaussian kernel whose bandwidth
    follows from the median distance in the reference. Its null distribution comes from ``permutations`` random
    reassignments of reference and window; the p-value counts the observed assignment too,
    ``(1 + count) / (1 + permutations)``, so it is never 0 and the test is exact.

    Args:
        p_value: windows with a smaller p-value count as drifted.
        permutations: random reassignments; at least ``1 / p_value``, or no window could ever count as drifted.
        seed: of the permutations. They are the same for every window, so a window's answer does not depend on what
            came before it.
        device: where to compute.

    Raises:
        DetectorError: too few permutations for this p-value.
    """

    name: str
    backend: str
    """The module that imports the library. Slow: a detector imports it when it is fitted, not before."""

    def __init__(self, *, p_value: float = 0.005, permutations: int = 1000, seed: int = 0, device: str = "cpu") -> None:
        if p_value * (1 + permutations) <= 1:
            raise DetectorError(
                f"with {permutations} permutations the smallest possible p-value is {1 / (1 + permutations):.4g}, so "
                f"no window could fall below {p_value}; need more than {1 / p_value:.0f} permutations"
            )
        self._p_value = p_value
        self._permutations = permutations
        self._seed = seed
        self._device = device
        self._test: WindowTest | None = None
        self._centre = np.zeros(0)

    def fit(self, reference: FloatArray) -> None:
        """Fix kernel bandwidth and reference; see :class:`Detector`."""
        from fieldrepair_monitoring.permutations import median_bandwidth  # slow to import: torch

        _check("reference", reference, MIN_REFERENCE)
        # Distances do not change when everything moves, but float32 resolves them best around zero.
        centre = reference.mean(axis=0, dtype=np.float64)
        centred = (reference - centre).astype(np.float32)
        bandwidth = median_bandwidth(centred)
        spread = float(np.linalg.norm(centred, axis=1).mean())
        if spread <= 1e-6 * float(np.abs(centre).max()) or bandwidth <= 1e-3 * spread:
            raise DetectorError(
                f"more than half of the {len(reference)} reference embeddings are the same, so distances between them "
                "say nothing; hand the model over with another embedding_layer"
            )
        self._test, self._centre = self._window_test(centred, bandwidth), centre

    def score(self, window: FloatArray) -> DriftScore:
        """Permutation test of one window; see :class:`Detector`."""
        if self._test is None:
            raise DetectorError("the detector was not fitted")
        _check("window", window, MIN_WINDOW)
        if window.shape[1] != len(self._centre):
            raise DetectorError(f"expected embeddings with {len(self._centre)} columns, got {window.shape[1]}")
        p_value, statistic, threshold = self._test.score((window - self._centre).astype(np.float32))
        return DriftScore(statistic, p_value, threshold, drifted=p_value < self._p_value)

    @abstractmethod
    def _window_test(self, centred: FloatArray, bandwidth: float) -> WindowTest:
        """The library's test against these reference embeddings."""


class MmdDetector(PermutationDetector):
    """MMD by alibi-detect's ``MMDDrift`` on PyTorch, which computes the same bandwidth itself."""

    name = "mmd"
    backend = "fieldrepair_monitoring.mmd"

    def _window_test(self, centred: FloatArray, bandwidth: float) -> WindowTest:
        from fieldrepair_monitoring.mmd import PermutationMMD

        return PermutationMMD(
            centred,
            p_value=self._p_value,
            permutations=self._permutations,
            seed=self._seed,
            device=self._device,
        )


class FrourosMmdDetector(PermutationDetector):
    """MMD by frouros' ``MMD`` on NumPy and SciPy: the permissively licensed one. Never imports alibi-detect."""

    name = "frouros_mmd"
    backend = "fieldrepair_monitoring.frouros_mmd"

    def _window_test(self, centred: FloatArray, bandwidth: float) -> WindowTest:
        from fieldrepair_monitoring.frouros_mmd import FrourosMMD

        return FrourosMMD(
            centred,
            bandwidth=bandwidth,
            p_value=self._p_value,
            permutations=self._permutations,
            seed=self._seed,
            device=self._device,
        )


DETECTORS: Mapping[str, type[PermutationDetector]] = {
    detector.name: detector for detector in (MmdDetector, FrourosMmdDetector)
}
"""What the setting ``detector`` chooses from."""


def _check(what: str, rows: FloatArray, least: int) -> None:
    if rows.ndim != 2 or len(rows) < least:
        raise DetectorError(f"a {what} needs at least {least} embeddings of shape (n, d), got shape {rows.shape}")
    if not np.isfinite(rows).all():
        raise DetectorError(f"a {what} holds embeddings that are NaN or infinite")
