"""Kolmogorov-Smirnov tests by alibi-detect: on the class scores, and on the uncertainty of the answer."""

from __future__ import annotations

import numpy as np

from fieldrepair_monitoring.detectors.alibi import KSDrift, classifier_uncertainty
from fieldrepair_monitoring.detectors.calibration import Statistics
from fieldrepair_monitoring.detectors.ks_base import ColumnsKsDetector
from fieldrepair_monitoring.features import Features, FloatArray


class _AlibiKs(ColumnsKsDetector):
    def _learn(self, reference: Features) -> Features:
        kept = super()._learn(reference)
        self._test = KSDrift(self._reference)
        return kept

    def _distances(self, window: FloatArray) -> list[float]:
        _, distances = self._test.feature_score(self._reference, window)
        return [float(distance) for distance in distances]


class KsDetector(_AlibiKs):
    """Black-box shift detection (Lipton et al., 2018; Rabanser et al., 2019): the scores of each class."""

    name = "ks"
    reads = ("scores",)

    def _read(self, features: Features) -> FloatArray:
        return features.scores


class UncertaintyDetector(_AlibiKs):
    """How sure the model is: the entropy of its scores, as in alibi-detect's ``ClassifierUncertaintyDrift``."""

    name = "uncertainty"
    reads = ("scores",)

    def _read(self, features: Features) -> FloatArray:
        scores = features.scores.astype(np.float64)
        certain = np.clip(scores / scores.sum(axis=1, keepdims=True), 1e-12, None)  # 0 log 0 would be NaN
        certain /= certain.sum(axis=1, keepdims=True)
        entropy = classifier_uncertainty(certain, _identity, preds_type="probs", uncertainty_type="entropy")
        return entropy.reshape(len(scores), 1).astype(np.float32)


def _identity(scores: Statistics) -> Statistics:
    return scores
