"""Fills a case book and a field log with a story: one model repaired and waiting for approval, others on their way."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from examples.console.pictures import CLASS_NAMES, badly_lit, digits
from examples.console.teller import HOUR_MS, Clock, Shift, Teller
from fieldrepair_service.case_book import open_case_book
from fieldrepair_service.field_log import FIELD_LOG_SCHEMA, FieldLog

LONG_NAME = "meter-readings-of-the-northern-district-2026"


@dataclass(frozen=True)
class Story:
    """The cases that were made, one in each state."""

    promoted: int
    accepted: int
    rejected: int
    training: int
    annotating: int
    dismissed: int


@dataclass
class StoryClock(Clock):
    """Starts now."""

    ms: int = field(default_factory=lambda: int(time.time() * 1000))


def seed(case_book_url: str, field_log_uri: str, class_names: Sequence[str] = CLASS_NAMES) -> Story:
    """Make the story.

    Args:
        case_book_url: of an empty case book.
        field_log_uri: of an empty field log.
        class_names: ten of them.
    """
    clock = StoryClock()
    now = clock.ms
    x, y = digits()
    field_x = badly_lit(x, 7)
    _log(FieldLog.open(field_log_uri), field_x, now)
    with open_case_book(case_book_url, clock=clock) as book:
        teller = Teller(book, clock, x, field_x, y, list(class_names))
        promoted = teller.drift(Shift("digits", "2", now - 96 * HOUR_MS, windows=30, drifts_at=16, ends_at=24))
        teller.judge(promoted, better=True, candidate="3")
        teller.canary(promoted)
        teller.promote(promoted, "Ann Meyer")
        dismissed = teller.drift(Shift("receipt-totals", "10", now - 60 * HOUR_MS, windows=20, drifts_at=9, ends_at=15))
        teller.dismiss(dismissed, "Ann Meyer", "a test camera was connected by mistake")
        rejected = teller.drift(Shift("receipt-totals", "11", now - 30 * HOUR_MS, windows=30, drifts_at=20))
        teller.judge(rejected, better=False, candidate=None)
        accepted = teller.drift(Shift("digits", "3", now - 31 * HOUR_MS, windows=60, drifts_at=41))
        teller.judge(accepted, better=True, candidate="4")
        training = teller.drift(Shift("parcel-labels", "5", now - 39 * HOUR_MS // 4, windows=36, drifts_at=22))
        teller.train(training, epoch=4, epochs=10)
        annotating = teller.drift(Shift(LONG_NAME, "1", now - 8 * HOUR_MS, windows=30, drifts_at=24))
        teller.plan(annotating, answered=38)
        if clock.ms >= now:
            raise RuntimeError(f"the story ends {(clock.ms - now) / 1000:.0f} s after the present")
        clock.ms = now
        teller.shadow(accepted)
    return Story(promoted, accepted, rejected, training, annotating, dismissed)


def _log(log: FieldLog, pictures: np.ndarray[tuple[int, ...], np.dtype[np.float32]], now: int) -> None:
    rows = [
        {
            "writer": "example",
            "seq": number,
            "row": 0,
            "request_id": f"req-{number:05}",
            "timestamp_ms": now - (len(pictures) - number) * 1000,
            "date": "2026-01-01",
            "model_name": "digits",
            "model_version": "3",
            "protocol": "mlflow",
            "status_code": 200,
            "execution_time_ms": 1.0,
            "sampling_fraction": 1.0,
            "input": picture.astype("<f4").tobytes(),
            "dtype": "float32",
            "shape": list(picture.shape),
        }
        for number, picture in enumerate(pictures)
    ]
    log.append(pa.Table.from_pylist(rows, schema=FIELD_LOG_SCHEMA), writer="example", last_seq=len(rows))
