"""Several detectors, one decision: the rate of false alarms is that of all of them together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from fieldrepair_monitoring.detectors.base import DriftScore

Multiplicity = Literal["bonferroni", "bh"]
PValues = npt.NDArray[np.float64]


@dataclass(frozen=True)
class CombinedScore:
    """What several detectors say about one window, together."""

    decisive: str
    """The detector with the smallest p-value (of those with the same, the largest effect)."""
    p_value: float
    """Adjusted for the number of detectors; may be compared with the chosen rate of false alarms."""
    drifted: bool
    confirmed: bool
    """Whether no other window need confirm it; see :attr:`.base.DriftScore.confirmed`."""


def combine(
    scores: Mapping[str, DriftScore], *, alpha: float, min_effect: float, multiplicity: Multiplicity
) -> CombinedScore:
    """Decide on one window.

    Args:
        scores: of each detector; at least one.
        alpha: rate of false alarms per window, for all detectors together.
        min_effect: the decisive detector must see at least this effect.
        multiplicity: ``bonferroni`` holds whatever the detectors have to do with each other; ``bh``
            (Benjamini-Hochberg; for "any of them" that is Simes' test) sees more when several agree, and holds when
            they depend on each other positively, as detectors of one window do.
    """
    decisive = min(scores, key=lambda name: (scores[name].p_value, -scores[name].effect_size))
    p_values = np.array([[score.p_value for score in scores.values()]])
    p_value = float(combined_p(p_values, multiplicity)[0])
    drifted = p_value < alpha and scores[decisive].effect_size >= min_effect
    sure = any(score.confirmed and len(scores) * score.p_value < alpha for score in scores.values())
    return CombinedScore(decisive, p_value, drifted, drifted and sure)


def combined_p(p_values: PValues, multiplicity: Multiplicity) -> PValues:
    """One p-value for "any of them": ``(b, f)`` to ``(b,)``; smaller than alpha if and only if one would be rejected.

    Args:
        p_values: of one window in each row.
        multiplicity: see :func:`combine`.
    """
    f = p_values.shape[1]
    if multiplicity == "bonferroni":
        return np.minimum(f * p_values.min(axis=1), 1.0)
    return (np.sort(p_values, axis=1) * f / np.arange(1, f + 1)).min(axis=1)
