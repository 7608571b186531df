"""``fieldrepair log stats``: what is in the field log, and what is not."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path

from fieldrepair_service.drops import EXCHANGE_DROPPED, ROW_DROPPED
from fieldrepair_service.field_log import FieldLog
from fieldrepair_service.log_command.settings import StatsOptions
from fieldrepair_service.spool import SETTLED, SPOOLED, read_counters

_COLUMNS = ["timestamp_ms", "date", "model_name", "model_version", "predicted_class"]
_MOST_CLASSES = 10_000


@dataclass(frozen=True)
class LogStats:
    """What ``stats`` counts; as JSON it has these keys."""

    rows: int
    first: str | None
    """Time of the oldest row, ISO 8601 in UTC; None without rows. So is ``last``."""
    last: str | None
    by_day: dict[str, int]
    by_model: dict[str, int]
    """Rows by ``NAME/VERSION``."""
    by_class: dict[str, dict[str, int]]
    """Rows by ``NAME/VERSION`` and predicted class; ``none`` where the answer was not a class."""
    table_version: int
    size_bytes: int
    """Bytes of the data files that rows are in, whatever was chosen."""
    dropped: dict[str, int] | None
    """Exchanges and rows that are not in the log by reason, of the spool in the state folder; None without one."""
    waiting: int | None
    """Exchanges in that spool that are still to come into the log."""


def gather(log: FieldLog, options: StatsOptions, spool: Path) -> LogStats:
    """Count; memory does not grow with the log, only with its days, versions and classes.

    Raises:
        StoreError: if the log cannot be read.
        ConfigurationError: if a time is none.
    """
    since_ms, until_ms = options.span_ms(datetime.now(timezone.utc))
    days: Counter[str] = Counter()
    classes: dict[str, Counter[str]] = {}
    first: int | None = None
    last: int | None = None
    for piece in log.batches(
        columns=_COLUMNS,
        since_ms=since_ms,
        until_ms=until_ms,
        model_name=options.model_name,
        model_version=options.model_version,
        batch_rows=10_000,
    ):
        times, dates, names, versions, predicted = (piece.column(name).to_pylist() for name in _COLUMNS)
        first = min(times) if first is None else min(first, *times)
        last = max(times) if last is None else max(last, *times)
        days.update(dates)
        for (name, version, label), count in Counter(zip(names, versions, predicted, strict=True)).items():
            of_model = classes.setdefault(f"{name}/{version}", Counter())
            key = "none" if label is None else str(label)
            of_model[key if key in of_model or len(of_model) < _MOST_CLASSES else "others"] += count
    counters = read_counters(spool)[0] if spool.exists() else None
    return LogStats(
        rows=days.total(),
        first=_time(first),
        last=_time(last),
        by_day=dict(sorted(days.items())),
        by_model={name: counts.total() for name, counts in sorted(classes.items())},
        by_class={name: dict(sorted(counts.items(), key=_by_number)) for name, counts in sorted(classes.items())},
        table_version=log.version,
        size_bytes=log.size_bytes(),
        dropped=None if counters is None else _dropped(counters),
        waiting=None if counters is None else counters.get(SPOOLED, 0) - counters.get(SETTLED, 0),
    )


def as_text(stats: LogStats) -> str:
    """The same for a person."""
    lines = [
        f"rows          {stats.rows}",
        f"time          {stats.first} to {stats.last}" if stats.rows else "time          -",
        f"table         version {stats.table_version}, {stats.size_bytes / 1e6:.1f} MB",
        "",
        *(f"{day}    {count}" for day, count in stats.by_day.items()),
    ]
    for name, count in stats.by_model.items():
        lines += ["", f"{name}    {count}"]
        lines += [
            f"    class {label:<6} {rows:>10}  {rows / count:6.1%}" for label, rows in stats.by_class[name].items()
        ]
    if stats.dropped is None:
        lines += ["", "no spool here: what was dropped is known where the sidecar runs (--state-dir)"]
    else:
        lines += ["", f"waiting in the spool    {stats.waiting}", "not in the log, by reason:"]
        lines += [f"    {reason:<32} {count}" for reason, count in stats.dropped.items()] or ["    nothing"]
    return "\n".join(lines) + "\n"


def as_dict(stats: LogStats) -> dict[str, object]:
    """The same for a program."""
    return asdict(stats)


def _dropped(counters: dict[str, int]) -> dict[str, int]:
    words = {EXCHANGE_DROPPED: "exchanges: ", ROW_DROPPED: "rows: "}
    return {
        word + name.removeprefix(prefix): count
        for prefix, word in words.items()
        for name, count in sorted(counters.items())
        if name.startswith(prefix)
    }


def _time(milliseconds: int | None) -> str | None:
    if milliseconds is None:
        return None
    return datetime.fromtimestamp(milliseconds / 1000, timezone.utc).isoformat(timespec="milliseconds")


def _by_number(item: tuple[str, int]) -> tuple[bool, int, str]:
    label, _ = item
    return (not label.isdigit(), int(label) if label.isdigit() else 0, label)
