"""Known right answers: found by client request id, used instead of asking, and never taken for a class they are not."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from fieldrepair_plugin.ground_truth import known_labels, settle_known
from fieldrepair_service.case_book import (
    NewDriftEvent,
    NewGroundTruth,
    NewTask,
    TaskState,
    WindowRecord,
    open_case_book,
)
from fieldrepair_service.errors import InputError
from fieldrepair_service.field_log import FIELD_LOG_SCHEMA, FieldLog


def _log(folder: Path) -> FieldLog:
    log = FieldLog.open(folder)
    rows = [
        {
            "writer": "w",
            "seq": number // 2,
            "row": number % 2,
            "request_id": f"r{number // 2}",
            "client_request_id": None if number >= 4 else f"order-{number // 2}",
            "timestamp_ms": number,
            "date": "1970-01-01",
            "model_name": "m",
            "model_version": "1",
            "protocol": "mlflow",
            "status_code": 200,
            "execution_time_ms": 1.0,
            "sampling_fraction": 1.0,
            "input": bytes(4),
            "dtype": "float32",
            "shape": [1],
        }
        for number in range(6)
    ]
    log.append(pa.Table.from_pylist(rows, schema=FIELD_LOG_SCHEMA), writer="w", last_seq=3)
    return log


def test_known_labels_are_found_by_client_request_id(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    log = _log(tmp_path / "log")
    keys = [("r0", 0), ("r0", 1), ("r1", 0), ("r2", 0)]
    with open_case_book(f"sqlite:///{tmp_path / 'book.db'}") as book:
        assert known_labels(book, log, keys, ["cat", "dog"]) == {}
        truths = [("order-0", 1, "dog"), ("order-1", 0, "whale"), ("order-1", 1, "cat"), ("order-9", 0, "cat")]
        book.receive_ground_truth([NewGroundTruth(*truth) for truth in truths], "returns")
        assert known_labels(book, log, keys, ["cat", "dog"]) == {("r0", 1): 1}
        assert "ground truth of 1 field inputs names no class of the model, 'whale' say" in caplog.text
        assert known_labels(book, log, [], ["cat"]) == {}


def test_a_plan_asks_nobody_for_what_is_known(tmp_path: Path) -> None:
    with open_case_book(f"sqlite:///{tmp_path / 'book.db'}") as book:
        event = NewDriftEvent("m", "1", "mmd", 0.5, 0.01, 0.1, 0, {}, 100, None, None, "differs", ["cat", "dog"], {})
        window = WindowRecord(0, 1, 2, 100, "mmd", 0.5, 0.1, 0.01, drifted=True)
        opened = book.record_windows("m", "1", {"w": (1, 0)}, [window], event)
        assert opened is not None
        case_id = opened.case_id
        with pytest.raises(InputError, match=r"known labels are indices 0..1 of the classes, got \[2\]"):
            book.plan_case(case_id, [NewTask("r0", 0, "repair", known_label=2)], 1, 0, {})
        tasks = [NewTask("r0", 0, "repair", known_label=1), NewTask("r1", 0, "repair")]
        book.plan_case(case_id, tasks, 2, 0, {})
        assert book.labels(case_id, "repair") == [("r0", 0, 1)]
        assert [(answer.labeller, answer.source) for answer in book.answers(case_id)] == [
            ("ground truth", "ground_truth")
        ]
        asked = book.next_task(case_id, "ann")
        assert asked is not None
        assert asked.request_id == "r1"
        book.submit(asked.id, "cat", "ann")
        assert book.task_counts(case_id).ready
        known = next(task for task in book.tasks(case_id) if task.request_id == "r0")
        assert (known.state, known.decided_by) == (TaskState.LABELLED, "ground truth")


def test_what_arrives_later_answers_what_is_still_open(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    log = _log(tmp_path / "log")
    with open_case_book(f"sqlite:///{tmp_path / 'book.db'}") as book:
        event = NewDriftEvent("m", "1", "mmd", 0.5, 0.01, 0.1, 0, {}, 100, None, None, "differs", ["cat", "dog"], {})
        window = WindowRecord(0, 1, 2, 100, "mmd", 0.5, 0.1, 0.01, drifted=True)
        opened = book.record_windows("m", "1", {"w": (1, 0)}, [window], event)
        assert opened is not None
        keys = [("r0", 0), ("r0", 1), ("r1", 0), ("r1", 1), ("gone from the log", 0), ("r2", 0)]
        tasks = [NewTask(*key, "repair", answers_wanted=2 if key == ("r1", 0) else 1) for key in keys]
        case = book.plan_case(opened.case_id, tasks, 6, 0, {})
        number = {(task.request_id, task.row): task.id for task in book.tasks(case.id)}
        book.submit(number["r0", 0], "cat", "ann")
        book.skip(number["r0", 1], "ann")
        book.submit(number["r1", 0], "cat", "ann")  # waits for a second answer
        before = book.ground_truth_mark()
        truths = [("order-0", 0, "dog"), ("order-0", 1, "dog"), ("order-1", 0, "dog"), ("order-1", 1, "whale")]
        book.receive_ground_truth([NewGroundTruth(*truth) for truth in truths], "returns")
        assert before == (0, 0)
        assert book.ground_truth_mark()[0] == 4
        assert settle_known(book, log, case) == 2
        found = {(task.request_id, task.row): (task.label, task.decided_by) for task in book.tasks(case.id)}
        assert found == {
            ("r0", 0): (0, "ann"),
            ("r0", 1): (1, "ground truth"),
            ("r1", 0): (1, "ground truth"),
            ("r1", 1): (None, None),
            ("gone from the log", 0): (None, None),
            ("r2", 0): (None, None),
        }
        entry = book.audit_trail(1)[0]
        assert (entry.actor, entry.role, (entry.detail or {})["source"]) == ("ground truth", "worker", "ground_truth")
        assert "names no class of the model, 'whale' say" in caplog.text
        assert settle_known(book, log, case) == 0
        book.transition(case.id, "dismissed", "over")
        book.receive_ground_truth([NewGroundTruth("order-1", 1, "cat")], "returns")
        assert settle_known(book, log, case) == 0
