"""Thresholds from the reference itself: what a statistic does on windows in which nothing has changed.

Windows of the real size are drawn at random from the reference, without replacement, and each is compared with the
inputs that are **not** in it, so no window is compared with itself. The statistics of a few thousand of them are the
null distribution; a field window's p-value is its rank among them. Fitting costs this once, and scoring a window is
cheap.

Two corrections make it hold for the field:

* **Size.** A reference of ``n`` inputs gives windows of at most ``n / 2``, and each faces only ``n - m`` inputs. Under
  no drift a squared distance between samples of ``m`` and ``n`` inputs shrinks as ``1/m + 1/n``, a distance as its root
  (for MMD this is the limit of the degenerate U-statistic, Gretton et al., 2012, theorem 12; for Kolmogorov-Smirnov,
  Smirnov's limit). Statistics are compared after division by that.
* **The reference is a sample.** It is drawn once, and every window is compared with the same one. If it happens to lie
  off the truth, all windows look a little shifted, and the share of false alarms is larger than chosen for as long as
  it is used. So the reference's part ``1/n`` counts :data:`CAUTION` times. Measured over 30 halves of a validation set
  (reference of 1,000, windows of 500, chosen rate 0.5 %, MMD and Kolmogorov-Smirnov): 0.25 % to 0.4 % false alarms on
  average and up to 8 % with the unluckiest half if it counts once; below 0.1 % and up to 2 % if it counts twice. It
  also stops windows much larger than the reference from alarming on the reference's own error.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from fieldrepair_monitoring.detectors.base import MIN_WINDOW, DetectorOptions, DriftScore

Statistics = npt.NDArray[np.float64]
Windows = npt.NDArray[np.int64]
"""``(windows, size)`` indices."""

CAUTION = 2.0
EFFECT_WINDOW = 100
EFFECT_QUANTILE = 0.95


class Calibration:
    """The null distribution of a statistic, and what a statistic means against it.

    Args:
        null: ``(b,)`` statistics of windows of the reference, each against the other inputs of the reference.
        size: inputs in each of these windows.
        rest: inputs each was compared with.
        reference: inputs a field window is compared with.
        power: 1 if the statistic is a squared distance, 0.5 if it is a distance.
        options: the detector's.
        caution: how many times the reference's own part of the distance counts.
    """

    def __init__(
        self,
        null: Statistics,
        *,
        size: int,
        rest: int,
        reference: int,
        power: float,
        options: DetectorOptions,
        caution: float = CAUTION,
    ) -> None:
        self._null = np.sort(null.astype(np.float64) / (1 / size + 1 / rest) ** power)
        self._reference = reference
        self._caution = caution
        self._power = power
        self._options = options
        # The largest rank that still gives a smaller p-value; the statistic must beat that many and no more.
        allowed = int(np.ceil(options.p_value * (1 + len(null)) - 1)) - 1
        self._limit = float(self._null[len(null) - 1 - allowed])
        chance = float(np.quantile(self._null, EFFECT_QUANTILE)) / EFFECT_WINDOW**power
        self._chance = max(chance, float(np.finfo(np.float32).tiny))

    def judge(self, statistic: float, size: int) -> DriftScore:
        """Score of a window of ``size`` inputs with this statistic."""
        scale = (1 / size + self._caution / self._reference) ** self._power
        exceeding = int((self._null >= statistic / scale).sum())
        p_value = (1 + exceeding) / (1 + len(self._null))
        effect = (max(statistic, 0.0) / self._chance) ** (0.5 / self._power)
        return DriftScore(
            statistic=statistic,
            p_value=p_value,
            threshold=self._limit * scale,
            drifted=p_value < self._options.p_value and effect >= self._options.min_effect,
            effect_size=effect,
        )


def calibration_size(reference: int, window_size: int) -> int:
    """Inputs per calibration window: the real number, or half the reference if it has fewer than twice that."""
    return max(MIN_WINDOW, min(window_size, reference // 2))


def draw_windows(inputs: int, size: int, count: int, seed: int) -> Windows:
    """``(count, size)`` indices below ``inputs``; within a window, each at most once."""
    generator = np.random.default_rng(seed)
    # One row at a time keeps memory at one window's worth of random numbers.
    return np.stack([generator.choice(inputs, size, replace=False, shuffle=False) for _ in range(count)])


def members(windows: Windows, inputs: int) -> npt.NDArray[np.float32]:
    """``(inputs, windows)``: how often each input is in each window."""
    counts = np.zeros((len(windows), inputs), dtype=np.float32)
    np.add.at(counts, (np.arange(len(windows))[:, None], windows), 1.0)
    return np.ascontiguousarray(counts.T)
