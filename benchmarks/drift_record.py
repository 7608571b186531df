"""One record per detector and stream of the drift benchmark, and the table that shows them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt
from rich.table import Table
from scipy.special import betaincinv

from benchmarks.drift_case import DriftCase
from benchmarks.drift_streams import DriftStream


@dataclass(frozen=True)
class Record:
    """One detector on one stream. Rates and accuracies are shares in 0..1."""

    case: str
    detector: str
    stream: str
    shifted: bool
    windows: int
    window_size: int
    alarms: int
    alarms_while_calm: int
    """Before the shift; of unchanged traffic, all."""
    alarm_rate_upper: float
    """95 % upper bound of the alarm rate (Clopper-Pearson, one-sided)."""
    configured_rate: float | None
    """None for the libraries we compare with."""
    confirmed_alarms: int
    """Shifts confirmed by 2 of 3 windows, or at once; calm for 3 windows ends one. No harm is asked for here."""
    delay_windows: int | None
    """Windows until the first alarm, that one counted; None: never, or nothing has shifted."""
    confirmed_delay_windows: int | None
    loss_at_alarm: float | None
    """On a ramp: the share of its final loss that the accuracy had lost when the first alarm came."""
    loss_at_confirmation: float | None
    true_accuracy: float
    estimated_accuracy: float
    """Mean over windows, without labels."""
    interval_low: float
    interval_high: float
    trusted_share: float
    """Share of windows whose estimate says it can be trusted."""
    milliseconds_per_window: float


@dataclass(frozen=True)
class Severity:
    """The part of a record that does not depend on the detector."""

    true_accuracy: float
    estimated_accuracy: float
    interval_low: float
    interval_high: float
    trusted_share: float


@dataclass(frozen=True)
class Decisions:
    """What one detector said about the windows of a stream, lot by lot; nothing is confirmed across lots."""

    drifted: list[npt.NDArray[np.bool_]]
    seconds: float
    at_once: list[npt.NDArray[np.bool_]] | None = None
    """Alarms that need no other window to confirm them; None: each does."""

    def confirmed(self, lot: int) -> list[int]:
        """Windows of a lot that complete a confirmed shift while none is open."""
        found: list[int] = []
        is_open = False
        seen = self.drifted[lot]
        at_once = np.zeros(len(seen), dtype=np.bool_) if self.at_once is None else self.at_once[lot]
        for at in range(len(seen)):
            last = seen[max(0, at - 2) : at + 1]
            if is_open:
                is_open = len(last) < 3 or bool(last.any())
            elif last.sum() >= 2 or at_once[at]:
                found.append(at)
                is_open = True
        return found


def make_record(
    case: DriftCase,
    name: str,
    stream: DriftStream,
    decisions: Decisions,
    severity: Severity,
    configured: float | None,
) -> Record:
    """The record of one detector on one stream.

    Args:
        case: the case.
        name: of the detector, or of several that decide together.
        stream: its windows; of the first lot, where there are several.
        decisions: about all lots.
        severity: of the stream.
        configured: rate of false alarms that was asked for; None if none was.
    """
    windows = sum(map(len, decisions.drifted))
    alarms = sum(int(lot.sum()) for lot in decisions.drifted)
    confirmed = [decisions.confirmed(lot) for lot in range(len(decisions.drifted))]
    first = sure = None
    if stream.shifted:
        first = next((int(at) for at in np.flatnonzero(decisions.drifted[0]) if at >= stream.calm), None)
        sure = next((at for at in confirmed[0] if at >= stream.calm), None)
    return Record(
        case=case.name,
        detector=name,
        stream=stream.name,
        shifted=stream.shifted,
        windows=windows,
        window_size=stream.windows.shape[1],
        alarms=alarms,
        alarms_while_calm=alarms if not stream.shifted else int(decisions.drifted[0][: stream.calm].sum()),
        alarm_rate_upper=upper_bound(alarms, windows),
        configured_rate=configured,
        confirmed_alarms=sum(map(len, confirmed)),
        delay_windows=None if first is None else first + 1 - stream.calm,
        confirmed_delay_windows=None if sure is None else sure + 1 - stream.calm,
        loss_at_alarm=None if first is None or stream.loss is None else float(stream.loss[first]),
        loss_at_confirmation=None if sure is None or stream.loss is None else float(stream.loss[sure]),
        milliseconds_per_window=1000 * decisions.seconds / windows,
        **asdict(severity),
    )


def upper_bound(count: int, of: int) -> float:
    """One-sided 95 % upper bound of a rate, from ``count`` of ``of`` (Clopper-Pearson)."""
    return 1.0 if count >= of else float(betaincinv(count + 1, of - count, 0.95))


def table(records: Sequence[Record]) -> Table:
    """The records for people."""
    shown = Table("case", "stream", "detector", "windows", "alarms", "<=", "confirmed", "delay", "loss", "accuracy")
    for record in sorted(records, key=lambda record: (record.case, record.stream)):
        shown.add_row(
            record.case,
            record.stream,
            record.detector,
            f"{record.windows} x {record.window_size}",
            str(record.alarms),
            f"{100 * record.alarm_rate_upper:.2f} %",
            str(record.confirmed_alarms),
            _pair(record.delay_windows, record.confirmed_delay_windows, "d"),
            _pair(record.loss_at_alarm, record.loss_at_confirmation, ".0%"),
            f"{record.true_accuracy:.1%}, est. {record.estimated_accuracy:.1%} "
            f"[{record.interval_low:.1%}, {record.interval_high:.1%}], trusted {record.trusted_share:.0%}",
        )
    return shown


def _pair(first: float | None, confirmed: float | None, form: str) -> str:
    return ", ".join("-" if value is None else format(value, form) for value in (first, confirmed))
