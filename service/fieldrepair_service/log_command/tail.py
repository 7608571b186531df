"""``fieldrepair log tail``: the newest rows, and those that come after them."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from datetime import datetime, timezone
from typing import IO, Any

import pyarrow as pa

from fieldrepair_service.field_log import FieldLog
from fieldrepair_service.field_rows import FIELD_LOG_SCHEMA
from fieldrepair_service.log_command.settings import TailOptions

_COLUMNS = [name for name in FIELD_LOG_SCHEMA.names if name != "input"]
_AT_ONCE = 1_000


def tail(log: FieldLog, options: TailOptions, out: IO[str], *, sleep: Callable[[float], None] = time.sleep) -> None:
    """Write the newest rows to ``out``; with ``follow``, go on until interrupted.

    Raises:
        StoreError: if the log cannot be read.
    """
    cursor = log.end() if options.follow else {}
    known: set[tuple[str, int]] = set()
    if options.lines:
        newest = log.newest(
            options.lines, columns=_COLUMNS, model_name=options.model_name, model_version=options.model_version
        )
        # What came in between the two looks is among these and behind the cursor too.
        known = set(zip(newest.column("request_id").to_pylist(), newest.column("row").to_pylist(), strict=True))
        _show(newest, options, out)
    while options.follow:
        rows = log.read_after(
            cursor,
            limit=_AT_ONCE,
            model_name=options.model_name,
            model_version=options.model_version,
            columns=_COLUMNS,
        )
        if len(rows):
            cursor = rows.cursor_after(cursor)
            fresh = [at for at, key in enumerate(rows.keys) if key not in known]
            _show(rows.take(fresh).to_table(), options, out)
        else:
            known = set()
            sleep(options.every)


def _show(rows: pa.Table, options: TailOptions, out: IO[str]) -> None:
    for row in rows.to_pylist():
        out.write((as_json(row) if options.json_lines else as_line(row)) + "\n")
    out.flush()


def as_json(row: dict[str, Any]) -> str:
    """One row as a line of JSON."""
    return json.dumps({**row, "headers": dict(row["headers"]) if row["headers"] else None})


def as_line(row: dict[str, Any]) -> str:
    """One row for a person: when, which model, what it said and how sure it was, about what, how long it took."""
    when = datetime.fromtimestamp(row["timestamp_ms"] / 1000, timezone.utc).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]
    said = "-" if row["predicted_class"] is None else f"class {row['predicted_class']}"
    sure = "" if row["confidence"] is None else f"{row['confidence']:.3f}"
    shape = "x".join(map(str, row["shape"])) or "scalar"
    model = f"{row['model_name']}/{row['model_version']}"
    return (
        f"{when}  {model:<16} {said:<10} {sure:<6} {row['dtype']} {shape:<10} {row['execution_time_ms']:8.1f} ms  "
        f"{row['protocol']:<14} {row['request_id']}:{row['row']}"
    )
