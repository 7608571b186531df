from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from fieldrepair_monitoring.errors import DetectorError
from fieldrepair_monitoring.features import Features
from fieldrepair_monitoring.severity import (
    AccuracyEstimator,
    ScaledConfidence,
    ThresholdedScore,
    nearness,
    negative_entropy,
    unit_rows,
)

FloatArray = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]
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


def world(n: int, seed: int, *, temperature: float = 1.0, noise: float = 1.0) -> tuple[Features, Labels]:
    """Inputs of three classes at three corners; scores are the true posteriors, then sharpened by 1 / temperature."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(3, size=n)
    corners = 2.0 * np.eye(3)
    embeddings = corners[labels] + noise * generator.standard_normal((n, 3))
    logits = -((embeddings[:, None] - corners[None]) ** 2).sum(2) / 2 / temperature
    scores = np.exp(logits - logits.max(1, keepdims=True))
    scores = (scores / scores.sum(1, keepdims=True)).astype(np.float32)
    return Features(logits.astype(np.float32), scores, embeddings.astype(np.float32)), labels


def test_temperature_scaling_finds_the_temperature_that_was_taken_away() -> None:
    sharpened, labels = world(4000, 0, temperature=0.4)
    scaled = ScaledConfidence(sharpened.scores, labels)
    assert scaled.temperature == pytest.approx(2.5, rel=0.1)
    right = float((sharpened.scores.argmax(1) == labels).mean())
    assert scaled.estimate(sharpened.scores) == pytest.approx(right), "what scaling leaves is taken off"
    assert float(sharpened.scores.max(1).mean()) > right + 0.05, "unscaled, it is too sure"


def test_more_of_the_same_is_estimated_right_and_trusted() -> None:
    validation, labels = world(1500, 0)
    estimator = AccuracyEstimator(validation, labels, world(1000, 1)[0].embeddings)
    covered = 0
    for seed in range(20):
        field, truth = world(500, 10 + seed)
        estimate = estimator.estimate(field)
        right = float((field.scores.argmax(1) == truth).mean())
        assert estimate.value == pytest.approx(right, abs=0.08)
        assert estimate.trusted
        assert estimate.low < estimate.value < estimate.high
        assert set(estimate.by_method) == {"certainty", "nearness", "confidence"}
        covered += estimate.low <= right <= estimate.high
    assert covered >= 19


def test_the_interval_narrows_with_the_window_and_widens_with_fewer_labels() -> None:
    def width(validated: int, asked: int) -> float:
        validation, labels = world(validated, 0)
        score = ScaledConfidence(validation.scores, labels)
        low, high = score.interval(world(asked, 2)[0].scores)
        atc = ThresholdedScore(negative_entropy(validation.scores), validation.scores.argmax(1) == labels)
        atc_low, atc_high = atc.interval(negative_entropy(world(asked, 2)[0].scores))
        return (high - low) + (atc_high - atc_low)

    assert width(1000, 2000) < width(1000, 200)
    assert width(2000, 1000) < width(100, 1000)


def test_where_the_methods_contradict_each_other_the_lower_counts_and_is_not_trusted() -> None:
    validation = features(0.9, 0.6, 0.8, 0.55, 0.7, degrees=[0, 5, 10, 15, 20])
    estimator = AccuracyEstimator(validation, np.array([1, 0, 1, 0, 0]), EAST)
    assert estimator.reference_accuracy == pytest.approx(0.6)
    # The threshold of certainty is 0.7, that of nearness cos(10 degrees).
    unsure = estimator.estimate(features(0.95, 0.71, 0.69, 0.51))
    assert unsure.value == pytest.approx(0.5), "unsure, but near"
    far = estimator.estimate(features(0.99, 0.99, 0.99, 0.99, degrees=[9, 11, 80, 80]))
    assert far.value == 0.25, "sure, but far"
    assert not far.trusted
    assert far.low <= 0.25 < 1.0 == far.high, "the interval takes in what the methods say"
    assert "certainty 100%, nearness 25%" in far.doubts[0]
    assert far.doubts[1].startswith("50% of the inputs lie farther from the training inputs than 99% of the validation")


def test_the_same_inputs_get_the_same_interval() -> None:
    validation, labels = world(300, 0)
    estimator = AccuracyEstimator(validation, labels, validation.embeddings)
    assert estimator.estimate(world(100, 1)[0]) == estimator.estimate(world(100, 1)[0])


def test_labels_and_training_embeddings_are_needed() -> None:
    nothing = Features(*(np.zeros((0, 2), np.float32),) * 3)
    with pytest.raises(DetectorError, match="one label per row of scores and at least one, got 0/0"):
        AccuracyEstimator(nothing, np.zeros(0, np.int64), EAST)
    with pytest.raises(DetectorError, match="got 1/2"):
        AccuracyEstimator(features(0.9, 0.8), np.zeros(1, np.int64), EAST)
    with pytest.raises(DetectorError, match="at least one training embedding, got none"):
        AccuracyEstimator(features(0.9), np.zeros(1, np.int64), EAST[:0])
