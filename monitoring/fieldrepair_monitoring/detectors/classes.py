"""How often each class is the answer: black-box shift detection on predicted classes (Lipton et al., 2018).

When only the shares of the classes change, every input still looks like one the model knows, and is answered with the
same certainty. Embeddings and scores do move, but in many directions at once, and the noise of all of them stands
against the change. Counting answers leaves out all that: one number per class.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from fieldrepair_monitoring.detectors.calibrated import CalibratedDetector
from fieldrepair_monitoring.detectors.calibration import Statistics, Windows
from fieldrepair_monitoring.detectors.chi_square import chi_square, count_categories
from fieldrepair_monitoring.features import Features, FloatArray


class ClassesDetector(CalibratedDetector):
    """Pearson's chi-square on the counts of predicted classes.

    The statistic is chi-square divided by the size of the samples, a squared distance of two distributions. Its limit
    distribution is not used: thresholds come from calibration windows, so classes that are hardly ever predicted do no
    harm.
    """

    name = "classes"
    reads = ("scores",)
    power = 1.0

    def _learn(self, reference: Features) -> Features:
        self._classes = np.arange(reference.scores.shape[1])
        self._predicted = _predicted(reference)
        self._expected = count_categories(self._predicted[None], self._classes)
        return reference

    def _leave_out(self, reference: Features, windows: Windows) -> Statistics:
        observed = count_categories(self._predicted[windows], self._classes)
        return _distance(observed, self._expected - observed)

    def _statistic(self, window: Features) -> float:
        return float(self._statistics(window, np.arange(len(window))[None])[0])

    def _statistics(self, pool: Features, windows: Windows) -> Statistics:
        observed = count_categories(_predicted(pool)[windows], self._classes)
        return _distance(observed, np.broadcast_to(self._expected, observed.shape))


def _predicted(features: Features) -> npt.NDArray[np.int64]:
    scores: FloatArray = features.scores
    return scores.argmax(axis=1)


def _distance(observed: Statistics, other: Statistics) -> Statistics:
    statistic, _ = chi_square(observed, other)
    return statistic * (1 / observed.sum(axis=1) + 1 / other.sum(axis=1))
