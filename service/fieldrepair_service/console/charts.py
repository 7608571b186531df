"""Geometry of the charts. What is here are numbers in the coordinates of an SVG; the templates draw them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone

from fieldrepair_service.case_book import DriftEvent, WindowRecord

WIDTH, HEIGHT = 960, 210
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 78, 24, 26
_MOST_TICKS = 5


@dataclass(frozen=True)
class Tick:
    """A mark on an axis."""

    at: float
    text: str


@dataclass(frozen=True)
class Dot:
    """One window."""

    x: float
    y: float
    drifted: bool
    text: str


@dataclass(frozen=True)
class Mark:
    """A drift event: from when it was opened to when it ended, or to the right edge while it lasts."""

    x: float
    until: float
    text: str


@dataclass
class Panel:
    """One chart over time."""

    title: str
    description: str
    width: int = WIDTH
    height: int = HEIGHT
    left: int = _LEFT
    right: float = WIDTH - _RIGHT
    top: int = _TOP
    bottom: float = HEIGHT - _BOTTOM
    x_ticks: list[Tick] = field(default_factory=list[Tick])
    y_ticks: list[Tick] = field(default_factory=list[Tick])
    lines: list[str] = field(default_factory=list[str])
    """Points of one line per model version."""
    bands: list[str] = field(default_factory=list[str])
    """Points of the interval around each line."""
    dots: list[Dot] = field(default_factory=list[Dot])
    limit: Tick | None = None
    """A horizontal line that means something."""
    marks: list[Mark] = field(default_factory=list[Mark])
    second: bool = False
    """Drawn in the second colour."""


@dataclass(frozen=True)
class Series:
    """The judged windows of one model version, oldest first."""

    version: str
    windows: Sequence[WindowRecord]


def drift_panel(name: str, series: Sequence[Series], events: Sequence[DriftEvent]) -> Panel:
    """The drift statistic in units of its threshold: above 1 a window differs from the reference.

    Args:
        name: of the model, for the description.
        series: at least one window in all.
        events: drift events to mark.
    """
    windows = [window for each in series for window in each.windows]
    drifted = sum(window.drifted for window in windows)
    panel = Panel(
        "Drift statistic as a multiple of its threshold",
        f"{len(windows)} windows of {name}, {drifted} of them above the threshold; {len(events)} drift events.",
    )
    values = [window.times_threshold for window in windows]
    low, high = min(0.0, *values), max(1.25, *values) * 1.06
    x, y = _time_axis(panel, windows, events), _value_axis(panel, low, high, lambda value: f"{value:g}")
    panel.limit = Tick(y(1.0), "threshold")
    for each in series:
        panel.lines.append(_points((x(w.last_timestamp_ms), y(w.times_threshold)) for w in each.windows))
    panel.dots = [
        Dot(
            round(x(w.last_timestamp_ms), 1),
            round(y(w.times_threshold), 1),
            w.drifted,
            f"window {w.index} of version {each.version}: {w.times_threshold:.2f} times the threshold",
        )
        for each in series
        for w in each.windows
    ]
    return panel


def accuracy_panel(
    name: str, series: Sequence[Series], events: Sequence[DriftEvent], reference: float | None
) -> Panel | None:
    """The accuracy that the monitor estimates without labels, with its interval where there is one.

    Args:
        name: of the model, for the description.
        series: windows.
        events: drift events to mark.
        reference: accuracy on the reference validation set, drawn as a line.

    Returns:
        None where no window has an estimate.
    """
    known = [Series(s.version, [w for w in s.windows if w.estimated_accuracy is not None]) for s in series]
    windows = [window for each in known for window in each.windows]
    if not windows:
        return None
    last = windows[-1].estimated_accuracy or 0.0
    panel = Panel(
        "Estimated accuracy (severity)",
        f"Estimated without labels for {len(windows)} windows of {name}; the last is {last:.1%}{_doubt(windows[-1])}"
        + (f", on the reference it was {reference:.1%}." if reference is not None else "."),
        second=True,
    )
    ends = [v for w in windows for v in (w.estimated_accuracy, w.accuracy_low, w.accuracy_high) if v is not None]
    ends += [reference] if reference is not None else []
    low, high = max(0.0, min(ends) - 0.05), min(1.0, max(ends) + 0.03)
    x = _time_axis(panel, windows, events)
    y = _value_axis(panel, low, high, lambda value: f"{100 * value:g} %")
    if reference is not None:
        panel.limit = Tick(y(reference), "reference")
    for each in known:
        panel.lines.append(_points((x(w.last_timestamp_ms), y(w.estimated_accuracy or 0.0)) for w in each.windows))
        bounded = [w for w in each.windows if w.accuracy_low is not None and w.accuracy_high is not None]
        upper = [(x(w.last_timestamp_ms), y(w.accuracy_high or 0.0)) for w in bounded]
        lower = [(x(w.last_timestamp_ms), y(w.accuracy_low or 0.0)) for w in reversed(bounded)]
        panel.bands.append(_points([*upper, *lower]))
    panel.dots = [
        Dot(
            round(x(w.last_timestamp_ms), 1),
            round(y(w.estimated_accuracy or 0.0), 1),
            False,
            f"window {w.index} of version {each.version}: {w.estimated_accuracy:.1%}{_doubt(w)}",
        )
        for each in known
        for w in each.windows
    ]
    return panel


def _doubt(window: WindowRecord) -> str:
    return ", not to be trusted" if window.accuracy_trusted is False else ""


def sparkline(values: Sequence[float], width: int = 160, height: int = 36) -> str:
    """Points of a line through values at equal distances; empty for fewer than two."""
    if len(values) < 2:
        return ""
    high = max(values) or 1.0
    step = width / (len(values) - 1)
    return _points((i * step, height - 2 - (height - 4) * value / high) for i, value in enumerate(values))


def nice_steps(low: float, high: float, most: int = _MOST_TICKS) -> list[float]:
    """Round numbers between two, at most ``most`` of them or one more."""
    span = high - low
    if span <= 0:
        return [low]
    rough = span / most
    size = 10 ** math.floor(math.log10(rough))
    step = next(size * factor for factor in (1, 2, 2.5, 5, 10) if size * factor >= rough)
    first = math.ceil(low / step - 1e-9)
    return [round(step * i, 10) for i in range(first, math.floor(high / step + 1e-9) + 1)]


def _points(places: Iterable[tuple[float, float]]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in places)


def _time_axis(panel: Panel, windows: Sequence[WindowRecord], events: Sequence[DriftEvent]) -> Callable[[float], float]:
    first, last = windows[0].first_timestamp_ms, max(window.last_timestamp_ms for window in windows)
    span = max(1, last - first)

    def x(ms: float) -> float:
        return panel.left + (panel.right - panel.left) * min(1.0, max(0.0, (ms - first) / span))

    form = "%d %b" if span > 2 * 86_400_000 else "%H:%M:%S" if span < 600_000 else "%H:%M"
    for i in range(_MOST_TICKS):
        ms = first + span * i / (_MOST_TICKS - 1)
        moment = datetime.fromtimestamp(ms / 1000, timezone.utc)
        panel.x_ticks.append(Tick(x(ms), moment.strftime(form)))
    panel.marks = [
        Mark(round(x(e.opened_ms), 1), round(x(e.ended_ms) if e.ended_ms else panel.right, 1), f"event {e.id}")
        for e in events
        if (e.ended_ms or last) >= first
    ]
    return x


def _value_axis(panel: Panel, low: float, high: float, write: Callable[[float], str]) -> Callable[[float], float]:
    span = (high - low) or 1.0

    def y(value: float) -> float:
        return panel.bottom - (panel.bottom - panel.top) * (value - low) / span

    panel.y_ticks = [Tick(round(y(value), 1), write(value)) for value in nice_steps(low, high, 4)]
    return y
