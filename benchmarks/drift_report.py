"""``python -m benchmarks.drift_report FILE ...`` writes the measured part of ``docs/monitoring.md`` from records.

What people wrote in the page stays; what stands between the two marks is replaced.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import statistics
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, cast

from benchmarks.drift_record import Record
from benchmarks.pages import write_measured
from fieldrepair_monitoring.settings import MonitorSettings
from fieldrepair_service.errors import InputError

BEGIN = "<!-- measured: python -m benchmarks.drift_report writes from here -->"
_ORACLE = "oracle (knows the shift)"
_CALM, _FRESH = "no_drift", "no_drift_fresh_reference"


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the page; see the module's docstring."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.drift_report", description=__doc__)
    parser.add_argument("records", nargs="+", type=Path, metavar="FILE", help="files of benchmarks.drift --json")
    parser.add_argument("--page", type=Path, default=Path("docs/monitoring.md"))
    options = parser.parse_args(arguments)
    records = [each for path in options.records for each in read_records(path)]
    if not records:
        raise InputError(f"there are no records in {', '.join(map(str, options.records))}")
    parts = [default_table(records), ramp_table(records), detector_table(records), comparison_table(records)]
    write_measured(options.page, BEGIN, "\n\n".join(filter(None, parts)))
    return 0


def read_records(path: Path) -> list[Record]:
    """A file's records; what it has of other measurements (memory, speed) is left out."""
    known = {field.name for field in fields(Record)}
    everything = cast(list[dict[str, Any]], json.loads(path.read_text(encoding="utf-8")))
    return [Record(**each) for each in everything if set(each) == known]


def default_table(records: Sequence[Record]) -> str:
    """The default detectors: false alarms, full shifts, estimated accuracy."""
    default = "+".join(MonitorSettings().detector_names)
    rows: list[list[str]] = []
    for case in _cases(records):
        calm = _one(records, case, default, _CALM)
        moved = _one(records, case, default, "shifted")
        if calm is None or moved is None:
            continue
        accuracy = f"{_percent(moved.true_accuracy)}, {_percent(moved.estimated_accuracy)}"
        rows.append(
            [
                case,
                f"{calm.windows:,} of {calm.window_size}",
                f"{calm.alarms} ({_percent(calm.alarm_rate_upper, 2)})",
                str(calm.confirmed_alarms),
                _seen(moved.delay_windows, moved.confirmed_delay_windows),
                f"{accuracy} [{100 * moved.interval_low:.1f}, {100 * moved.interval_high:.1f}]",
                f"{100 * moved.trusted_share:.0f} %",
            ]
        )
    heads = [
        "case", "unchanged windows", "false alarms (95 % bound)", "confirmed", "shift seen in window (confirmed)",
        "accuracy: true, estimated", "trusted windows",
    ]  # fmt: skip
    return _table(f"The default, `{default.replace('+', ',')}`", heads, rows)


def ramp_table(records: Sequence[Record]) -> str:
    """The share of its final loss that the accuracy had lost: median and range over draws."""
    default = "+".join(MonitorSettings().detector_names)

    def lost(case: str, detector: str, stream: str, of: Callable[[Record], float | None]) -> str:
        draws = [of(each) for each in _draws(records, case, detector, stream)]
        seen = sorted(value for value in draws if value is not None)
        if not draws:
            return "-"
        if not seen:
            return "never"
        never = f", {len(draws) - len(seen)} of {len(draws)} never" if len(seen) < len(draws) else ""
        return f"{100 * statistics.median(seen):.0f} % ({100 * seen[0]:.0f} to {100 * seen[-1]:.0f} %){never}"

    rows = [
        [
            case,
            lost(case, default, "ramp_after_calm", lambda each: each.loss_at_alarm),
            lost(case, default, "ramp_after_calm", lambda each: each.loss_at_confirmation),
            lost(case, default, "ramp", lambda each: each.loss_at_alarm),
            lost(case, default, "ramp", lambda each: each.loss_at_confirmation),
            lost(case, _ORACLE, "ramp", lambda each: each.loss_at_alarm),
        ]
        for case in _cases(records)
        if _one(records, case, default, "ramp") is not None
    ]
    heads = [
        "case", "after calm windows, first", "confirmed", "from the first window on, first", "confirmed",
        "oracle, first",
    ]  # fmt: skip
    return _table("Share of the final loss that was lost by then, of five ramps", heads, rows)


