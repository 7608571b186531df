"""What a detector is: two methods, ``fit`` on the reference and ``score`` on a window of field inputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias, runtime_checkable

import numpy as np

from fieldrepair_monitoring.errors import DetectorError
from fieldrepair_monitoring.features import Features, FloatArray

MIN_REFERENCE = 20
MIN_WINDOW = 10

Reading = Literal["embeddings", "scores", "rows"]
"""Which of the :class:`Features` a detector looks at."""


Memory: TypeAlias = str
"""What a detector remembers of earlier windows, as ASCII of a bounded length; empty at first."""


@dataclass(frozen=True)
class DriftScore:
    """What a detector says about one window."""

    statistic: float
    """How far the window is from the reference; larger is farther."""
    p_value: float
    """Probability of a statistic at least this large if the window came from the reference."""
    threshold: float
    """The window is unlike the reference if the statistic is larger than this."""
    drifted: bool
    """Whether it is, and the effect is not too small to matter."""
    effect_size: float
    """The distance in units of what chance shows: 1 is the distance that 95 % of windows of 100 unchanged inputs stay
    below. It does not grow with the window, so a huge window of nearly unchanged inputs has a small effect."""
    confirmed: bool = False
    """Whether no other window need confirm it: it is about several of them, and as rare by chance as two alarms are."""


@dataclass(frozen=True)
class DetectorOptions:
    """What every detector is made with; a detector from an entry point too."""

    p_value: float = 0.005
    """A window with a smaller p-value counts as drifted: the rate of false alarms per window."""
    window_size: int = 100
    """Field inputs per window, for which thresholds are calibrated. Other sizes are allowed, and less exact."""
    calibration_windows: int = 2000
    """Windows drawn from the reference that show what chance does; more than ``1 / p_value``."""
    min_effect: float = 0.0
    """A window with a smaller effect does not count as drifted, whatever its p-value."""
    seed: int = 0
    """Of everything random in the fit. Scoring is not random."""
    device: str = "cpu"
    """PyTorch device, for detectors that use one."""

    def __post_init__(self) -> None:
        if self.p_value * (1 + self.calibration_windows) <= 1:
            raise DetectorError(
                f"with {self.calibration_windows} calibration windows the smallest possible p-value is "
                f"{1 / (1 + self.calibration_windows):.4g}, so no window could fall below {self.p_value:.4g}; need "
                f"more than {1 / self.p_value:.0f}"
            )


class Detector(Protocol):
    """What every detector can do. Scoring the same window twice gives the same answer."""

    @property
    def name(self) -> str:
        """Short name, as it stands in the case book and in metrics."""
        ...

    @property
    def reads(self) -> tuple[Reading, ...]:
        """The features it looks at; the others may be anything."""
        ...

    def fit(self, reference: Features) -> None:
        """Learn what is normal.

        Raises:
            DetectorError: too few inputs, inputs that cannot be told apart, or features that are not there.
        """
        ...

    def score(self, window: Features) -> DriftScore:
        """Compare a window of field inputs with the reference.

        Raises:
            DetectorError: not fitted, too few inputs, or another number of columns.
        """
        ...


@runtime_checkable
class RemembersWindows(Protocol):
    """What a detector can do besides, if it compares a window with earlier ones.

    The detector itself keeps nothing: its memory is handed to it, and the monitor stores it with the checkpoint, in
    one transaction with the window. So a monitor that is killed and started again remembers what it had judged.
    """

    def score_after(self, window: Features, memory: Memory) -> DriftScore:
        """Compare a window with the reference and with what is remembered.

        A memory that is not its own (of another reference, or damaged) counts as empty.

        Raises:
            DetectorError: as :meth:`Detector.score`.
        """
        ...

    def remember(self, window: Features, memory: Memory, *, calm: bool) -> Memory:
        """What to hand over with the next window.

        Args:
            window: that was judged.
            memory: before it.
            calm: whether all detectors together found nothing; a drifted window should be no standard for later ones.

        Raises:
            DetectorError: as :meth:`Detector.score`.
        """
        ...


def reading(what: str, features: Features, which: Reading, least: int) -> FloatArray:
    """One kind of features, checked.

    Args:
        what: "reference" or "window", for messages.
        features: of some inputs.
        which: the kind.
        least: inputs there must be.

    Returns:
        ``(n, columns)`` finite numbers.

    Raises:
        DetectorError: there are too few, they are not numbers, or this kind is absent.
    """
    rows: FloatArray | None = getattr(features, which)
    if rows is None:
        raise DetectorError(f"a detector that reads {which} needs them, but the inputs of this model are not a table")
    if rows.ndim != 2 or len(rows) < least:
        raise DetectorError(f"a {what} needs at least {least} {which} of shape (n, d), got shape {rows.shape}")
    if not np.isfinite(rows).all():
        raise DetectorError(f"a {what} holds {which} that are NaN or infinite")
    return rows
