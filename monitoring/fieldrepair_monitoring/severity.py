"""How much accuracy a shift costs, without labels: average thresholded confidence, on two kinds of confidence.

Garg et al., "Leveraging Unlabeled Data to Predict Out-of-Distribution Performance", ICLR 2022 (ATC): choose a
threshold on a confidence score so that, on labelled inputs, as many lie below it as the model gets wrong; the share of
field inputs above it estimates the accuracy there. Any score will do that ranks right answers above wrong ones:

* **certainty**, the negative entropy of the scores, as in the paper;
* **nearness**, the mean cosine similarity to the nearest training embeddings (Sun et al., "Out-of-Distribution
  Detection with Deep Nearest Neighbors", ICML 2022).

The estimate is the lower of the two. Certainty alone is blind where a network is wrong and sure of it: a digits
network that is right on 11 % of scans turned by 90 degrees is as certain there as on upright ones (estimate 97 %),
while nearness says 52 %. Nearness alone misses harm that leaves embeddings in their usual directions.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from fieldrepair_monitoring.errors import DetectorError
from fieldrepair_monitoring.served_model import Features

FloatArray = npt.NDArray[np.float32]
Scores = npt.NDArray[np.float64]

NEIGHBOURS = 10


class ThresholdedScore:
    """One confidence score with its ATC threshold.

    Args:
        confidence: ``(n,)`` score of labelled inputs; larger is surer.
        right: ``(n,)`` whether the model's answer is right.
    """

    def __init__(self, confidence: Scores, right: npt.NDArray[np.bool_]) -> None:
        ordered = np.sort(confidence)
        wrong = int((~right).sum())
        # Exactly `wrong` of the labelled inputs lie below; a model that is always wrong leaves none above.
        self.threshold = float(ordered[wrong]) if wrong < len(ordered) else float("inf")

    def estimate(self, confidence: Scores) -> float:
        """Share of right answers to expect among inputs with these scores."""
        return float((confidence >= self.threshold).mean())


class AccuracyEstimator:
    """Estimates the accuracy on unlabelled field inputs.

    It stays an estimate: it assumes that what the model is sure of, and what lies near its training inputs, is right
    about as often as on the labelled inputs. A shift that only changes which answer is right (the same images under
    new names) cannot be seen without labels.

    Args:
        validation: the model's features of ``n`` held-out labelled inputs.
        labels: ``(n,)`` class indices.
        training: ``(t, d)`` embeddings of inputs the model was trained on.

    Raises:
        DetectorError: if there are no labelled inputs, the lengths differ, or there are no training embeddings.
    """

    def __init__(self, validation: Features, labels: npt.NDArray[np.int64], training: FloatArray) -> None:
        scores = validation.scores
        if len(scores) == 0 or len(scores) != len(labels):
            raise DetectorError(f"need one label per row of scores and at least one, got {len(labels)}/{len(scores)}")
        if len(training) == 0:
            raise DetectorError("need at least one training embedding, got none")
        self._training = unit_rows(training)
        right = scores.argmax(axis=1) == labels
        self.reference_accuracy = float(right.mean())
        self.certainty = ThresholdedScore(negative_entropy(scores), right)
        self.nearness = ThresholdedScore(nearness(validation.embeddings, self._training), right)

    def estimate(self, field: Features) -> float:
        """Share of right answers to expect, in 0..1.

        Args:
            field: the model's features of unlabelled inputs.
        """
        return min(
            self.certainty.estimate(negative_entropy(field.scores)),
            self.nearness.estimate(nearness(field.embeddings, self._training)),
        )


def negative_entropy(scores: FloatArray) -> Scores:
    """``sum p log p`` of each row, in nats: 0 for a certain answer, ``-log(classes)`` for an even one."""
    p = scores.astype(np.float64)
    return np.sum(np.where(p > 0, p * np.log(np.where(p > 0, p, 1.0)), 0.0), axis=1)


def nearness(embeddings: FloatArray, training: FloatArray, neighbours: int = NEIGHBOURS) -> Scores:
    """Mean cosine similarity of each embedding to its nearest training embeddings.

    Args:
        embeddings: ``(n, d)``.
        training: ``(t, d)``, rows of length 1.
        neighbours: how many count; all, if there are fewer.

    Returns:
        ``(n,)`` in -1..1.
    """
    similarities = unit_rows(embeddings) @ training.T
    count = min(neighbours, len(training))
    nearest = np.partition(similarities, len(training) - count, axis=1)[:, len(training) - count :]
    return nearest.mean(axis=1, dtype=np.float64)


def unit_rows(rows: FloatArray) -> FloatArray:
    """Rows scaled to length 1; a row of zeros stays zeros."""
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return (rows / np.where(lengths > 0, lengths, 1.0)).astype(np.float32)
