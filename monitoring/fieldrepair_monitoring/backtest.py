"""What the monitor would have said: windows of the past, judged by each detector as if it had been the one in use."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace

import numpy as np
import numpy.typing as npt

from fieldrepair_monitoring.confirmation import Confirmation, hurts
from fieldrepair_monitoring.detectors import Memory
from fieldrepair_monitoring.errors import WindowNotJudgedError
from fieldrepair_monitoring.reference import Inputs
from fieldrepair_monitoring.settings import MonitorSettings
from fieldrepair_monitoring.watched_version import Verdict, WatchedVersion
from fieldrepair_service.case_book import WindowRecord

Answers = Callable[[Inputs], npt.NDArray[np.int64]]


@dataclass(frozen=True)
class ReplayWindow:
    """One window of the past."""

    inputs: Inputs
    """``(m, *served shape)``."""
    labels: npt.NDArray[np.int64] | None
    """``(m,)`` right answers, if they are known."""
    times_ms: tuple[int, int] | None
    """When its first and its last input were asked for, if that is known."""
    shifted: bool | None = None
    """Whether the shift has begun; None if nobody knows."""


@dataclass(frozen=True)
class Alarm:
    """One drift event that would have been raised."""

    window: int
    """The window that completes it, counted from 0."""
    at_ms: int | None
    """Time of its last input."""
    delay_windows: int | None
    """Windows from the shift to the alarm, both counted; None if it came before the shift or the shift is not known."""
    estimated_accuracy: float | None
    accuracy_low: float
    accuracy_high: float
    accuracy_trusted: bool
    """Of the window that completes it."""
    true_accuracy: float | None
    """Of the window, if its right answers are known."""
    ended_window: int | None = None
    """The window that ended it; None if it lasts."""


@dataclass
class Replay:
    """What one detector would have said."""

    detector: str
    windows: int = 0
    drifted: int = 0
    not_judged: int = 0
    """Windows on which the model fails."""
    shift_window: int | None = None
    """The first window with shifted inputs, if that is known."""
    first_drifted: int | None = None
    """The first window from the shift on (or of all) that is called drifted."""
    false_alarms: int = 0
    """Alarms before the shift."""
    without_harm: int = 0
    """Windows of confirmed shifts that raise nothing because nothing suggests harm."""
    alarms: list[Alarm] = field(default_factory=list[Alarm])

    @property
    def first_alarm(self) -> Alarm | None:
        """The first one from the shift on, or of all if it is not known when that was."""
        later = (each for each in self.alarms if self.shift_window is None or each.delay_windows is not None)
        return next(later, None)

    def to_json(self) -> dict[str, object]:
        """All of it, for programs."""
        return asdict(self)


class Replayer:
    """Judges windows one after the other by one detector, with the monitor's own rules for events.

    Args:
        name: what to call it.
        watched: the version, with this detector.
        settings: the monitor's.
        answers: the model's class of each input, to compare with labels.
    """

    def __init__(self, name: str, watched: WatchedVersion, settings: MonitorSettings, answers: Answers) -> None:
        self.replay = Replay(name)
        self._answers = answers
        self._watched = watched
        self._settings = settings
        self._confirmation = Confirmation(settings.drift_confirmations, settings.drift_confirmation_windows)
        self._recent: list[WindowRecord] = []
        self._memory: Mapping[str, Memory] = {}
        self._ended_s: float | None = None

    def take(self, window: ReplayWindow) -> None:
        """Judge the next window."""
        replay, index = self.replay, self.replay.windows
        replay.windows += 1
        if window.shifted and replay.shift_window is None:
            replay.shift_window = index
        try:
            verdict = self._watched.judge(window.inputs, self._memory)
        except WindowNotJudgedError:
            replay.not_judged += 1
            return
        self._memory = verdict.memory
        first_ms, last_ms = window.times_ms or (index, index)
        record = WindowRecord(
            index=index,
            first_timestamp_ms=first_ms,
            last_timestamp_ms=last_ms,
            size=len(window.inputs),
            detector=verdict.detector,
            statistic=verdict.score.statistic,
            threshold=verdict.score.threshold,
            p_value=verdict.p_value,
            drifted=verdict.drifted,
            estimated_accuracy=verdict.accuracy.value,
            accuracy_trusted=verdict.accuracy.trusted,
        )
        self._recent = [*self._recent, record][-self._confirmation.windows :]
        if record.drifted:
            replay.drifted += 1
            if window.shifted is not False and replay.first_drifted is None:
                replay.first_drifted = index
        if self._is_open():
            self._close_if_calm(index, window)
        elif not self._cooling(window):
            self._open_if_shifted(index, window, verdict)

    def _is_open(self) -> bool:
        return bool(self.replay.alarms) and self.replay.alarms[-1].ended_window is None

    def _close_if_calm(self, index: int, window: ReplayWindow) -> None:
        if self._confirmation.calm(self._recent):
            self.replay.alarms[-1] = replace(self.replay.alarms[-1], ended_window=index)
            self._ended_s = None if window.times_ms is None else window.times_ms[1] / 1000

    def _cooling(self, window: ReplayWindow) -> bool:
        if self._ended_s is None or window.times_ms is None:
            return False
        return window.times_ms[1] / 1000 - self._ended_s < self._settings.drift_cooldown_seconds

    def _open_if_shifted(self, index: int, window: ReplayWindow, verdict: Verdict) -> None:
        shift = self._confirmation.shift(self._recent, confirmed=verdict.confirmed)
        if shift is None:
            return
        reference = self._watched.reference_accuracy
        if self._settings.require_harm and not hurts(
            shift, reference_accuracy=reference, margin=self._settings.harm_margin
        ):
            self.replay.without_harm += 1
            return
        began = self.replay.shift_window
        self.replay.false_alarms += window.shifted is False
        self.replay.alarms.append(
            Alarm(
                window=index,
                at_ms=None if window.times_ms is None else window.times_ms[1],
                delay_windows=None if began is None else index - began + 1,
                estimated_accuracy=shift.estimated_accuracy,
                accuracy_low=verdict.accuracy.low,
                accuracy_high=verdict.accuracy.high,
                accuracy_trusted=verdict.accuracy.trusted,
                true_accuracy=(
                    None if window.labels is None else float((self._answers(window.inputs) == window.labels).mean())
                ),
            )
        )


def replay(
    watched: Mapping[str, WatchedVersion],
    windows: Iterable[ReplayWindow],
    settings: MonitorSettings,
    answers: Answers,
) -> list[Replay]:
    """Let each detector judge the same windows; they are read once, and only one is held.

    Args:
        watched: the version with each detector, by its name.
        windows: in order.
        settings: the monitor's.
        answers: ``(m, *served shape)`` to ``(m,)`` classes, by the model itself.
    """
    replayers = [Replayer(name, each, settings, answers) for name, each in watched.items()]
    for window in windows:
        for replayer in replayers:
            replayer.take(window)
    return [replayer.replay for replayer in replayers]


def table(replays: Sequence[Replay]) -> str:
    """The replays as lines of text, one per detector."""
    head = ("detector", "windows", "drifted", "false alarms", "first drifted", "alarm", "delay", "estimated", "true")
    lines = [head, *(_line(each) for each in replays)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def _line(replay: Replay) -> tuple[str, ...]:
    alarm = replay.first_alarm
    return (
        replay.detector,
        str(replay.windows),
        str(replay.drifted),
        "-" if replay.shift_window is None else str(replay.false_alarms),
        "-" if replay.first_drifted is None else f"window {replay.first_drifted}",
        "never" if alarm is None else f"window {alarm.window}",
        "-" if alarm is None or alarm.delay_windows is None else f"{alarm.delay_windows} windows",
        _share(alarm.estimated_accuracy if alarm else None) + ("" if alarm is None or alarm.accuracy_trusted else " ?"),
        _share(alarm.true_accuracy if alarm else None),
    )


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"
