from __future__ import annotations

import numpy as np
import pytest

from fieldrepair_monitoring.errors import DetectorError
from fieldrepair_monitoring.severity import AccuracyEstimator, negative_entropy


def two_classes(*confidences: float) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    """Rows that answer class 0 with these confidences (all above one half)."""
    p = np.array(confidences, dtype=np.float32)
    return np.stack([p, 1 - p], axis=1)


def test_negative_entropy_by_hand() -> None:
    values = negative_entropy(np.array([[1.0, 0.0], [0.5, 0.5], [0.25, 0.75]], dtype=np.float32))
    np.testing.assert_allclose(values, [0.0, -np.log(2), 0.25 * np.log(0.25) + 0.75 * np.log(0.75)], rtol=1e-6)


def test_as_many_lie_below_the_threshold_as_are_wrong() -> None:
    # Five answers, all "class 0". Two are wrong, so the two least certain (0.55 and 0.6) lie below the threshold,
    # which is then the certainty of 0.7. Which ones are wrong does not matter, only how many.
    scores = two_classes(0.9, 0.6, 0.8, 0.55, 0.7)
    estimator = AccuracyEstimator(scores, np.array([1, 0, 1, 0, 0]))
    assert estimator.reference_accuracy == pytest.approx(0.6)
    assert estimator.threshold == pytest.approx(0.7 * np.log(0.7) + 0.3 * np.log(0.3), rel=1e-6)
    assert estimator.estimate(scores) == pytest.approx(0.6)
    assert estimator.estimate(two_classes(0.95, 0.71, 0.69, 0.51)) == pytest.approx(0.5)


def test_a_model_that_is_always_right_or_always_wrong() -> None:
    scores = two_classes(0.9, 0.6, 0.8)
    right = AccuracyEstimator(scores, np.array([0, 0, 0]))
    assert right.estimate(scores) == 1.0
    assert right.estimate(two_classes(0.55)) == 0.0
    assert AccuracyEstimator(scores, np.array([1, 1, 1])).estimate(two_classes(1.0)) == 0.0


def test_labels_are_needed() -> None:
    with pytest.raises(DetectorError, match="one label per row of scores and at least one, got 0/0"):
        AccuracyEstimator(np.zeros((0, 2), np.float32), np.zeros(0, np.int64))
    with pytest.raises(DetectorError, match="got 1/2"):
        AccuracyEstimator(two_classes(0.9, 0.8), np.zeros(1, np.int64))
