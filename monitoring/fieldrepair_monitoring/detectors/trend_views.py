"""What the trend detector compares: shares of the answers, and means of features.

A view turns inputs into ``k`` numbers each, and says how likely it is by chance that the last windows differ so much
from the past (:class:`.field_history.FieldHistory`). Two guards are common to all:

* **Windows that differ anyway.** Where past windows differ from one another by more than independent inputs would
  (hours of the day, say), every distance is divided by that excess.
* **The window at hand.** It has to lie at least half as far along the direction of the change as the recent windows do
  together: when a shift is over, the recent windows still hold it for a while, but the newest does not.
* **The way back.** A move towards the reference is no drift: after it, the field is more like what the model was
  validated on. So recent windows are compared with the nearest point on the way from the past to the reference, unless
  the past lies so close to the reference that its error alone explains the distance.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.special import chdtri, xlogy
from scipy.stats import chi2
from scipy.stats import f as f_distribution

from fieldrepair_monitoring.detectors.calibration import CAUTION, EFFECT_QUANTILE, EFFECT_WINDOW
from fieldrepair_monitoring.detectors.coordinates import Coordinates
from fieldrepair_monitoring.detectors.field_history import FieldHistory, Vector
from fieldrepair_monitoring.features import Features

LEAST_PAST = 3
"""Calm windows there must be before the recent ones."""
MOST_GROUPS = 16
"""Of answers: the most frequent classes, and all others as one."""
SMALLEST_VARIANCE = 0.02
"""Of the reference's own, for means: where the field scatters less than that, it is taken to scatter so much."""
REFERENCE_WEIGHT = 10
"""The reference's scatter counts like that of so many inputs per coordinate, until the field's own is known."""
CLOSE_QUANTILE = 0.01
"""The past is not at the reference if it is farther from it than all but this share of samples would be."""
STILL_THERE = 0.5
"""Share of the change that the newest window must show by itself; and those before it, for a change that lasts."""
CHANCE = math.sqrt(float(chdtri(1, 1.0 - EFFECT_QUANTILE)) / EFFECT_WINDOW)
"""95 % of windows of 100 unchanged inputs stay below this distance, in standard deviations along one direction."""


@dataclass(frozen=True)
class Comparison:
    """Some of the last windows against the past, in one view."""

    log_q: float
    """Natural logarithm of the probability of a distance so large by chance."""
    effect: float
    """The distance along the direction of the change; see :attr:`.base.DriftScore.effect_size`."""
    lasting: bool
    """Whether the windows before the newest show the change too, and not that one alone."""


NOTHING = Comparison(0.0, 0.0, lasting=False)


@dataclass(frozen=True)
class Recent:
    """Some of the last windows, put together; means are ``(k,)``."""

    mean: Vector
    inputs: float
    newest: Vector
    """Mean of the last one alone."""
    earlier: Vector | None
    """Mean of those before it; None if there are none."""

    def is_lasting(self, past: Vector, metric: Vector) -> bool:
        """Whether those before the newest show enough of the change since the past."""
        return self.earlier is not None and share_of(self.earlier - past, self.mean - past, metric) >= STILL_THERE


class View(ABC):
    """A few numbers of each input, and a test for their means."""

    probe: Vector
    """``(k,)`` the numbers of some input of the reference: a memory in other coordinates has another one."""

    @abstractmethod
    def of(self, features: Features) -> Vector:
        """``(m, k)`` numbers of ``m`` inputs."""

    def compare(self, sizes: Vector, means: Vector, history: FieldHistory, span: int) -> Comparison:
        """The last ``span`` windows together against the past.

        Args:
            sizes: ``(w,)`` inputs in the last windows, oldest first.
            means: ``(w, k)`` of these windows.
            history: what the past is taken from.
            span: how many of these windows to put together.
        """
        if history.past_windows < LEAST_PAST or len(sizes) < span:
            return NOTHING
        sizes, means = sizes[-span:], means[-span:]
        inputs, before = float(sizes.sum()), float(sizes[:-1].sum())
        earlier = sizes[:-1] @ means[:-1] / before if before else None
        return self._compare(Recent(sizes @ means / inputs, inputs, means[-1], earlier), history)

    @abstractmethod
    def _compare(self, recent: Recent, history: FieldHistory) -> Comparison:
        """Recent windows against the past."""


