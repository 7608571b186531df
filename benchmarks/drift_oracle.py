"""A test that knows the shift beforehand: what can be seen at all in one window, with a reference of this size.

It looks along one direction only, the one that best tells this very shift from unchanged inputs, learned from all
validation and all shifted inputs, which no detector has. Where even this test is late, the reference and the window
are too small, and no detector that compares one window with the reference can be sooner but by luck.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.stats import norm
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from benchmarks.drift_case import DriftCase, Labelled
from benchmarks.drift_streams import DriftStream
from fieldrepair_monitoring.features import Features


class Oracle:
    """A one-sided two-sample z-test of the means along that direction.

    Args:
        case: to learn the direction from.
        p_value: rate of false alarms per window.
    """

    name = "oracle (knows the shift)"

    def __init__(self, case: DriftCase, p_value: float) -> None:
        both = np.concatenate([_inputs(case.validation.features), _inputs(case.shifted.features)])
        new = np.repeat([0, 1], [len(case.validation), len(case.shifted)])
        self._direction = LinearDiscriminantAnalysis(priors=[0.5, 0.5]).fit(both, new)
        self._limit = float(norm.isf(p_value))

    def drifted(self, reference: Labelled, stream: DriftStream) -> npt.NDArray[np.bool_]:
        """Its decision about each window of a stream."""
        known = self._direction.decision_function(_inputs(reference.features))
        seen = self._direction.decision_function(_inputs(stream.pool.features))[stream.windows]
        error = np.sqrt(known.var(ddof=1) * (1 / len(known) + 1 / seen.shape[1]))
        return (seen.mean(axis=1) - known.mean()) / error > self._limit


def _inputs(features: Features) -> npt.NDArray[np.float64]:
    """``(n, classes)``: all scores but the last, which follows from them, and the entropy."""
    scores = features.scores.astype(np.float64)
    entropy = -(scores * np.log(np.clip(scores, 1e-12, None))).sum(axis=1, keepdims=True)
    return np.concatenate([scores[:, :-1], entropy], axis=1)
