"""The worker's and the console's side of the case book: reading cases, moving them on, leasing them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session
from typing_extensions import TypedDict, Unpack

from fieldrepair_service.case_book import convert
from fieldrepair_service.case_book.database import BookPart, retry_once
from fieldrepair_service.case_book.models import CaseRow, DriftEventRow, HistoryRow
from fieldrepair_service.case_book.outbox import candidate_notification
from fieldrepair_service.case_book.records import Case, HistoryEntry
from fieldrepair_service.case_book.states import OPEN_STATES, CaseState, TaskState, check_transition
from fieldrepair_service.case_book.task_models import TaskRow
from fieldrepair_service.errors import CaseAlreadyOpen, CaseNotAnnotating, InputError, NotInCaseBook


class CaseFields(TypedDict, total=False):
    """What :meth:`Cases.update_case` may change."""

    note: str
    budget: int | None
    acceptance_size: int | None
    run_id: str | None
    candidate_version: str | None
    acceptance: Mapping[str, object] | None
    progress: Mapping[str, object]


class Cases(BookPart):
    """Repair cases, from the drift event to their end."""

    def cases(self, state: CaseState | str | None = None, *, limit: int = 1000) -> list[Case]:
        """Cases, newest first; with ``state``, only those in it."""
        query = select(CaseRow, _OPENING_EVENT).order_by(CaseRow.id.desc()).limit(limit)
        if state is not None:
            query = query.where(CaseRow.state == str(CaseState(state)))
        with self._database.reading() as session:
            return [convert.to_case(row, event_id) for row, event_id in session.execute(query)]

    def case_counts(self) -> dict[CaseState, int]:
        """How many cases are in each state, 0 where there are none."""
        query = select(CaseRow.state, func.count()).group_by(CaseRow.state)
        with self._database.reading() as session:
            found = {str(state): int(count) for state, count in session.execute(query)}
        return {state: found.get(str(state), 0) for state in CaseState}

    def case(self, case_id: int) -> Case:
        """One case.

        Raises:
            NotInCaseBook: if there is none with this id.
        """
        with self._database.reading() as session:
            return read_case(session, case_id)

    def history(self, case_id: int) -> list[HistoryEntry]:
        """Every move of a case, oldest first.

        Raises:
            NotInCaseBook: if there is no such case.
        """
        with self._database.reading() as session:
            read_case(session, case_id)
            rows = session.scalars(select(HistoryRow).where(HistoryRow.case_id == case_id).order_by(HistoryRow.id))
            return [convert.to_history(row) for row in rows]

    def transition(
        self, case_id: int, to: CaseState | str, reason: str = "", *, actor: str = "fieldrepair", note: str = ""
    ) -> Case:
        """Move a case to another state, with an entry in its history.

        Moving a rejected case back to annotating starts a new attempt: the worker plans it anew, results of the
        earlier attempt are cleared, its labels stay, and its tasks that nobody answered are closed.

        Args:
            case_id: the case.
            to: the new state.
            reason: why, for people.
            actor: who: a person, "worker", "monitor".
            note: what the case now does or waits for; replaces the old note.

        Raises:
            IllegalTransition: the case cannot go there from where it is.
            CaseAlreadyOpen: a rejected case cannot be retried while another one is at work on its model version.
            NotInCaseBook: if there is no such case.
        """
        return retry_once(lambda: self._transition(case_id, CaseState(to), reason, actor, note))

    def _transition(self, case_id: int, to: CaseState, reason: str, actor: str, note: str) -> Case:
        now = self._now()
        with self._database.writing() as session:
            row = lock_case(session, case_id)
            current = CaseState(row.state)
            check_transition(case_id, current, to)
            if to in OPEN_STATES and current not in OPEN_STATES:
                _begin_attempt(session, row, now)
            row.state, row.reason, row.note = str(to), convert.storable(reason), convert.storable(note)
            row.updated_ms = now
            if to is CaseState.ACCEPTED:
                session.add(candidate_notification(row, now))
            session.add(
                HistoryRow(
                    case_id=case_id,
                    at_ms=now,
                    from_state=str(current),
                    to_state=row.state,
                    reason=row.reason,
                    actor=convert.storable(actor),
                )
            )
            session.flush()
            return read_case(session, case_id)

    def update_case(self, case_id: int, **fields: Unpack[CaseFields]) -> Case:
        """Change fields of a case that are not its state.

        Raises:
            InputError: a field that does not exist or is not changed this way; the message lists those that are. Or a
            value that is not JSON.
            NotInCaseBook: if there is no such case.
        """
        unknown = sorted(set(fields) - set(CaseFields.__annotations__))
        if unknown:
            raise InputError(f"cannot set {unknown} of a case; expected some of {sorted(CaseFields.__annotations__)}")
        with self._database.writing() as session:
            row = lock_case(session, case_id)
            for name, value in fields.items():
                setattr(row, name, _stored(value))
            row.updated_ms = self._now()
            session.flush()
            return read_case(session, case_id)

    def update_progress(self, case_id: int, progress: Mapping[str, object]) -> None:
        """Replace a case's progress, a JSON object. NaN and infinity become null; NumPy numbers are taken.

        Raises:
            NotInCaseBook: if there is no such case.
            InputError: something in it is not JSON.
        """
        self.update_case(case_id, progress=progress)

    def claim(self, case_id: int, worker_id: str, seconds: float) -> bool:
        """Lease a case to one worker; the same worker renews its lease this way.

        Args:
            case_id: the case.
            worker_id: the worker.
            seconds: how long the lease lasts from now.

        Returns:
            False if another worker holds it.

        Raises:
            NotInCaseBook: if there is no such case.
        """
        now = self._now()
        with self._database.writing() as session:
            row = lock_case(session, case_id)
            held_until = 0 if row.claimed_by in (None, worker_id) else row.claimed_until_ms or 0
            if held_until > now:
                return False
            row.claimed_by, row.claimed_until_ms = worker_id, now + round(seconds * 1000)
            return True

    def release(self, case_id: int, worker_id: str) -> None:
        """Give a lease back; nothing happens if this worker does not hold it.

        Raises:
            NotInCaseBook: if there is no such case.
        """
        with self._database.writing() as session:
            row = lock_case(session, case_id)
            if row.claimed_by == worker_id:
                row.claimed_by = row.claimed_until_ms = None


_OPENING_EVENT = (
    select(func.min(DriftEventRow.id)).where(DriftEventRow.case_id == CaseRow.id).correlate(CaseRow).scalar_subquery()
)


def read_case(session: Session, case_id: int) -> Case:
    """One case as it stands in this transaction; ``NotInCaseBook`` if there is none."""
    found = session.execute(select(CaseRow, _OPENING_EVENT).where(CaseRow.id == case_id)).one_or_none()
    if found is None:
        raise NotInCaseBook(f"there is no case {case_id}")
    return convert.to_case(found[0], found[1])


def lock_case(session: Session, case_id: int) -> CaseRow:
    """One case, locked until this transaction ends; ``NotInCaseBook`` if there is none.

    Every transaction that changes a case or its tasks locks the case first, so these never deadlock.
    """
    row = session.get(CaseRow, case_id, with_for_update=True, populate_existing=True)
    if row is None:
        raise NotInCaseBook(f"there is no case {case_id}")
    return row


def require_annotating(case: CaseRow, task: TaskRow | None = None) -> None:
    """Refuse (``CaseNotAnnotating``) a case that takes no plan or label now, or a task of an earlier attempt."""
    if case.state != str(CaseState.ANNOTATING):
        raise CaseNotAnnotating(f"case {case.id} is {case.state}; this can be done only while it is annotating")
    if task is not None and task.attempt != case.attempt:
        raise CaseNotAnnotating(
            f"task {task.id} belongs to attempt {task.attempt} of case {case.id}, which is at attempt {case.attempt}"
        )


def _stored(value: object) -> object:
    if isinstance(value, str):
        return convert.storable(value)
    return convert.json_object(cast(Mapping[str, object], value)) if isinstance(value, Mapping) else value


def _begin_attempt(session: Session, row: CaseRow, now: int) -> None:
    other = session.scalar(
        select(CaseRow.id).where(
            CaseRow.model_name == row.model_name,
            CaseRow.model_version == row.model_version,
            CaseRow.state.in_(sorted(OPEN_STATES)),
        )
    )
    if other is not None:
        raise CaseAlreadyOpen(
            f"case {row.id} cannot be retried: case {other} is at work on {row.model_name} {row.model_version}"
        )
    session.execute(
        update(TaskRow)
        .where(TaskRow.case_id == row.id, TaskRow.state == str(TaskState.OPEN))
        .values(state=str(TaskState.SKIPPED), decided_by="fieldrepair", decided_ms=now, leased_to=None, reason="retry")
    )
    row.attempt += 1
    row.planned_ms = row.budget = row.acceptance_size = row.pool_cursor = None
    row.run_id = row.candidate_version = row.acceptance = None
    row.approved_by = row.approved_ms = row.approved_version = row.approval_moved_ms = row.approval_problem = None
    row.progress = {}
