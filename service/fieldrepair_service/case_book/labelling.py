"""The labellers' side of the case book: handing out tasks, taking answers, deciding tasks by them.

Every change locks the case first, and is one transaction with its entry in the audit trail.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import or_, select, update
from sqlalchemy.orm import Session

from fieldrepair_service.case_book import convert
from fieldrepair_service.case_book.audit import audit_row
from fieldrepair_service.case_book.cases import lock_case, require_annotating
from fieldrepair_service.case_book.models import CaseRow
from fieldrepair_service.case_book.settling import settle
from fieldrepair_service.case_book.states import CaseState, TaskState, Verdict
from fieldrepair_service.case_book.task_models import AnswerRow, TaskRow
from fieldrepair_service.case_book.task_records import Task
from fieldrepair_service.case_book.tasks import Tasks, read_task
from fieldrepair_service.errors import AlreadyLabelled, InputError, NotYourTask, UnknownClass

LEASE_S = 300.0
"""How long a task that was handed out waits for its labeller before others get it."""


class Labelling(Tasks):
    """Handing out tasks and taking answers."""

    def next_task(
        self, case_id: int, labeller: str, *, lease_s: float = LEASE_S, after: int | None = None
    ) -> Task | None:
        """The task this labeller shall answer next; theirs until the lease ends.

        Who asks again gets the same task and a fresh lease. Nobody else gets it before the lease ends, and nobody
        gets a task they have answered.

        Args:
            case_id: the case.
            labeller: who asks.
            lease_s: how long nobody else gets the task.
            after: position of a task to pass over for now: the labeller gives back what they hold, and gets the
                first task behind it, or, if there is none, the first of all.

        Returns:
            None if no task is free, the case has no plan yet, or it is not annotating.

        Raises:
            NotInCaseBook: if there is no such case.
            InputError: a labeller without a name.
        """
        require_name(labeller)
        now = self._now()
        with self._database.writing() as session:
            case = lock_case(session, case_id)
            if case.state != str(CaseState.ANNOTATING):
                return None
            answered = select(AnswerRow.id).where(AnswerRow.task_id == TaskRow.id, AnswerRow.labeller == labeller)
            waiting = (
                select(TaskRow)
                .where(
                    TaskRow.case_id == case_id,
                    TaskRow.attempt == case.attempt,
                    TaskRow.state == str(TaskState.OPEN),
                    ~answered.exists(),
                )
                .order_by(TaskRow.position)
                .limit(1)
            )
            free = waiting.where(or_(TaskRow.leased_to.is_(None), TaskRow.leased_until_ms <= now))
            if after is None:
                row = session.scalar(waiting.where(TaskRow.leased_to == labeller)) or session.scalar(free)
            else:
                _give_back(session, case, labeller)
                row = session.scalar(free.where(TaskRow.position > after)) or session.scalar(free)
            if row is None:
                return None
            row.leased_to, row.leased_until_ms = labeller, now + round(lease_s * 1000)
            return convert.to_task(row)

    def submit(
        self, task_id: int, label: int | str, labeller: str, *, source: str = "api", role: str = "labeller"
    ) -> Task:
        """Store a label. The same label from the same labeller again changes nothing; any other is refused.

        A task that wants one answer is decided by the first label, also if that comes after its lease ended. A
        skipped task takes a label as well: a skip says "I do not know", a label says more. A task that wants two
        answers is decided when both agree; else a third is asked for, and the majority decides.

        Args:
            task_id: the task.
            label: name of a class of the case (a string), or its index (an integer).
            labeller: who says so.
            source: where the answer comes from; "ground_truth" decides the task at once.
            role: the role the labeller has, for the audit trail.

        Raises:
            UnknownClass: none of the case's classes.
            AlreadyLabelled: the task has another label, or the same from someone else; or this labeller gave
                another one before.
            CaseNotAnnotating: the case (or this attempt of it) takes no labels any more.
            NotInCaseBook: if there is no such task.
            InputError: a labeller without a name.
        """
        require_name(labeller)
        with self._database.writing() as session:
            case, row = lock_task(session, task_id)
            index = class_index(label, case.class_names)
            self._answer(session, case, row, labeller, Verdict.LABEL, index, source, role)
            return convert.to_task(row)

    def skip(
        self,
        task_id: int,
        labeller: str,
        *,
        not_sure: bool = False,
        source: str = "api",
        role: str = "labeller",
    ) -> Task:
        """Answer a task without a label. Skipping twice does no harm.

        Args:
            task_id: the task.
            labeller: who says so.
            not_sure: True if it is one of the classes, but this labeller cannot tell which; False if it cannot be
                labelled at all. Kept apart in the answers; either closes a task that wants one answer.
            source: where the answer comes from.
            role: the role the labeller has, for the audit trail.

        Raises:
            AlreadyLabelled: the task has a label.
            CaseNotAnnotating: the case (or this attempt of it) takes no labels any more.
            NotInCaseBook: if there is no such task.
            InputError: a labeller without a name.
        """
        require_name(labeller)
        with self._database.writing() as session:
            case, row = lock_task(session, task_id)
            verdict = Verdict.NOT_SURE if not_sure else Verdict.SKIP
            self._answer(session, case, row, labeller, verdict, None, source, role)
            return convert.to_task(row)

    def undo(self, task_id: int, labeller: str, *, lease_s: float = LEASE_S, role: str = "labeller") -> Task:
        """Take back one's own answer: the task is open again and leased to this labeller, in place of what they hold.

        Raises:
            NotYourTask: someone else answered it, or nobody did.
            CaseNotAnnotating: the case (or this attempt of it) went on.
            NotInCaseBook: if there is no such task.
            InputError: a labeller without a name.
        """
        require_name(labeller)
        now = self._now()
        with self._database.writing() as session:
            case, row = lock_task(session, task_id)
            require_annotating(case, row)
            answers = _answers(session, row)
            own = next((answer for answer in answers if answer.labeller == labeller), None)
            if own is None:
                who = f"was {row.state} by {row.decided_by!r}" if row.decided_by else "has no answer to take back"
                raise NotYourTask(f"task {task_id} {who}; {labeller!r} cannot undo it")
            _give_back(session, case, labeller)
            session.delete(own)
            if row.answers_wanted > 2 and len(answers) < 3:  # the disagreement that asked for a third is gone
                row.answers_wanted = 2
            row.state, row.label, row.reason = str(TaskState.OPEN), None, None
            row.decided_by, row.decided_ms = None, None
            row.leased_to, row.leased_until_ms = labeller, now + round(lease_s * 1000)
            detail = {"verdict": own.verdict, "label": own.label}
            session.add(audit_row(now, labeller, role, "undo", f"task {task_id}", detail))
            return convert.to_task(row)

    def _answer(
        self,
        session: Session,
        case: CaseRow,
        row: TaskRow,
        labeller: str,
        verdict: Verdict,
        label: int | None,
        source: str,
        role: str,
    ) -> bool:
        """Store an answer and decide the task by it; False if it was stored before."""
        answers = _answers(session, row)
        own = next((answer for answer in answers if answer.labeller == labeller), None)
        if own is not None and (own.verdict, own.label) == (str(verdict), label):
            return False
        if row.label is not None:
            raise _already_labelled(row, case, row.label, row.decided_by)
        if own is not None and own.label is not None:  # the task waits for others, this labeller has spoken
            raise _already_labelled(row, case, own.label, own.labeller)
        if verdict is not Verdict.LABEL and (row.state == str(TaskState.SKIPPED) or own is not None):
            return False
        require_annotating(case, row)
        now = self._now()
        if own is None:
            own = AnswerRow(task_id=row.id, labeller=labeller)
            session.add(own)
            answers.append(own)
        own.verdict, own.label, own.source, own.at_ms = str(verdict), label, source, now
        outcome = settle([convert.to_answer(answer) for answer in answers], row.answers_wanted)
        row.state, row.label, row.reason = str(outcome.state), outcome.label, outcome.reason
        row.answers_wanted = outcome.answers_wanted
        row.decided_by, row.decided_ms = outcome.decided_by, now if outcome.decided_by else None
        row.leased_to = row.leased_until_ms = None
        action = "label" if verdict is Verdict.LABEL else str(verdict)
        detail = {"label": None if label is None else case.class_names[label], "source": source}
        session.add(audit_row(now, labeller, role, action, f"task {row.id}", detail))
        return True


def lock_task(session: Session, task_id: int) -> tuple[CaseRow, TaskRow]:
    """A task and its case; the lock on the case covers the task, which is read again under it."""
    case = lock_case(session, read_task(session, task_id).case_id)
    return case, read_task(session, task_id)


def _give_back(session: Session, case: CaseRow, labeller: str) -> None:
    """A labeller holds one task of a case; before they get another one, it is free for others."""
    session.execute(
        update(TaskRow)
        .where(TaskRow.case_id == case.id, TaskRow.leased_to == labeller)
        .values(leased_to=None, leased_until_ms=None)
    )


def _answers(session: Session, task: TaskRow) -> list[AnswerRow]:
    return list(session.scalars(select(AnswerRow).where(AnswerRow.task_id == task.id).order_by(AnswerRow.id)))


def require_name(labeller: str) -> None:
    """Refuse (``InputError``) a labeller without a name."""
    if not labeller.strip() or convert.storable(labeller) != labeller:
        raise InputError(f"a labeller needs a name, got {labeller!r}")


def class_index(label: int | str, class_names: Sequence[str]) -> int:
    """Index of a class given by name or index; ``UnknownClass`` if it is none of them."""
    if isinstance(label, str) and label in class_names:
        return class_names.index(label)
    if isinstance(label, int) and not isinstance(label, bool) and 0 <= label < len(class_names):
        return label
    raise UnknownClass(
        f"{label!r} is none of the classes; expected one of {list(class_names)} or an index 0..{len(class_names) - 1}"
    )


def _already_labelled(row: TaskRow, case: CaseRow, label: int, labeller: str | None) -> AlreadyLabelled:
    return AlreadyLabelled(row.id, label=label, class_name=case.class_names[label], labeller=labeller or "unknown")
