"""What labels say of the accuracy is measured on the random sample, and stands beside the estimate."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pytest

from fieldrepair_monitoring.labelled import LabelledAccuracy
from fieldrepair_monitoring.metrics import MonitorMetrics
from fieldrepair_service.case_book import CaseBook, NewDriftEvent, NewTask, WindowRecord, open_case_book
from fieldrepair_service.field_log import FieldLog
from fieldrepair_service.field_rows import FIELD_LOG_SCHEMA

if TYPE_CHECKING:
    from tests.monitoring.conftest import FieldWriter

NAMES = {"model_name": "digits", "model_version": "1"}


@pytest.fixture
def book(tmp_path: Path) -> Iterator[CaseBook]:
    with open_case_book(f"sqlite:///{tmp_path}/book.db") as opened:
        yield opened


@pytest.fixture
def case_id(book: CaseBook) -> int:
    """A case whose acceptance sample is requests 1 to 4 and whose repair asks about request 5."""
    event = NewDriftEvent(
        model_name="digits",
        model_version="1",
        detector="mmd",
        statistic=0.5,
        p_value=0.001,
        threshold=0.1,
        window_index=0,
        cursor_start={},
        field_inputs_until_alert=5,
        estimated_accuracy=0.6,
        reference_accuracy=0.97,
        summary="it has shifted",
        class_names=("a", "b"),
        input_spec={},
    )
    window = WindowRecord(0, 0, 1, 100, "mmd", 0.5, 0.1, 0.001, drifted=True)
    opened = book.record_windows("digits", "1", {}, [window], event)
    assert opened is not None
    tasks = [NewTask(name(seq), 0, "acceptance") for seq in (1, 2, 3, 4)] + [NewTask(name(5), 0, "repair")]
    book.plan_case(opened.case_id, tasks, budget=1, acceptance_size=4, pool_cursor={}, note="")
    return opened.case_id


def name(seq: int) -> str:
    return f"{1_700_000_000_000 + 10 * seq}-spool-1-{seq}"


def label_all(book: CaseBook, case_id: int, label: str, *, at_most: int = 100) -> None:
    for _ in range(at_most):
        task = book.next_task(case_id, "ann")
        if task is None:
            return
        book.submit(task.id, label, "ann")


def test_labels_of_the_random_sample_are_compared_with_what_the_model_answered(
    book: CaseBook, case_id: int, field: FieldWriter, log: FieldLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = iter([0, 0, 0, 1, 1])  # the last one is the repair's question and does not count
    append = log.append

    def with_answers(rows: pa.Table, *, writer: str, last_seq: int) -> bool:
        answered = [{**record, "predicted_class": next(answers)} for record in rows.to_pylist()]
        return append(pa.Table.from_pylist(answered, schema=FIELD_LOG_SCHEMA), writer=writer, last_seq=last_seq)

    monkeypatch.setattr(log, "append", with_answers)
    field.write(np.zeros((5, 1, 2, 2), np.float32))
    metrics = MonitorMetrics()
    labelled = LabelledAccuracy(log, book, metrics)
    labelled.refresh()
    assert metrics.registry.get_sample_value("fieldrepair_monitor_labelled_accuracy", NAMES) is None

    event_id = book.case(case_id).event_id
    book.explain_event(event_id, {"summary": "moved", "accuracy": {"estimated": 0.6}})
    label_all(book, case_id, "a")
    labelled.refresh(model_name="clothes")
    assert metrics.registry.get_sample_value("fieldrepair_monitor_labelled_accuracy", NAMES) is None
    labelled.refresh()
    assert metrics.registry.get_sample_value("fieldrepair_monitor_labelled_accuracy", NAMES) == 0.75
    assert metrics.registry.get_sample_value("fieldrepair_monitor_labelled_inputs", NAMES) == 4
    assert book.event(event_id).explanation == {
        "summary": "moved",
        "accuracy": {"estimated": 0.6, "labelled": 0.75, "labelled_count": 4},
    }


def test_inputs_that_are_gone_and_answers_without_a_class_leave_it_unknown(
    book: CaseBook, case_id: int, field: FieldWriter, log: FieldLog
) -> None:
    metrics = MonitorMetrics()
    label_all(book, case_id, "a")
    LabelledAccuracy(log, book, metrics).refresh()
    field.write(np.zeros((5, 1, 2, 2), np.float32))
    LabelledAccuracy(log, book, metrics).refresh()
    assert metrics.registry.get_sample_value("fieldrepair_monitor_labelled_accuracy", NAMES) is None
