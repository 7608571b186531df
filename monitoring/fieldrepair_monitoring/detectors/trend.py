"""The last windows against the field's own earlier ones: sees slow changes long before a single window shows them.

Every other detector compares one window with the reference. Two errors limit what it can see: that of the window,
and that of the reference, which is a sample of a few hundred or thousand inputs and off the truth by chance. A change
that comes slowly is smaller than both for a long time. Here the last 2, 4 and 8 windows are put together and compared
with all calm windows before them, so the error of the reference does not matter at all, and that of a single window
little. Compared are the answers, their uncertainty and the embeddings (:mod:`.trend_views`).

The same windows are looked at again with the next one, so a false alarm would confirm itself. Its probability is
therefore made as small as that of a *confirmed* alarm of independent windows, which is about ``2 p^2``: the p-value is
``sqrt(q / 2)``, with ``q`` the probability of so large a distance by chance, adjusted for all comparisons (Bonferroni).
So an alarm needs no second one to confirm it, but for one doubt: a single odd window can move the last few by itself.
It counts as confirmed if those before it show the change too.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from fieldrepair_monitoring.detectors.base import (
    MIN_REFERENCE,
    MIN_WINDOW,
    DetectorOptions,
    DriftScore,
    Memory,
    Reading,
    reading,
)
from fieldrepair_monitoring.detectors.calibration import Windows
from fieldrepair_monitoring.detectors.field_history import FieldHistory, Vector
from fieldrepair_monitoring.detectors.trend_views import Answers, Comparison, Means, View
from fieldrepair_monitoring.errors import DetectorError
from fieldrepair_monitoring.features import Features

SPANS = (2, 4, 8)
"""So many of the last windows are compared together."""
MOST_EMBEDDINGS = 20
"""Principal components of the embeddings."""
SMALLEST_P = 1e-300


class TrendDetector:
    """The last windows against all calm ones before; see the module's docstring.

    Args:
        options: rate of false alarms, smallest effect.
    """

    name = "trend"
    reads: tuple[Reading, ...] = ("embeddings", "scores")

    def __init__(self, options: DetectorOptions | None = None) -> None:
        self.options = options or DetectorOptions()
        self._views: list[View] = []
        self._widths: dict[Reading, int] = {}

    def fit(self, reference: Features) -> None:
        """Choose what to look at; see :class:`.base.Detector`."""
        self._widths = {which: reading("reference", reference, which, MIN_REFERENCE).shape[1] for which in self.reads}
        views: list[View] = [Answers(reference), Means(reference, _embeddings, most=MOST_EMBEDDINGS)]
        if np.ptp(_uncertainty(reference)) > 0:  # a model that is always equally sure has no such change to show
            views.append(Means(reference, _uncertainty, most=1))
        self._views = views

    def score(self, window: Features) -> DriftScore:
        """Without a memory there is nothing to compare a window with: never drifted."""
        return self.score_after(window, "")

    def score_after(self, window: Features, memory: Memory) -> DriftScore:
        """Compare a window and those before it with the past; see :class:`.base.RemembersWindows`."""
        return self._judge(self._coordinates(window), self._histories(memory))

    def remember(self, window: Features, memory: Memory, *, calm: bool) -> Memory:
        """The memory after this window; see :class:`.base.RemembersWindows`."""
        rows = self._coordinates(window)
        histories = [each.after(part, calm=calm) for each, part in zip(self._histories(memory), rows, strict=True)]
        return ",".join(each.to_text(view.probe) for each, view in zip(histories, self._views, strict=True))

    def score_stream(self, pool: Features, windows: Windows) -> list[DriftScore]:
        """The scores of many windows of one pool, one after the other, each remembered for those that follow.

        Args:
            pool: ``n`` inputs.
            windows: ``(b, m)`` indices into the pool, in order.
        """
        rows = self._coordinates(pool)
        histories = self._histories("")
        scores: list[DriftScore] = []
        for window in windows:
            parts = [each[window] for each in rows]
            scores.append(self._judge(parts, histories))
            calm = not scores[-1].drifted
            histories = [each.after(part, calm=calm) for each, part in zip(histories, parts, strict=True)]
        return scores

    def _judge(self, rows: list[Vector], histories: list[FieldHistory]) -> DriftScore:
        found: list[Comparison] = []
        for view, part, history in zip(self._views, rows, histories, strict=True):
            sizes, means = history.latest(part)
            found += [view.compare(sizes, means, history, span) for span in SPANS]
        clearest = min(found, key=lambda each: each.log_q)
        log_q = min(0.0, clearest.log_q + math.log(len(found)))
        p_value = 1.0 if log_q == 0.0 else max(SMALLEST_P, math.exp(0.5 * (log_q - math.log(2.0))))
        drifted = p_value < self.options.p_value and clearest.effect >= self.options.min_effect
        return DriftScore(
            statistic=0.0 - math.log10(p_value),
            p_value=p_value,
            threshold=-math.log10(self.options.p_value),
            drifted=drifted,
            effect_size=clearest.effect,
            confirmed=drifted and clearest.lasting,
        )

    def _histories(self, memory: Memory) -> list[FieldHistory]:
        """What was remembered; from the beginning where it was another model's, or nothing."""
        parts = memory.split(",") if memory else []
        if len(parts) == len(self._views):
            found = [FieldHistory.from_text(part, view.probe) for part, view in zip(parts, self._views, strict=True)]
            known = [each for each in found if each is not None]
            if len(known) == len(found):
                return known
        return [FieldHistory.empty(len(view.probe)) for view in self._views]

    def _coordinates(self, window: Features) -> list[Vector]:
        if not self._views:
            raise DetectorError("the detector was not fitted")
        for which, columns in self._widths.items():
            rows = reading("window", window, which, MIN_WINDOW)
            if rows.shape[1] != columns:
                raise DetectorError(f"expected {which} with {columns} columns, got {rows.shape[1]}")
        return [view.of(window) for view in self._views]


def _embeddings(features: Features) -> Vector:
    return features.embeddings.astype(np.float64)


def _uncertainty(features: Features) -> npt.NDArray[np.float64]:
    """``(n, 1)``: the entropy of the scores, in nats."""
    scores = features.scores.astype(np.float64)
    return -(scores * np.log(np.clip(scores, 1e-12, None))).sum(axis=1, keepdims=True)
