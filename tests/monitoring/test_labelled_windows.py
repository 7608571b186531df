"""Ground truth that comes after a window was judged says how often the model was right in it."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pytest

from fieldrepair_monitoring.errors import HandOverMissingError
from fieldrepair_monitoring.labelled_windows import LabelledWindows
from fieldrepair_service.case_book import CaseBook, NewGroundTruth, WindowRecord, open_case_book
from fieldrepair_service.field_log import FieldLog
from fieldrepair_service.field_rows import FIELD_LOG_SCHEMA, Cursor

if TYPE_CHECKING:
    from tests.monitoring.conftest import FieldWriter


def classes(_name: str, _version: str) -> Sequence[str]:
    return ("cat", "dog")


@pytest.fixture
def book(tmp_path: Path) -> Iterator[CaseBook]:
    with open_case_book(f"sqlite:///{tmp_path}/book.db") as opened:
        yield opened


@pytest.fixture
def answered(field: FieldWriter, log: FieldLog, monkeypatch: pytest.MonkeyPatch) -> FieldWriter:
    """A writer whose requests are called c1, c2, ... (the third has no name) and are all answered with class 0."""
    append = log.append

    def with_answers(rows: pa.Table, *, writer: str, last_seq: int) -> bool:
        records = [
            {
                **record,
                "predicted_class": 0,
                "client_request_id": None if record["seq"] == 3 else f"c{record['seq']}",
            }
            for record in rows.to_pylist()
        ]
        return append(pa.Table.from_pylist(records, schema=FIELD_LOG_SCHEMA), writer=writer, last_seq=last_seq)

    monkeypatch.setattr(log, "append", with_answers)
    return field


def judged(book: CaseBook, index: int, start: Cursor, end: Cursor) -> None:
    window = WindowRecord(index, 0, 1, 10, "mmd", 0.1, 0.2, 0.5, drifted=False, cursor_start=start)
    book.record_windows("digits", "1", end, [window])


def noted(book: CaseBook) -> list[tuple[float | None, int | None]]:
    return [(window.labelled_accuracy, window.labelled_count) for window in book.windows("digits", "1")]


def truth(book: CaseBook, **labels: str) -> None:
    book.receive_ground_truth([NewGroundTruth(name, 0, label) for name, label in labels.items()], "orders")


def test_labels_find_their_window_whenever_they_come(
    answered: FieldWriter, log: FieldLog, book: CaseBook, caplog: pytest.LogCaptureFixture
) -> None:
    answered.write(np.zeros((9, 1, 2, 2), np.float32))
    writer = answered.writer
    judged(book, 0, {}, {writer: (4, 0)})
    judged(book, 1, {writer: (4, 0)}, {writer: (8, 0)})
    labelled = LabelledWindows(log, book, classes)
    labelled.refresh()
    assert noted(book) == [(None, None)] * 2, "no labels yet"

    truth(book, c1="cat", c2="dog", c3="cat", c4="cat", c5="dog", c9="cat", unknown="cat")
    labelled.refresh(model_name="clothes")
    assert noted(book) == [(None, None)] * 2
    labelled.refresh()
    assert noted(book) == [(2 / 3, 3), (0.0, 1)], "c3 has no name in the log, c9 is in no window yet"

    judged(book, 2, {writer: (8, 0)}, {writer: (9, 0)})
    labelled.refresh()
    assert noted(book)[2] == (1.0, 1), "the labels were there before the window"

    truth(book, c6="cat", c7="bird")
    with caplog.at_level(logging.WARNING):
        LabelledWindows(log, book, classes).refresh()
    assert noted(book) == [(2 / 3, 3), (0.5, 2), (1.0, 1)], "a label that names no class does not count"
    assert "ground truth of 1 field inputs names no class of the model" in caplog.text


def test_a_late_row_counts_in_the_window_that_had_it(answered: FieldWriter, log: FieldLog, book: CaseBook) -> None:
    """Rows of a second sidecar with older timestamps come after the first window was judged."""
    answered.write(np.zeros((2, 1, 2, 2), np.float32))
    judged(book, 0, {}, {"spool-1": (2, 0)})
    answered.writer, answered.seq, answered.clock_ms = "spool-2", 10, answered.clock_ms - 5000
    answered.write(np.zeros((2, 1, 2, 2), np.float32))
    judged(book, 1, {"spool-1": (2, 0)}, {"spool-1": (2, 0), "spool-2": (12, 0)})
    truth(book, c1="cat", c2="cat", c11="dog", c12="cat")
    LabelledWindows(log, book, classes).refresh()
    assert noted(book) == [(1.0, 2), (0.5, 2)]


def test_a_version_whose_hand_over_is_gone_does_not_keep_the_others_waiting(
    answered: FieldWriter, log: FieldLog, book: CaseBook, caplog: pytest.LogCaptureFixture
) -> None:
    def gone(name: str, version: str) -> Sequence[str]:
        raise HandOverMissingError(f"models:/{name}/{version} has no hand-over")

    answered.write(np.zeros((2, 1, 2, 2), np.float32))
    judged(book, 0, {}, {answered.writer: (2, 0)})
    truth(book, c1="cat")
    labelled = LabelledWindows(log, book, gone)
    with caplog.at_level(logging.WARNING):
        labelled.refresh()
        labelled.refresh()
    assert caplog.text.count("its windows have no labelled accuracy") == 1
    assert noted(book) == [(None, None)]
