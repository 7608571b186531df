from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from fieldrepair_monitoring.errors import DetectorError
from fieldrepair_monitoring.served_model import Features
from fieldrepair_monitoring.severity import (
    AccuracyEstimator,
    ThresholdedScore,
    nearness,
    negative_entropy,
    unit_rows,
)

FloatArray = npt.NDArray[np.float32]
EAST = np.array([[1.0, 0.0]], dtype=np.float32)


def features(*confidences: float, degrees: float | list[float] = 0.0) -> Features:
    """Rows that answer class 0 with these confidences (above one half) and point so many degrees off east."""
    p = np.array(confidences, dtype=np.float32)
    angles = np.deg2rad(np.broadcast_to(degrees, p.shape))
    scores = np.stack([p, 1 - p], axis=1)
    return Features(scores, scores, np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32) * 7)


def test_negative_entropy_by_hand() -> None:
    values = negative_entropy(np.array([[1.0, 0.0], [0.5, 0.5], [0.25, 0.75]], dtype=np.float32))
    np.testing.assert_allclose(values, [0.0, -np.log(2), 0.25 * np.log(0.25) + 0.75 * np.log(0.75)], rtol=1e-6)


def test_nearness_by_hand() -> None:
    training = unit_rows(np.array([[2, 0], [0, 3], [-1, 0]], dtype=np.float32))
    embeddings = np.array([[5, 0], [1, 1], [0, 0]], dtype=np.float32)
    np.testing.assert_allclose(nearness(embeddings, training, 1), [1, np.sqrt(0.5), 0], atol=1e-6)
    np.testing.assert_allclose(nearness(embeddings, training, 2), [0.5, np.sqrt(0.5), 0], atol=1e-6)
    np.testing.assert_allclose(nearness(embeddings, training, 9), [0, np.sqrt(0.5) / 3, 0], atol=1e-6)


def test_as_many_lie_below_the_threshold_as_are_wrong() -> None:
    # Two of five are wrong, so the two least sure (0.55 and 0.6) lie below the threshold, which is then 0.7.
    # Which ones are wrong does not matter, only how many.
    confidence = np.array([0.9, 0.6, 0.8, 0.55, 0.7])
    score = ThresholdedScore(confidence, np.array([False, True, False, True, True]))
    assert score.threshold == 0.7
    assert score.estimate(confidence) == pytest.approx(0.6)
    assert score.estimate(np.array([0.95, 0.71, 0.69, 0.51])) == pytest.approx(0.5)


def test_a_model_that_is_always_right_or_always_wrong() -> None:
    confidence = np.array([0.9, 0.6, 0.8])
    right = ThresholdedScore(confidence, np.ones(3, dtype=bool))
    assert (right.estimate(confidence), right.estimate(np.array([0.55]))) == (1.0, 0.0)
    assert ThresholdedScore(confidence, np.zeros(3, dtype=bool)).estimate(np.ones(4)) == 0.0


def test_the_lower_of_the_two_estimates_counts() -> None:
    validation = features(0.9, 0.6, 0.8, 0.55, 0.7, degrees=[0, 5, 10, 15, 20])
    estimator = AccuracyEstimator(validation, np.array([1, 0, 1, 0, 0]), EAST)
    assert estimator.reference_accuracy == pytest.approx(0.6)
    assert estimator.estimate(validation) == pytest.approx(0.6)
    # The threshold of certainty is 0.7, that of nearness cos(10 degrees).
    assert estimator.estimate(features(0.95, 0.71, 0.69, 0.51)) == pytest.approx(0.5), "unsure, but near"
    assert estimator.estimate(features(0.99, 0.99, 0.99, 0.99, degrees=[9, 11, 80, 80])) == 0.25, "sure, but far"


def test_labels_and_training_embeddings_are_needed() -> None:
    nothing = Features(*(np.zeros((0, 2), np.float32),) * 3)
    with pytest.raises(DetectorError, match="one label per row of scores and at least one, got 0/0"):
        AccuracyEstimator(nothing, np.zeros(0, np.int64), EAST)
    with pytest.raises(DetectorError, match="got 1/2"):
        AccuracyEstimator(features(0.9, 0.8), np.zeros(1, np.int64), EAST)
    with pytest.raises(DetectorError, match="at least one training embedding, got none"):
        AccuracyEstimator(features(0.9), np.zeros(1, np.int64), EAST[:0])
