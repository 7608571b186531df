"""The labellers' side of the case book: handing out tasks, taking labels."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import func, or_, select
from sqlalchemy.orm import Session

from fieldrepair_service.case_book import convert
from fieldrepair_service.case_book.cases import Cases, lock_case, read_case, require_annotating
from fieldrepair_service.case_book.models import CaseRow, TaskRow
from fieldrepair_service.case_book.records import Case, PurposeCounts, Task, TaskCounts
from fieldrepair_service.case_book.states import CaseState, Purpose, TaskState
from fieldrepair_service.errors import (
    AlreadyLabelled,
    InputError,
    NotInCaseBook,
    NotYourTask,
    UnknownClass,
)

LEASE_S = 300.0
"""How long a task that was handed out waits for its labeller before others get it."""


class Tasks(Cases):
    """Labelling tasks of a case's attempts."""

    def task(self, task_id: int) -> Task:
        """One task.

        Raises:
            NotInCaseBook: if there is none with this id.
        """
        with self._database.reading() as session:
            return convert.to_task(_task(session, task_id))

    def tasks(self, case_id: int, purpose: Purpose | str | None = None, *, attempt: int | None = None) -> list[Task]:
        """Tasks of a case in the order labellers see them; of all attempts unless ``attempt`` says which.

        Raises:
            NotInCaseBook: if there is no such case.
        """
        query = select(TaskRow).where(TaskRow.case_id == case_id).order_by(TaskRow.attempt, TaskRow.position)
        if purpose is not None:
            query = query.where(TaskRow.purpose == str(Purpose(purpose)))
        if attempt is not None:
            query = query.where(TaskRow.attempt == attempt)
        with self._database.reading() as session:
            read_case(session, case_id)
            return [convert.to_task(row) for row in session.scalars(query)]

    def task_counts(self, case_id: int) -> TaskCounts:
        """How many tasks of the present attempt are open, labelled and skipped.

        Raises:
            NotInCaseBook: if there is no such case.
        """
        return self.task_counts_of([self.case(case_id)])[case_id]

    def task_counts_of(self, cases: Sequence[Case]) -> dict[int, TaskCounts]:
        """The same for several cases at once: case id -> counts."""
        query = (
            select(TaskRow.case_id, TaskRow.attempt, TaskRow.purpose, TaskRow.state, func.count())
            .where(TaskRow.case_id.in_([case.id for case in cases]))
            .group_by(TaskRow.case_id, TaskRow.attempt, TaskRow.purpose, TaskRow.state)
        )
        with self._database.reading() as session:
            numbers = {
                (case_id, attempt, purpose, state): n for case_id, attempt, purpose, state, n in session.execute(query)
            }

        def counts(case: Case, purpose: Purpose) -> PurposeCounts:
            return PurposeCounts(
                **{str(state): numbers.get((case.id, case.attempt, str(purpose), str(state)), 0) for state in TaskState}
            )

        return {
            case.id: TaskCounts(
                planned=case.planned_ms is not None,
                repair=counts(case, Purpose.REPAIR),
                acceptance=counts(case, Purpose.ACCEPTANCE),
            )
            for case in cases
        }

    def labels(self, case_id: int, purpose: Purpose | str, *, attempt: int | None = None) -> list[tuple[str, int, int]]:
        """Labels given so far as (request_id, row, class index), most important first.

        Of all attempts unless ``attempt`` says which: a retry that judges its candidate on the acceptance sample of
        an earlier attempt looks at that sample twice.

        Raises:
            NotInCaseBook: if there is no such case.
        """
        labelled = [
            (task.rank, task.attempt, task.position, (task.request_id, task.row, task.label))
            for task in self.tasks(case_id, purpose, attempt=attempt)
            if task.label is not None
        ]
        return [(request_id, row, label) for _, _, _, (request_id, row, label) in sorted(labelled)]

    def next_task(self, case_id: int, labeller: str, *, lease_s: float = LEASE_S) -> Task | None:
        """The task this labeller shall answer next; theirs until the lease ends.

        Who asks again gets the same task and a fresh lease. Nobody else gets it before the lease ends.

        Returns:
            None if no task is free, the case has no plan yet, or it is not annotating.

        Raises:
            NotInCaseBook: if there is no such case.
            InputError: a labeller without a name.
        """
        _require_name(labeller)
        now = self._now()
        with self._database.writing() as session:
            case = lock_case(session, case_id)
            if case.state != str(CaseState.ANNOTATING):
                return None
            waiting = (
                select(TaskRow)
                .where(
                    TaskRow.case_id == case_id,
                    TaskRow.attempt == case.attempt,
                    TaskRow.state == str(TaskState.OPEN),
                )
                .order_by(TaskRow.position)
                .limit(1)
            )
            row = session.scalar(waiting.where(TaskRow.leased_to == labeller)) or session.scalar(
                waiting.where(or_(TaskRow.leased_to.is_(None), TaskRow.leased_until_ms <= now))
            )
            if row is None:
                return None
            row.leased_to, row.leased_until_ms = labeller, now + round(lease_s * 1000)
            return convert.to_task(row)

    def submit(self, task_id: int, label: int | str, labeller: str) -> Task:
        """Store a label. The same label from the same labeller again changes nothing; any other is refused.

        The first answer counts, also if it comes after its lease ended. A skipped task takes a label as well:
        a skip says "I do not know", a label says more.

        Args:
            task_id: the task.
            label: name of a class of the case (a string), or its index (an integer).
            labeller: who says so.

        Raises:
            UnknownClass: none of the case's classes.
            AlreadyLabelled: the task has another label, or the same from someone else.
            CaseNotAnnotating: the case (or this attempt of it) takes no labels any more.
            NotInCaseBook: if there is no such task.
            InputError: a labeller without a name.
        """
        _require_name(labeller)
        with self._database.writing() as session:
            case, row = _lock_task(session, task_id)
            index = _class_index(label, case.class_names)
            if row.label == index and row.decided_by == labeller:
                return convert.to_task(row)
            if row.label is not None:
                raise _already_labelled(row, case)
            require_annotating(case, row)
            self._decide(row, TaskState.LABELLED, index, labeller)
            return convert.to_task(row)

    def skip(self, task_id: int, labeller: str) -> Task:
        """Close a task without a label: this labeller cannot tell. Skipping twice does no harm.

        Raises:
            AlreadyLabelled: the task has a label.
            CaseNotAnnotating: the case (or this attempt of it) takes no labels any more.
            NotInCaseBook: if there is no such task.
            InputError: a labeller without a name.
        """
        _require_name(labeller)
        with self._database.writing() as session:
            case, row = _lock_task(session, task_id)
            if row.label is not None:
                raise _already_labelled(row, case)
            if row.state == str(TaskState.SKIPPED):
                return convert.to_task(row)
            require_annotating(case, row)
            self._decide(row, TaskState.SKIPPED, None, labeller)
            return convert.to_task(row)

    def undo(self, task_id: int, labeller: str, *, lease_s: float = LEASE_S) -> Task:
        """Take back one's own label or skip: the task is open again and leased to this labeller.

        Raises:
            NotYourTask: someone else decided it, or nobody did.
            CaseNotAnnotating: the case (or this attempt of it) went on.
            NotInCaseBook: if there is no such task.
            InputError: a labeller without a name.
        """
        _require_name(labeller)
        now = self._now()
        with self._database.writing() as session:
            case, row = _lock_task(session, task_id)
            require_annotating(case, row)
            if row.decided_by != labeller:
                who = f"was {row.state} by {row.decided_by!r}" if row.decided_by else "has no answer to take back"
                raise NotYourTask(f"task {task_id} {who}; {labeller!r} cannot undo it")
            row.state, row.label, row.decided_by, row.decided_ms = str(TaskState.OPEN), None, None, None
            row.leased_to, row.leased_until_ms = labeller, now + round(lease_s * 1000)
            return convert.to_task(row)

    def _decide(self, row: TaskRow, state: TaskState, label: int | None, labeller: str) -> None:
        row.state, row.label = str(state), label
        row.decided_by, row.decided_ms = labeller, self._now()
        row.leased_to = row.leased_until_ms = None


