"""How much accuracy a shift costs, without labels: average thresholded confidence.

Garg et al., "Leveraging Unlabeled Data to Predict Out-of-Distribution Performance", ICLR 2022 (ATC with negative
entropy as the score).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from fieldrepair_monitoring.errors import DetectorError

FloatArray = npt.NDArray[np.float32]


class AccuracyEstimator:
    """Learns a confidence threshold on labelled inputs, and estimates accuracy on unlabelled ones.

    The threshold is set so that, on the labelled inputs, as many lie below it as the model gets wrong. On field
    inputs the share above it is the estimate. It is an estimate: it assumes that the model's confidence still ranks
    its answers as on the labelled inputs, which a hard shift can break.

    Args:
        scores: ``(n, classes)`` probabilities on held-out labelled inputs.
        labels: ``(n,)`` class indices.

    Raises:
        DetectorError: if there are no labelled inputs or the lengths differ.
    """

    def __init__(self, scores: FloatArray, labels: npt.NDArray[np.int64]) -> None:
        if len(scores) == 0 or len(scores) != len(labels):
            raise DetectorError(f"need one label per row of scores and at least one, got {len(labels)}/{len(scores)}")
        right = scores.argmax(axis=1) == labels
        self.reference_accuracy = float(right.mean())
        ordered = np.sort(negative_entropy(scores))
        wrong = int((~right).sum())
        # Exactly `wrong` of the labelled inputs lie below; a model that is always wrong leaves none above.
        self.threshold = float(ordered[wrong]) if wrong < len(ordered) else float("inf")

    def estimate(self, scores: FloatArray) -> float:
        """Share of right answers to expect.

        Args:
            scores: ``(m, classes)`` probabilities on unlabelled inputs.

        Returns:
            In 0..1.
        """
        return float((negative_entropy(scores) >= self.threshold).mean())


def negative_entropy(scores: FloatArray) -> npt.NDArray[np.float64]:
    """``sum p log p`` of each row, in nats: 0 for a certain answer, ``-log(classes)`` for an even one."""
    p = scores.astype(np.float64)
    return np.sum(np.where(p > 0, p * np.log(np.where(p > 0, p, 1.0)), 0.0), axis=1)