class Answers(View):
    """How often each class is the answer: the likelihood ratio of two samples of counts (the G-test).

    Unlike Pearson's chi-square it keeps to its limit distribution far out, where counts are small too.

    Args:
        reference: decides which classes are counted by themselves.
    """

    def __init__(self, reference: Features) -> None:
        classes = reference.scores.shape[1]
        counts = np.bincount(reference.scores.argmax(axis=1), minlength=classes)
        # Ties by the class's number, so that the same reference always gives the same groups.
        order = np.argsort(-counts, kind="stable")
        self._groups = np.minimum(np.argsort(order, kind="stable"), MOST_GROUPS - 1)
        self._k = min(classes, MOST_GROUPS)
        rows = self.of(reference)
        self.probe = rows.mean(axis=0)
        self._tolerance = self.probe + 1 / len(reference)
        self._close = close(self._k - 1, len(reference))

    def of(self, features: Features) -> Vector:
        """``(m, k)``: 1 for the group of the answer, 0 elsewhere."""
        return np.eye(self._k)[self._groups[features.scores.argmax(axis=1)]]

    def _compare(self, recent: Recent, history: FieldHistory) -> Comparison:
        inputs, before = recent.inputs, history.past_inputs
        metric = np.diag(1.0 / self._tolerance)
        past = nearest(recent.mean, history.past_mean, self.probe, metric, self._close)
        if share_of(recent.newest - past, recent.mean - past, metric) < STILL_THERE:
            return NOTHING
        both = (recent.mean * inputs + past * before) / (inputs + before)
        seen = both > 0
        freedom = int(seen.sum()) - 1
        if freedom < 1:
            return NOTHING
        counts = np.stack([recent.mean[seen] * inputs, past[seen] * before])
        expected = both[seen] * np.array([[inputs], [before]])
        statistic = 2.0 * max(float(xlogy(counts, counts / expected).sum()), 0.0)
        distance = math.sqrt(statistic * (1 / inputs + 1 / before))
        within = history.past_scatter / history.freedom
        log_q = float(chi2.logsf(statistic / excess(history, within), freedom))
        return Comparison(log_q, distance / CHANCE, recent.is_lasting(past, metric))


class Means(View):
    """Means of some features in their principal components: Hotelling's T^2.

    The scatter of the inputs is that of the past windows and, until there are many, of the reference. Where a
    feature is skewed, small samples jump along it by chance: the distance is reduced by what the third moment of the
    reference explains (the first term of Cornish and Fisher's expansion, bounded).

    Args:
        reference: to choose the components from.
        features: ``(n, d)`` of some inputs.
        most: components at most.

    Raises:
        DetectorError: all inputs are the same.
    """

    def __init__(self, reference: Features, features: Callable[[Features], Vector], *, most: int) -> None:
        self._features = features
        self._coordinates = Coordinates(features(reference), most=most)
        self._reference = self._coordinates.reference
        self.probe = self._reference[0]
        self._weight = min(len(self._reference), REFERENCE_WEIGHT * len(self.probe))
        self._close = close(len(self.probe), len(reference))

    def of(self, features: Features) -> Vector:
        """``(m, k)``: the components, each with mean 0 and variance 1 on the reference."""
        return self._coordinates.of(self._features(features))

    def _compare(self, recent: Recent, history: FieldHistory) -> Comparison:
        k = len(self.probe)
        freedom = self._weight + history.freedom
        within = (self._weight * np.eye(k) + history.past_scatter) / freedom
        inverse = np.linalg.inv(within + SMALLEST_VARIANCE * np.eye(k))
        past = nearest(recent.mean, history.past_mean, np.zeros(k), inverse, self._close)
        difference = recent.mean - past
        if share_of(recent.newest - past, difference, inverse) < STILL_THERE:
            return NOTHING
        distance = math.sqrt(float(difference @ inverse @ difference))
        z = distance / math.sqrt((1 / recent.inputs + 1 / history.past_inputs) * excess(history, within))
        along = self._reference @ (inverse @ difference) / distance
        z /= 1.0 + max(float((along**3).mean()), 0.0) * z / (6.0 * math.sqrt(recent.inputs))
        left = freedom - k
        log_q = float(f_distribution.logsf(z**2 * left / (freedom * k), k, left))
        return Comparison(log_q, distance / CHANCE, recent.is_lasting(past, inverse))


def close(freedom: int, reference: int) -> float:
    """Squared distance up to which the past counts as being at the reference: what the error of both explains.

    Args:
        freedom: dimensions of the distance.
        reference: inputs of the reference.
    """
    return CAUTION * float(chdtri(max(1, freedom), CLOSE_QUANTILE)) / reference


def nearest(recent: Vector, past: Vector, reference: Vector, metric: Vector, close: float) -> Vector:
    """The point between the past and the reference that recent windows are nearest to: ``(k,)``.

    Args:
        recent: ``(k,)``.
        past: ``(k,)``.
        reference: ``(k,)``.
        metric: ``(k, k)`` of the squared distance.
        close: squared distance at which the past counts as being there already.
    """
    way = reference - past
    if way @ metric @ way <= close:
        return past
    return past + min(max(share_of(recent - past, way, metric), 0.0), 1.0) * way


def share_of(step: Vector, way: Vector, metric: Vector) -> float:
    """How much of a way a step goes along: 1 for all of it; 0 if there is no way."""
    length = float(way @ metric @ way)
    return float(step @ metric @ way) / length if length > 0 else 0.0


def excess(history: FieldHistory, within: Vector) -> float:
    """How many times as much past windows' means vary as those of independent inputs would; at least 1.

    Args:
        history: with at least two past windows.
        within: ``(k, k)`` covariance of inputs of the same window.
    """
    mean = history.past_mean
    between = history.past_squares - history.past_inputs * float(mean @ mean)
    expected = float(np.trace(within)) * (history.past_windows - 1)
    return max(1.0, between / expected) if expected > 0 else 1.0
