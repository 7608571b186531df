"""Streams of windows, drawn by index: unchanged traffic, shifted traffic, and a ramp from one to the other."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from benchmarks.drift_case import WINDOW, DriftCase, Labelled
from fieldrepair_monitoring.features import joined

Windows = npt.NDArray[np.int64]

RAMP_WINDOWS = 40
CALM_WINDOWS = 20
"""Before a ramp that does not begin with the first window ever seen; as many as `fieldrepair backtest` has."""


@dataclass(frozen=True)
class DriftStream:
    """Windows of a pool, in order."""

    name: str
    shifted: bool
    pool: Labelled
    windows: Windows
    """``(b, m)`` indices into the pool."""
    loss: npt.NDArray[np.float64] | None = None
    """``(b,)`` for a ramp: the share of its final loss that the accuracy has lost in each window."""
    calm: int = 0
    """So many of the first windows are unchanged traffic; delays count from there."""


def no_drift(traffic: Labelled, count: int, seed: int) -> DriftStream:
    """``count`` windows of unchanged traffic; in each, no input twice, and at most half of what there is.

    A window that were drawn with replacement would differ from traffic: it would hold copies.
    """
    generator = np.random.default_rng([seed, 2])
    size = min(WINDOW, len(traffic) // 2)
    windows = np.stack([generator.choice(len(traffic), size, replace=False, shuffle=False) for _ in range(count)])
    return DriftStream("no_drift", False, traffic, windows)


def shifted(case: DriftCase) -> DriftStream:
    """All of the shifted inputs, in the order they come in, each once."""
    count = len(case.shifted) // WINDOW
    windows = np.arange(count * WINDOW).reshape(count, WINDOW)
    return DriftStream("shifted", True, case.shifted, windows)


def ramp(case: DriftCase, traffic: Labelled, seed: int) -> DriftStream:
    """Windows whose share of shifted inputs grows evenly from 0 to 100 %; within a window, no input twice."""
    generator = np.random.default_rng([seed, 3])
    pool = Labelled(
        joined([traffic.features, case.shifted.features]), np.concatenate([traffic.labels, case.shifted.labels])
    )
    shares = np.linspace(0.0, 1.0, RAMP_WINDOWS)
    windows: list[npt.NDArray[np.int64]] = []
    size = min(WINDOW, len(traffic))
    for share in shares:
        new = round(share * size)
        old = generator.permutation(len(traffic))[: size - new]
        windows.append(
            np.concatenate([old, len(traffic) + generator.permutation(len(case.shifted))[:new]]).astype(np.int64)
        )
        generator.shuffle(windows[-1])
    # In expectation, the accuracy falls in proportion to the share.
    return DriftStream("ramp", True, pool, np.stack(windows), loss=shares)


def after_calm(stream: DriftStream, traffic: Labelled, seed: int) -> DriftStream:
    """The same ramp after some windows of unchanged traffic, as a monitor sees it that has run for a while.

    Args:
        stream: from :func:`ramp`.
        traffic: that it was made with; the first part of its pool.
        seed: of the windows before.
    """
    generator = np.random.default_rng([seed, 4])
    size = stream.windows.shape[1]
    before = np.stack([generator.permutation(len(traffic))[:size] for _ in range(CALM_WINDOWS)]).astype(np.int64)
    loss = None if stream.loss is None else np.concatenate([np.zeros(CALM_WINDOWS), stream.loss])
    windows = np.concatenate([before, stream.windows])
    return DriftStream("ramp_after_calm", True, stream.pool, windows, loss, CALM_WINDOWS)