def detector_table(records: Sequence[Record]) -> str:
    """Each detector by itself on unchanged traffic: alarms, in brackets confirmed ones, and the bound of the rate."""
    calm = [each for each in records if each.stream == _CALM and "+" not in each.detector]
    names = list(dict.fromkeys(each.detector for each in calm))
    rows: list[list[str]] = []
    for case in _cases(calm):
        row = [case]
        for name in names:
            found = _one(calm, case, name, _CALM)
            confirmed = f", {found.confirmed_alarms} confirmed" if found and found.confirmed_alarms else ""
            row.append("-" if found is None else f"{found.alarms}{confirmed}")
        rows.append(row)
    most = max((each.alarm_rate_upper for each in calm), default=0.0)
    windows = sorted({each.windows for each in calm})
    title = (
        f"Alarms of each detector in {' or '.join(f'{count:,}' for count in windows)} unchanged windows; the highest"
    )
    heads = ["case", *(f"`{name}`" for name in names)]
    return _table(f"{title} 95 % bound of a rate is {_percent(most, 2)}", heads, rows)


def comparison_table(records: Sequence[Record]) -> str:
    """Ours beside other libraries at their defaults."""
    rows: list[list[str]] = []
    for case in _cases(records):
        for name in dict.fromkeys(each.detector for each in records if each.case == case and each.stream == _FRESH):
            calm = _one(records, case, name, _FRESH)
            moved = _one(records, case, name, "shifted_compared")
            if calm is None or moved is None:
                continue
            rows.append(
                [
                    case,
                    name,
                    f"{calm.alarms} of {calm.windows} ({_percent(calm.alarm_rate_upper)})",
                    _seen(moved.delay_windows, moved.confirmed_delay_windows),
                    _delays(records, case, name, "ramp_compared"),
                    _delays(records, case, name, "ramp_after_calm_compared"),
                    _alarmed_before(_draws(records, case, name, "ramp_after_calm_compared")),
                ]
            )
    heads = [
        "case", "detector", "false alarms (95 % bound)", "full shift seen (confirmed)",
        "ramp from the first window on (confirmed)", "after calm windows (confirmed)", "ramps with an alarm before",
    ]  # fmt: skip
    return _table("Beside others at their defaults; median window over ramps", heads, rows)


def _delays(records: Sequence[Record], case: str, name: str, stream: str) -> str:
    draws = _draws(records, case, name, stream)
    if not draws:
        return ""
    return _seen(_median(each.delay_windows for each in draws), _median(each.confirmed_delay_windows for each in draws))


def _alarmed_before(draws: Sequence[Record]) -> str:
    """How many ramps had an alarm in the unchanged windows before them."""
    return f"{sum(each.alarms_while_calm > 0 for each in draws)} of {len(draws)}" if draws else ""


def _median(delays: Iterable[int | None]) -> int | None:
    """A delay that never ended (None) is later than all others."""
    found = statistics.median_low(math.inf if delay is None else delay for delay in delays)
    return None if found == math.inf else int(found)


def _draws(records: Sequence[Record], case: str, detector: str, stream: str) -> list[Record]:
    """All draws of a stream: ``ramp`` is also ``ramp_1`` to ``ramp_4``, and ``ramp_compared`` ``ramp_1_compared``."""
    base, compared, _ = stream.partition("_compared")
    names = re.compile(rf"{base}(_\d+)?{compared}")
    return [each for each in records if (each.case, each.detector) == (case, detector) and names.fullmatch(each.stream)]


def _cases(records: Sequence[Record]) -> list[str]:
    return list(dict.fromkeys(each.case for each in records))


def _one(records: Sequence[Record], case: str, detector: str, stream: str) -> Record | None:
    """The last one that was measured."""
    found = [each for each in records if (each.case, each.detector, each.stream) == (case, detector, stream)]
    return found[-1] if found else None


def _percent(share: float, digits: int = 1) -> str:
    return f"{100 * share:.{digits}f} %"


def _seen(first: int | None, confirmed: int | None) -> str:
    """Windows of the first alarm and of its confirmation."""
    first_word, confirmed_word = ("never" if window is None else str(window) for window in (first, confirmed))
    return f"{first_word} ({confirmed_word})"


def _table(title: str, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    if not rows:
        return ""
    lines = [" | ".join(row) for row in (heads, ["---"] * len(heads), *rows)]
    return f"**{title}**\n\n" + "\n".join(f"| {line} |" for line in lines)


if __name__ == "__main__":
    sys.exit(main())
