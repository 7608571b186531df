"""Kolmogorov-Smirnov on the class scores by frouros: the permissively licensed one. Never imports alibi-detect."""

from __future__ import annotations

from fieldrepair_monitoring.detectors.frouros_library import KSTest
from fieldrepair_monitoring.detectors.ks_base import ColumnsKsDetector
from fieldrepair_monitoring.features import Features, FloatArray


class FrourosKsDetector(ColumnsKsDetector):
    """Black-box shift detection: frouros' ``KSTest`` on the scores of each class."""

    name = "frouros_ks"
    reads = ("scores",)

    def _learn(self, reference: Features) -> Features:
        kept = super()._learn(reference)
        self._tests = [KSTest() for _ in range(self._reference.shape[1])]
        for at, test in enumerate(self._tests):
            test.fit(self._reference[:, at])
        return kept

    def _read(self, features: Features) -> FloatArray:
        return features.scores

    def _distances(self, window: FloatArray) -> list[float]:
        # "asymp" concerns the p-value only, which is not used; the exact one takes seconds for large samples.
        results = [test.compare(window[:, at], method="asymp")[0] for at, test in enumerate(self._tests)]
        return [float(result.statistic) for result in results]
