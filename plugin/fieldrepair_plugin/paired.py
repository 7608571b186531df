"""Statistics of two models answering the same inputs. Nothing here is clamped, and nothing is rounded before a test."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from scipy.optimize import brentq
from scipy.stats import binomtest, norm

from fieldrepair_service.errors import InputError


@dataclass(frozen=True)
class PairedCounts:
    """How two models answered the same ``n`` labelled inputs."""

    both_right: int
    repaired: int
    """The champion was wrong, the candidate is right."""
    broken: int
    """The champion was right, the candidate is wrong: negative flips."""
    both_wrong: int

    @property
    def n(self) -> int:
        """Inputs."""
        return self.both_right + self.repaired + self.broken + self.both_wrong

    @property
    def champion_right(self) -> int:
        """Inputs the champion got right."""
        return self.both_right + self.broken

    @property
    def champion_wrong(self) -> int:
        """Inputs the champion got wrong."""
        return self.repaired + self.both_wrong

    @property
    def candidate_right(self) -> int:
        """Inputs the candidate got right."""
        return self.both_right + self.repaired

    @property
    def loss(self) -> float:
        """Champion's accuracy minus the candidate's; negative is a gain."""
        return (self.broken - self.repaired) / self.n


@dataclass(frozen=True)
class Share:
    """A share of inputs with a two-sided 95 % confidence interval."""

    count: int
    total: int
    value: float
    low: float
    high: float

    @classmethod
    def of(cls, count: int, total: int, method: Literal["exact", "wilson"]) -> Share | None:
        """The share ``count / total``.

        Args:
            count: inputs that count.
            total: all inputs.
            method: ``exact`` is Clopper and Pearson's interval: never less than 95 %, the cautious one.
                ``wilson`` is closer to 95 % on average.

        Returns:
            None where there is nothing to take a share of.
        """
        if total == 0:
            return None
        interval = binomtest(count, total).proportion_ci(confidence_level=0.95, method=method)
        return cls(count, total, count / total, float(interval.low), float(interval.high))


def mcnemar(counts: PairedCounts) -> float:
    """Exact one-sided McNemar test: the chance of at least this many repairs if repairing and breaking were as likely.

    Returns:
        p in (0, 1]; 1 when the models never differ.
    """
    discordant = counts.repaired + counts.broken
    if discordant == 0:
        return 1.0
    return float(binomtest(counts.repaired, discordant, 0.5, alternative="greater").pvalue)


def loss_bound(counts: PairedCounts, alpha: float = 0.05) -> float:
    """One-sided upper confidence bound of the accuracy lost by moving from champion to candidate.

    The score bound of Tango ("Equivalence test and confidence interval for the difference in proportions for the
    paired-sample design", Statistics in Medicine 17, 1998): the largest loss that a score test at level ``alpha``
    does not reject. It stays sensible where the models hardly differ, unlike the Wald bound, which is then 0.

    Args:
        counts: of at least one input.
        alpha: one minus the confidence.

    Returns:
        The bound in -1..1.
    """
    if counts.n == 0:
        raise InputError("need at least 1 labelled input to bound a loss, got 0")
    return _bound(counts.n, counts.repaired, counts.broken, alpha)


def smallest_sample(margin: float, alpha: float = 0.05) -> int:
    """Fewest inputs with which :func:`loss_bound` can be below ``margin`` although the candidate is no better.

    With no input answered differently the bound is z**2 / (n + z**2), so n must exceed z**2 (1 - margin) / margin:
    268 inputs for a margin of 1 percentage point at 95 %. Every broken answer that is not made up for asks for more.
    """
    z = float(norm.ppf(1.0 - alpha))
    return math.floor(z * z * (1.0 - margin) / margin) + 1


def sample_at_these_rates(counts: PairedCounts, margin: float, alpha: float = 0.05) -> int | None:
    """Inputs with which :func:`loss_bound` would be below ``margin`` if answers went on changing at the same rates.

    Returns:
        At least ``counts.n``; None if no number would do, because the observed loss reaches the margin.
    """
    if counts.loss >= margin:
        return None
    repaired, broken = counts.repaired / counts.n, counts.broken / counts.n

    def fails(n: int) -> bool:
        # Fractions of an answer on purpose: the score needs no whole numbers, and the search no jumps.
        return _bound(n, repaired * n, broken * n, alpha) >= margin

    low, high = counts.n, counts.n
    while fails(high):
        low, high = high, high * 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fails(middle) else (low, middle)
    return high


def _bound(n: float, repaired: float, broken: float, alpha: float) -> float:
    if broken == n:
        return 1.0
    z = float(norm.ppf(1.0 - alpha))
    # The score falls from 0 at the observed loss to minus infinity at 1, so it crosses -z once.
    observed = (broken - repaired) / n
    return float(brentq(lambda loss: _score(n, repaired, broken, loss) + z, observed, 1.0 - 1e-12, xtol=1e-12))


def _score(n: float, repaired: float, broken: float, loss: float) -> float:
    """Tango's score statistic: how far the observed loss is from ``loss``, in standard errors under ``loss``."""
    numerator = broken - repaired - n * loss
    if numerator == 0:
        return 0.0
    # The most likely probability of a repair, given that breaking is more likely by exactly ``loss``.
    a = 2 * n
    b = -broken - repaired + (2 * n - broken + repaired) * loss
    c = -repaired * loss * (1 - loss)
    repair_probability = (math.sqrt(b * b - 4 * a * c) - b) / (2 * a)
    return numerator / math.sqrt(n * (2 * repair_probability + loss * (1 - loss)))
