"""A repair case with a long queue of questions, as :mod:`benchmarks.console` loads it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from fieldrepair_service.case_book import NewDriftEvent, NewTask, WindowRecord, open_case_book
from fieldrepair_service.case_book.task_records import ImportedAnswer
from fieldrepair_service.field_log import FIELD_LOG_SCHEMA, FieldLog
from fieldrepair_service.inputs import ImageInput

_MODEL = "species"
_DIGITS = "1234567890"
_SPEC = ImageInput(height=28, width=28)
_ANSWERED_SHARE = 0.2
_DOUBLE_SHARE = 0.1


@dataclass(frozen=True)
class ConsoleQueue:
    """Where the queue is, and how its questions are answered with keys."""

    case_id: int
    case_book: str
    field_log: str
    questions: int
    classes: int

    def keys(self, number: int) -> Sequence[str]:
        """Keys that answer a question: one where every class has a key, else what is typed into the search box."""
        if self.classes <= len(_DIGITS):
            return [_DIGITS[number % self.classes]]
        return [*f"class {number % self.classes}", "Enter"]


def make_queue(folder: Path, questions: int, classes: int) -> ConsoleQueue:
    """A planned case of so many questions about pictures that are all in the field log.

    The first fifth has an answer; a tenth is asked of two people.

    Args:
        folder: for the case book and the field log; empty.
        questions: how many, at least 10.
        classes: how many; called "class 0" and so on.
    """
    book_url, log_uri = f"sqlite:///{folder / 'case_book.db'}", str(folder / "field_log")
    _log(FieldLog.open(log_uri), questions, classes)
    event = NewDriftEvent(
        model_name=_MODEL,
        model_version="1",
        detector="mmd",
        statistic=0.25,
        p_value=0.001,
        threshold=0.1,
        window_index=0,
        cursor_start={},
        field_inputs_until_alert=200,
        estimated_accuracy=0.75,
        reference_accuracy=0.98,
        summary="2 of the last 3 windows differ",
        class_names=[f"class {number}" for number in range(classes)],
        input_spec=_SPEC.model_dump(mode="json"),
    )
    window = WindowRecord(0, 1, 2, 100, "mmd", 0.25, 0.1, 0.001, drifted=True, estimated_accuracy=0.75)
    tasks = [
        NewTask(
            f"r{number}",
            0,
            "repair" if number % 2 else "acceptance",
            rank=number,
            answers_wanted=2 if number < _DOUBLE_SHARE * questions else 1,
        )
        for number in range(questions)
    ]
    with open_case_book(book_url) as book:
        opened = book.record_windows(_MODEL, "1", {"w": (questions, 0)}, [window], event)
        if opened is None:
            raise RuntimeError("the first drift event of a case book opens no case")
        case_id = opened.case_id
        book.plan_case(case_id, tasks, questions, questions // 2, {}, "waiting for labels")
        asked = sorted(book.tasks(case_id), key=lambda task: task.position)[: int(_ANSWERED_SHARE * questions)]
        answers = [
            ImportedAnswer(line, task.id, "Bob", f"class {task.id % classes}") for line, task in enumerate(asked, 1)
        ]
        book.import_answers(case_id, answers, source="csv", actor="Bob", role="labeller")
    return ConsoleQueue(case_id, book_url, log_uri, questions, classes)


def _log(log: FieldLog, questions: int, classes: int) -> None:
    pictures = np.random.default_rng(0).random((questions, *_SPEC.shape), dtype=np.float32)
    rows = [
        {
            "writer": "w",
            "seq": number,
            "row": 0,
            "request_id": f"r{number}",
            "timestamp_ms": number,
            "date": "1970-01-01",
            "model_name": _MODEL,
            "model_version": "1",
            "protocol": "mlflow",
            "status_code": 200,
            "execution_time_ms": 1.0,
            "sampling_fraction": 1.0,
            "input": picture.tobytes(),
            "dtype": "float32",
            "shape": list(_SPEC.shape),
            "predicted_class": number % classes,
            "confidence": 0.875,
        }
        for number, picture in enumerate(pictures)
    ]
    log.append(pa.Table.from_pylist(rows, schema=FIELD_LOG_SCHEMA), writer="w", last_seq=questions)
