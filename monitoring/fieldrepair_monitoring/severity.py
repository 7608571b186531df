"""How much accuracy a shift costs, without labels: three estimates, an interval, and whether to believe them.

Garg et al., "Leveraging Unlabeled Data to Predict Out-of-Distribution Performance", ICLR 2022 (ATC, average thresholded
confidence): choose a threshold on a confidence score so that, on labelled inputs, as many lie below it as the model
gets wrong; the share of field inputs above it estimates the accuracy there. Any score will do that ranks right answers
above wrong ones:

* **certainty**, the negative entropy of the scores, as in the paper;
* **nearness**, the mean cosine similarity to the nearest training embeddings (Sun et al., "Out-of-Distribution
  Detection with Deep Nearest Neighbors", ICML 2022).

The third is **confidence**: the mean of the largest score after temperature scaling (Guo et al., "On Calibration of
Modern Neural Networks", ICML 2017).

Each is blind to something. Certainty and confidence are where a network is wrong and sure of it: a digits network that
is right on 11 % of scans turned by 90 degrees is as certain there as on upright ones (97 %), while nearness says 52 %.
Nearness alone misses harm that leaves embeddings in their usual directions. So the estimate is the mean of the two
ATCs where all three agree; where they do not, none can be trusted, the answer says so, and the lower ATC stands, for
caution.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize_scalar

from fieldrepair_monitoring.errors import DetectorError
from fieldrepair_monitoring.features import Features

FloatArray = npt.NDArray[np.float32]
Scores = npt.NDArray[np.float64]

NEIGHBOURS = 10
RESAMPLES = 200
FAR_QUANTILE = 0.01
"""An input is far if it is less near the training inputs than this share of the validation inputs."""
LARGEST_FAR_SHARE = 0.25
"""Above this share of far inputs an estimate is not to be trusted."""
LARGEST_DISAGREEMENT = 0.10
"""Above this distance of the three methods an estimate is not to be trusted."""


class ThresholdedScore:
    """One confidence score with its ATC threshold.

    Args:
        confidence: ``(n,)`` score of labelled inputs; larger is surer.
        right: ``(n,)`` whether the model's answer is right.
    """

    def __init__(self, confidence: Scores, right: npt.NDArray[np.bool_]) -> None:
        self.threshold = _threshold(confidence, right)
        generator = np.random.default_rng(0)
        draws = generator.integers(len(right), size=(RESAMPLES, len(right)))
        self._thresholds = np.array([_threshold(confidence[draw], right[draw]) for draw in draws])

    def estimate(self, confidence: Scores) -> float:
        """Share of right answers to expect among inputs with these scores."""
        return float((confidence >= self.threshold).mean())

    def interval(self, confidence: Scores) -> tuple[float, float]:
        """95 % bootstrap interval of the estimate, over the labelled inputs and over these."""
        ordered = np.sort(confidence)
        above = 1.0 - np.searchsorted(ordered, self._thresholds, side="left") / len(ordered)
        # Drawing inputs again and counting those above a threshold is a binomial draw.
        drawn = np.random.default_rng(0).binomial(len(ordered), above) / len(ordered)
        low, high = np.quantile(drawn, [0.025, 0.975])
        return float(low), float(high)


class ScaledConfidence:
    """The largest score after temperature scaling: one number that makes confidence fit accuracy on labelled inputs.

    Args:
        scores: ``(n, classes)`` of labelled inputs, rows sum to 1.
        labels: ``(n,)`` class indices.
    """

    def __init__(self, scores: FloatArray, labels: npt.NDArray[np.int64]) -> None:
        logits = _log(scores)

        def loss(log_temperature: float) -> float:
            scaled = logits / np.exp(log_temperature)
            return float((_log_sum_exp(scaled) - scaled[np.arange(len(labels)), labels]).mean())

        self.temperature = float(np.exp(minimize_scalar(loss, bounds=(-3.0, 3.0)).x))
        right = scores.argmax(axis=1) == labels
        errors = right - self._confidence(scores)
        # Scaling fits the loss, not the accuracy; what it leaves is taken off.
        self._offset = float(errors.mean())
        self._variance = float(errors.var()) / len(errors)

    def estimate(self, scores: FloatArray) -> float:
        """Share of right answers to expect among inputs with these scores."""
        return float(np.clip(self._confidence(scores).mean() + self._offset, 0.0, 1.0))

    def interval(self, scores: FloatArray) -> tuple[float, float]:
        """95 % interval of the accuracy of these inputs: answers are right or wrong, and the offset is an estimate."""
        confidence = np.clip(self._confidence(scores) + self._offset, 0.0, 1.0)
        spread = float((confidence * (1.0 - confidence)).mean()) / len(confidence)
        half = 1.96 * float(np.sqrt(spread + self._variance))
        middle = float(confidence.mean())
        return max(0.0, middle - half), min(1.0, middle + half)

    def _confidence(self, scores: FloatArray) -> Scores:
        scaled = _log(scores) / self.temperature
        return np.exp(scaled.max(axis=1) - _log_sum_exp(scaled))


@dataclass(frozen=True)
class AccuracyEstimate:
    """The accuracy to expect on some inputs, as a share in 0..1."""

    value: float
    low: float
    """The interval takes in the sampling error of the inputs and of the labelled inputs that the estimate is calibrated
    on (95 %), and how far the methods are apart. It cannot take in an error that all methods share."""
    high: float
    trusted: bool
    """False: the methods contradict each other, or the inputs are unlike anything the estimate was calibrated on."""
    doubts: tuple[str, ...]
    """Why it is not to be trusted, in words; empty if it is."""
    by_method: Mapping[str, float]
    """``certainty``, ``nearness`` and ``confidence``, each by itself."""


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
        near = nearness(validation.embeddings, self._training)
        self.certainty = ThresholdedScore(negative_entropy(scores), right)
        self.nearness = ThresholdedScore(near, right)
        self.confidence = ScaledConfidence(scores, labels)
        self._far = float(np.quantile(near, FAR_QUANTILE))

    def estimate(self, field: Features) -> AccuracyEstimate:
        """Share of right answers to expect, with an interval.

        Args:
            field: the model's features of unlabelled inputs.
        """
        near = nearness(field.embeddings, self._training)
        certain = negative_entropy(field.scores)
        values = {
            "certainty": self.certainty.estimate(certain),
            "nearness": self.nearness.estimate(near),
            "confidence": self.confidence.estimate(field.scores),
        }
        intervals = (
            self.certainty.interval(certain),
            self.nearness.interval(near),
            self.confidence.interval(field.scores),
        )
        doubts = tuple(self._doubts(values, float((near < self._far).mean())))
        thresholded = (values["certainty"], values["nearness"])
        return AccuracyEstimate(
            value=min(thresholded) if doubts else sum(thresholded) / 2,
            low=min(low for low, _ in intervals),
            high=max(high for _, high in intervals),
            trusted=not doubts,
            doubts=doubts,
            by_method=values,
        )

    def _doubts(self, values: Mapping[str, float], far: float) -> Iterator[str]:
        apart = max(values.values()) - min(values.values())
        if apart > LARGEST_DISAGREEMENT:
            each = ", ".join(f"{name} {value:.0%}" for name, value in values.items())
            yield f"the estimates are {100 * apart:.0f} points apart ({each})"
        if far > LARGEST_FAR_SHARE:
            yield (
                f"{far:.0%} of the inputs lie farther from the training inputs than {1 - FAR_QUANTILE:.0%} of the "
                "validation inputs do"
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


def _threshold(confidence: Scores, right: npt.NDArray[np.bool_]) -> float:
    wrong = int((~right).sum())
    # Exactly `wrong` of the labelled inputs lie below; a model that is always wrong leaves none above.
    return float(np.sort(confidence)[wrong]) if wrong < len(confidence) else float("inf")


def _log(scores: FloatArray) -> Scores:
    return np.log(np.clip(scores.astype(np.float64), 1e-30, None))


def _log_sum_exp(logits: Scores) -> Scores:
    largest = logits.max(axis=1)
    return largest + np.log(np.exp(logits - largest[:, None]).sum(axis=1))
