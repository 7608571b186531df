"""Score and accuracy of one model version over time, as one PNG."""

from __future__ import annotations

import io
from collections.abc import Sequence
from datetime import datetime, timezone
from typing import TYPE_CHECKING

from fieldrepair_monitoring.errors import DetectorError
from fieldrepair_service.case_book import WindowRecord

if TYPE_CHECKING:
    from matplotlib.axes import Axes

HISTORY_PICTURE = "history.png"
_CALM, _DRIFTED, _LIMIT, _LABELLED = "#1f6f8b", "#c03a2b", "#777777", "#2e7d32"


def history_plot(
    windows: Sequence[WindowRecord], *, title: str, alert_index: int | None, reference_accuracy: float | None
) -> bytes:
    """Two pictures over one another: the drift statistic against its threshold, and the accuracy.

    Args:
        windows: oldest first, at least one.
        title: above the pictures.
        alert_index: window that completed the alert; marked, if it is among them.
        reference_accuracy: drawn as a line, if known.

    Raises:
        DetectorError: no windows.
    """
    if not windows:
        raise DetectorError("a history needs at least one window, got none")
    # The figure alone, not pyplot: pyplot keeps state for the whole process and belongs to the main thread.
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 5.4), dpi=100, layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True)
    times = [datetime.fromtimestamp(window.last_timestamp_ms / 1000, timezone.utc) for window in windows]
    alerts = [time for time, window in zip(times, windows, strict=True) if window.index == alert_index]
    _statistic(above, times, windows)
    _accuracy(below, times, windows, reference_accuracy)
    for axes in (above, below):
        for time in alerts:
            axes.axvline(time, color=_DRIFTED, linewidth=1.2, linestyle=":", label="alert")
        axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False, fontsize=8)
        axes.spines[["top", "right"]].set_visible(False)
    above.set_title(title, fontsize=10)
    below.set_xlabel("time of the window's last field input (UTC)", fontsize=9)
    locator = AutoDateLocator()
    below.xaxis.set_major_locator(locator)
    below.xaxis.set_major_formatter(ConciseDateFormatter(locator))
    buffer = io.BytesIO()
    # Without the version of matplotlib in it, the same windows always give the same file.
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def _statistic(axes: Axes, times: list[datetime], windows: Sequence[WindowRecord]) -> None:
    axes.plot(times, [w.times_threshold for w in windows], color=_CALM, linewidth=1, zorder=1)  # pyright: ignore[reportArgumentType]
    for drifted, colour, label in ((False, _CALM, "calm window"), (True, _DRIFTED, "drifted window")):
        chosen = [(time, w.times_threshold) for time, w in zip(times, windows, strict=True) if w.drifted == drifted]
        if chosen:
            axes.scatter(*zip(*chosen, strict=True), s=14, color=colour, label=label, zorder=2)
    axes.axhline(1.0, color=_LIMIT, linestyle="--", linewidth=1, label="threshold")
    axes.set_ylabel("drift statistic,\nthresholds", fontsize=9)


def _accuracy(
    axes: Axes, times: list[datetime], windows: Sequence[WindowRecord], reference_accuracy: float | None
) -> None:
    estimated = [
        (t, w.estimated_accuracy) for t, w in zip(times, windows, strict=True) if w.estimated_accuracy is not None
    ]
    if estimated:
        axes.plot(*zip(*estimated, strict=True), color=_CALM, marker=".", linewidth=1, label="estimated")
    between = [
        (t, w.accuracy_low, w.accuracy_high)
        for t, w in zip(times, windows, strict=True)
        if w.accuracy_low is not None and w.accuracy_high is not None
    ]
    if between:
        xs, lows, highs = zip(*between, strict=True)
        axes.fill_between(xs, lows, highs, color=_CALM, alpha=0.2, linewidth=0, label="its interval")
    doubtful = [
        (t, w.estimated_accuracy)
        for t, w in zip(times, windows, strict=True)
        if w.estimated_accuracy is not None and w.accuracy_trusted is False
    ]
    if doubtful:
        axes.scatter(
            *zip(*doubtful, strict=True),
            facecolors="white",
            edgecolors=_CALM,
            s=30,
            zorder=3,
            label="not to be trusted",
        )
    labelled = [
        (t, w.labelled_accuracy) for t, w in zip(times, windows, strict=True) if w.labelled_accuracy is not None
    ]
    if labelled:
        axes.scatter(*zip(*labelled, strict=True), color=_LABELLED, marker="D", s=18, label="labelled")
    if reference_accuracy is not None:
        axes.axhline(reference_accuracy, color=_LIMIT, linestyle="--", linewidth=1, label="reference")
    axes.set_ylim(0, 1.02)
    axes.set_ylabel("accuracy", fontsize=9)
