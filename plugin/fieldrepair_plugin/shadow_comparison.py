"""What a shadow has found so far: agreement, disagreements, times and drops. Safe to share between threads."""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Mapping, Sequence

import numpy as np

from fieldrepair_plugin.shadow_sampling import LoggedRequest
from fieldrepair_service.protocols import Predictions
from fieldrepair_service.trial_reports import Disagreement, Estimate, ShadowReport, Timing

_TIMES = 1000
_EXAMPLES = 24


class Comparison:
    """Counts what a shadow does.

    Args:
        earlier: what an earlier process of the same shadow had found; counted on.
        class_names: one per class.
        input_spec: layout of the field inputs, for pictures.
    """

    def __init__(self, earlier: ShadowReport, class_names: Sequence[str], input_spec: Mapping[str, object]) -> None:
        self._lock = threading.Lock()
        self._seen = earlier.seen
        self._agreed, self._disagreed = earlier.agreed, earlier.disagreed
        self._dropped: Counter[str] = Counter(earlier.dropped)
        self._examples = deque(earlier.disagreements, maxlen=_EXAMPLES)
        self._champion_ms: deque[float] = deque(maxlen=_TIMES)
        self._candidate_ms: deque[float] = deque(maxlen=_TIMES)
        self._earlier = earlier
        self._class_names, self._input_spec = list(class_names), dict(input_spec)

    def saw(self, inputs: int) -> None:
        """The champion has answered so many field inputs more."""
        with self._lock:
            self._seen += inputs

    def drop(self, reason: str, inputs: int) -> None:
        """So many field inputs will not be compared."""
        if inputs:
            with self._lock:
                self._dropped[reason] += inputs

    def answered(self, request: LoggedRequest, predictions: Predictions, milliseconds: float) -> None:
        """The candidate has answered a request."""
        classes, confidences = predictions.predicted_class, predictions.confidence
        with self._lock:
            self._champion_ms.append(request.milliseconds)
            self._candidate_ms.append(milliseconds)
            for index, (row, champion) in enumerate(zip(request.rows, request.classes, strict=True)):
                if classes is None or champion is None:
                    self._dropped["answer_without_class"] += 1
                elif int(classes[index]) == champion:
                    self._agreed += 1
                else:
                    self._disagreed += 1
                    self._examples.append(
                        Disagreement(
                            request_id=request.request_id,
                            row=row,
                            champion=champion,
                            candidate=int(classes[index]),
                            champion_confidence=request.confidences[index],
                            candidate_confidence=None if confidences is None else float(confidences[index]),
                        )
                    )

    def report(self, champion: Estimate | None, candidate: Estimate | None, problem: str) -> ShadowReport:
        """Everything so far.

        Args:
            champion: accuracy to expect of the champion.
            candidate: of the candidate.
            problem: why these are not known.
        """
        with self._lock:
            return ShadowReport(
                seen=self._seen,
                agreed=self._agreed,
                disagreed=self._disagreed,
                dropped=dict(sorted(self._dropped.items())),
                champion_timing=_timing(self._champion_ms) or self._earlier.champion_timing,
                candidate_timing=_timing(self._candidate_ms) or self._earlier.candidate_timing,
                champion_accuracy=champion or self._earlier.champion_accuracy,
                candidate_accuracy=candidate or self._earlier.candidate_accuracy,
                accuracy_problem=problem,
                disagreements=list(self._examples),
                class_names=self._class_names,
                input_spec=self._input_spec,
            )


def _timing(milliseconds: deque[float]) -> Timing | None:
    """Of the last requests; None before the first."""
    if not milliseconds:
        return None
    times = np.asarray(milliseconds)
    p50, p95 = np.quantile(times, [0.5, 0.95])
    return Timing(count=len(times), mean_ms=float(times.mean()), p50_ms=float(p50), p95_ms=float(p95))
