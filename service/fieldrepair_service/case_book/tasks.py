"""Reading labelling tasks: one, all of a case, how many of which kind, their labels and answers."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import func, or_, select
from sqlalchemy.orm import Session

from fieldrepair_service.case_book import convert
from fieldrepair_service.case_book.agreement import agreement_of
from fieldrepair_service.case_book.cases import Cases, read_case
from fieldrepair_service.case_book.records import Case
from fieldrepair_service.case_book.states import Purpose, TaskState
from fieldrepair_service.case_book.task_models import AnswerRow, TaskRow
from fieldrepair_service.case_book.task_records import Agreement, Answer, PurposeCounts, Task, TaskCounts
from fieldrepair_service.errors import NotInCaseBook


class Tasks(Cases):
    """Labelling tasks of a case's attempts."""

    def task(self, task_id: int) -> Task:
        """One task.

        Raises:
            NotInCaseBook: if there is none with this id.
        """
        with self._database.reading() as session:
            return convert.to_task(read_task(session, task_id))

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

    def answers(self, case_id: int, *, attempt: int | None = None) -> list[Answer]:
        """What labellers said about the tasks of a case, oldest first; of all attempts unless ``attempt`` says which.

        Raises:
            NotInCaseBook: if there is no such case.
        """
        query = select(AnswerRow).join(TaskRow).where(TaskRow.case_id == case_id).order_by(AnswerRow.id)
        if attempt is not None:
            query = query.where(TaskRow.attempt == attempt)
        with self._database.reading() as session:
            read_case(session, case_id)
            return [convert.to_answer(row) for row in session.scalars(query)]

    def last_answer(self, case_id: int, labeller: str) -> Answer | None:
        """What this labeller said last about a task of the case's present attempt: what "undo" takes back.

        Raises:
            NotInCaseBook: if there is no such case.
        """
        with self._database.reading() as session:
            case = read_case(session, case_id)
            row = session.scalar(
                select(AnswerRow)
                .join(TaskRow)
                .where(TaskRow.case_id == case_id, TaskRow.attempt == case.attempt, AnswerRow.labeller == labeller)
                .order_by(AnswerRow.at_ms.desc(), AnswerRow.id.desc())
                .limit(1)
            )
            return None if row is None else convert.to_answer(row)

    def agreement(self, case_id: int) -> Agreement:
        """How well the labellers of a case's present attempt agree.

        Raises:
            NotInCaseBook: if there is no such case.
        """
        with self._database.reading() as session:
            case = read_case(session, case_id)
            double = (
                TaskRow.case_id == case_id,
                TaskRow.attempt == case.attempt,
                TaskRow.answers_wanted > 1,
            )
            answered = select(AnswerRow.id).where(AnswerRow.task_id == TaskRow.id)
            tasks = session.scalars(select(TaskRow).where(*double, answered.exists())).all()
            answers = session.scalars(select(AnswerRow).join(TaskRow).where(*double).order_by(AnswerRow.id)).all()
            waiting = select(func.count()).select_from(TaskRow).where(*double, TaskRow.state == str(TaskState.OPEN))
            return agreement_of(
                [convert.to_task(row) for row in tasks],
                [convert.to_answer(row) for row in answers],
                waiting=session.scalar(waiting) or 0,
            )

    def answered_by(self, case_id: int, labeller: str) -> tuple[int, int]:
        """How many tasks of the case's present attempt this labeller has answered; how many of these are still open.

        Raises:
            NotInCaseBook: if there is no such case.
        """
        with self._database.reading() as session:
            case = read_case(session, case_id)
            by_state = (
                select(TaskRow.state, func.count())
                .join(AnswerRow)
                .where(TaskRow.case_id == case_id, TaskRow.attempt == case.attempt, AnswerRow.labeller == labeller)
                .group_by(TaskRow.state)
            )
            counts: dict[str, int] = dict(list(session.execute(by_state)))
        return sum(counts.values()), counts.get(str(TaskState.OPEN), 0)

    def following(self, task: Task, *, limit: int) -> list[tuple[str, int]]:
        """The field inputs of the open tasks behind this one: what labellers will look at next."""
        query = (
            select(TaskRow.request_id, TaskRow.row)
            .where(
                TaskRow.case_id == task.case_id,
                TaskRow.attempt == task.attempt,
                TaskRow.position > task.position,
                TaskRow.state == str(TaskState.OPEN),
            )
            .order_by(TaskRow.position)
            .limit(limit)
        )
        with self._database.reading() as session:
            return [(request_id, row) for request_id, row in session.execute(query)]

    def ahead(self, task: Task, labeller: str) -> int | None:
        """The task this labeller will most likely get after this one, to fetch its picture early."""
        now = self._now()
        answered = select(AnswerRow.id).where(AnswerRow.task_id == TaskRow.id, AnswerRow.labeller == labeller)
        query = (
            select(TaskRow.id)
            .where(
                TaskRow.case_id == task.case_id,
                TaskRow.attempt == task.attempt,
                TaskRow.id != task.id,
                TaskRow.state == str(TaskState.OPEN),
                or_(TaskRow.leased_to.is_(None), TaskRow.leased_until_ms <= now),
                ~answered.exists(),
            )
            .order_by(TaskRow.position)
            .limit(1)
        )
        with self._database.reading() as session:
            return session.scalar(query)


def read_task(session: Session, task_id: int) -> TaskRow:
    """One task as it stands in this transaction; ``NotInCaseBook`` if there is none."""
    row = session.get(TaskRow, task_id, populate_existing=True)
    if row is None:
        raise NotInCaseBook(f"there is no task {task_id}")
    return row
