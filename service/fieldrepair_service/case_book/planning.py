"""Choosing what people shall label: a case's plan, stored at once, in an order that hides what each task is for."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence

from sqlalchemy import select
from sqlalchemy.orm import Session

from fieldrepair_service.case_book import convert
from fieldrepair_service.case_book.cases import lock_case, read_case, require_annotating
from fieldrepair_service.case_book.database import BookPart, retry_once
from fieldrepair_service.case_book.models import CaseRow
from fieldrepair_service.case_book.records import Case
from fieldrepair_service.case_book.settling import GROUND_TRUTH
from fieldrepair_service.case_book.states import Purpose, TaskState, Verdict
from fieldrepair_service.case_book.task_models import AnswerRow, TaskRow
from fieldrepair_service.case_book.task_records import NewTask
from fieldrepair_service.errors import CaseAlreadyPlanned, InputError

KNOWN_BY = "ground truth"
"""Who labelled a task that nobody was asked about."""


class Plans(BookPart):
    """Plans of cases, one per attempt."""

    def plan_case(
        self,
        case_id: int,
        tasks: Sequence[NewTask],
        budget: int,
        acceptance_size: int,
        pool_cursor: Mapping[str, tuple[int, int]],
        note: str = "",
    ) -> Case:
        """Store the field inputs to label, all at once, in an order that hides what each is for.

        Args:
            case_id: a case in state annotating that has no plan yet.
            tasks: at least one; no field input twice, also not one of an earlier attempt.
            budget: labels the case may ask for.
            acceptance_size: how many of them judge the result.
            pool_cursor: where in the field log the data of this plan ends.
            note: what the case now waits for.

        Raises:
            CaseAlreadyPlanned: the tasks are chosen already; nothing is changed.
            CaseNotAnnotating: the case is in another state.
            InputError: no tasks, or a field input twice.
            NotInCaseBook: if there is no such case.
        """
        return retry_once(lambda: self._plan(case_id, tasks, budget, acceptance_size, pool_cursor, note))

    def _plan(
        self,
        case_id: int,
        tasks: Sequence[NewTask],
        budget: int,
        acceptance_size: int,
        pool_cursor: Mapping[str, tuple[int, int]],
        note: str,
    ) -> Case:
        now = self._now()
        with self._database.writing() as session:
            case = lock_case(session, case_id)
            require_annotating(case)
            if case.planned_ms is not None:
                raise CaseAlreadyPlanned(f"the tasks of case {case_id} were planned before (at {case.planned_ms} ms)")
            _require_new_inputs(session, case_id, tasks)
            _require_classes(case, tasks)
            # Shuffled before they get their ids, so that not even those tell repair from acceptance tasks.
            mixed = random.Random(f"{case_id}/{case.attempt}").sample(tasks, len(tasks))  # noqa: S311  (not a secret)
            rows = [_task_row(case, task, position, now) for position, task in enumerate(mixed)]
            session.add_all(rows)
            session.flush()
            session.add_all(_known_answer(row, now) for row in rows if row.label is not None)
            case.planned_ms = case.updated_ms = now
            case.budget, case.acceptance_size = budget, acceptance_size
            case.pool_cursor = convert.cursor_to_json(pool_cursor)
            case.note = convert.storable(note)
            session.flush()
            return read_case(session, case_id)


def _task_row(case: CaseRow, task: NewTask, position: int, now: int) -> TaskRow:
    known = task.known_label is not None
    return TaskRow(
        case_id=case.id,
        attempt=case.attempt,
        request_id=task.request_id,
        row=task.row,
        purpose=str(Purpose(task.purpose)),
        rank=task.rank,
        region=task.region,
        position=position,
        state=str(TaskState.LABELLED if known else TaskState.OPEN),
        label=task.known_label,
        decided_by=KNOWN_BY if known else None,
        decided_ms=now if known else None,
        answers_wanted=task.answers_wanted,
    )


def _known_answer(row: TaskRow, now: int) -> AnswerRow:
    return AnswerRow(
        task_id=row.id,
        labeller=KNOWN_BY,
        verdict=str(Verdict.LABEL),
        label=row.label,
        source=GROUND_TRUTH,
        at_ms=now,
    )


def _require_new_inputs(session: Session, case_id: int, tasks: Sequence[NewTask]) -> None:
    if not tasks:
        raise InputError(f"a plan needs at least one task, got none for case {case_id}")
    keys = Counter((task.request_id, task.row) for task in tasks)
    earlier = session.execute(select(TaskRow.request_id, TaskRow.row).where(TaskRow.case_id == case_id))
    keys.update({(request_id, row) for request_id, row in earlier} & keys.keys())
    twice = [key for key, number in keys.items() if number > 1]
    if twice:
        raise InputError(f"a field input is labelled once per case; planned twice: {twice[:5]} ({len(twice)} in all)")


def _require_classes(case: CaseRow, tasks: Sequence[NewTask]) -> None:
    number = len(case.class_names)
    wrong = sorted({task.known_label for task in tasks if task.known_label is not None} - set(range(number)))
    if wrong:
        raise InputError(f"known labels are indices 0..{number - 1} of the classes, got {wrong[:5]}")