def _task(session: Session, task_id: int) -> TaskRow:
    row = session.get(TaskRow, task_id, populate_existing=True)
    if row is None:
        raise NotInCaseBook(f"there is no task {task_id}")
    return row


def _lock_task(session: Session, task_id: int) -> tuple[CaseRow, TaskRow]:
    """A task and its case; the lock on the case covers the task, which is read again under it."""
    case = lock_case(session, _task(session, task_id).case_id)
    return case, _task(session, task_id)


def _require_name(labeller: str) -> None:
    if not labeller.strip() or convert.storable(labeller) != labeller:
        raise InputError(f"a labeller needs a name, got {labeller!r}")


def _class_index(label: int | str, class_names: Sequence[str]) -> int:
    if isinstance(label, str) and label in class_names:
        return class_names.index(label)
    if isinstance(label, int) and not isinstance(label, bool) and 0 <= label < len(class_names):
        return label
    raise UnknownClass(
        f"{label!r} is none of the classes; expected one of {list(class_names)} or an index 0..{len(class_names) - 1}"
    )


def _already_labelled(row: TaskRow, case: CaseRow) -> AlreadyLabelled:
    label = row.label or 0
    return AlreadyLabelled(
        row.id, label=label, class_name=case.class_names[label], labeller=row.decided_by or "unknown"
    )
