"""Questions and answers as CSV, for spreadsheets: out with the answers so far, in with new ones."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

from fieldrepair_service.case_book import Case, ImportedAnswer, Task
from fieldrepair_service.errors import BadUpload

COLUMNS = ("task_id", "request_id", "row", "state", "label", "labeller")
_NEEDED = ("task_id", "label")
_FORMULA = ("=", "+", "-", "@", "\t", "\r")
_NO_LABEL = {"skip": False, "not_sure": True}


def write_csv(case: Case, tasks: Sequence[Task]) -> str:
    """The questions of a case, one per line, with the labels so far."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\r\n")
    writer.writerow(COLUMNS)
    for task in tasks:
        label = "" if task.label is None else case.class_names[task.label]
        cells = (task.request_id, task.row, str(task.state), label, task.decided_by or "")
        writer.writerow([task.id, *(_guarded(str(cell)) for cell in cells)])
    return buffer.getvalue()


def read_csv(text: str, default_labeller: str) -> list[ImportedAnswer]:
    """Answers of a CSV file with the columns ``task_id`` and ``label``, and perhaps ``labeller`` and ``state``.

    A line without a label is an answer if its state is ``skip`` or ``not_sure``; else nobody has answered it yet.

    Raises:
        BadUpload: it is not such a file; names the line.
    """
    reader = csv.DictReader(io.StringIO(text.removeprefix("\N{ZERO WIDTH NO-BREAK SPACE}")), strict=True)
    answers: list[ImportedAnswer] = []
    try:
        missing = [name for name in _NEEDED if name not in (reader.fieldnames or ())]
        if missing:
            raise BadUpload(1, f"expected the columns {', '.join(_NEEDED)} in the first line; missing: {missing}")
        for cells in reader:
            line = reader.line_num
            if None in cells or None in cells.values():
                raise BadUpload(line, f"expected {len(reader.fieldnames or ())} cells as in the first line")
            label, state = _unguarded(cells["label"]), cells.get("state", "").strip()
            if not label and state not in _NO_LABEL:
                continue
            number = cells["task_id"].strip()
            if not (number.isascii() and number.isdigit() and 0 < int(number[:11]) < 2**31):
                raise BadUpload(line, f"task_id is the number of a question, got {number[:50]!r}")
            labeller = _unguarded(cells.get("labeller", "")).strip() or default_labeller
            answers.append(ImportedAnswer(line, int(number), labeller, label or None, _NO_LABEL.get(state, False)))
    except csv.Error as error:
        raise BadUpload(max(1, reader.line_num), f"this is no CSV: {error}") from error
    return answers


def _guarded(cell: str) -> str:
    """A spreadsheet would take a cell that begins like this for a formula; an apostrophe makes it text."""
    return f"'{cell}" if cell.startswith(_FORMULA) else cell


def _unguarded(cell: str) -> str:
    return cell[1:] if cell.startswith("'") and cell[1:].startswith(_FORMULA) else cell
