"""The monitor's side of the case book: windows, checkpoints and drift events."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from fieldrepair_service.case_book import convert
from fieldrepair_service.case_book.database import BookPart, retry_once
from fieldrepair_service.case_book.models import (
    CaseRow,
    CheckpointRow,
    DriftEventRow,
    HistoryRow,
    WindowRow,
)
from fieldrepair_service.case_book.outbox import drift_notification
from fieldrepair_service.case_book.records import Checkpoint, DriftEvent, NewDriftEvent, WindowRecord
from fieldrepair_service.case_book.states import OPEN_STATES, CaseState
from fieldrepair_service.errors import EventAlreadyOpen, InputError, NotInCaseBook, WindowsOutOfOrder


class Streams(BookPart):
    """One stream per model version: what the monitor saw, how far it came, what it raised."""

    def checkpoint(self, model_name: str, model_version: str) -> Checkpoint | None:
        """How far the monitor has come, or None before its first window."""
        with self._database.reading() as session:
            row = session.get(CheckpointRow, (model_name, model_version))
            return None if row is None else convert.to_checkpoint(row)

    def checkpoints(self) -> list[Checkpoint]:
        """Every stream's checkpoint, the most recently moved first."""
        with self._database.reading() as session:
            rows = session.scalars(select(CheckpointRow).order_by(CheckpointRow.updated_ms.desc()))
            return [convert.to_checkpoint(row) for row in rows]

    def windows(self, model_name: str, model_version: str, *, limit: int = 100) -> list[WindowRecord]:
        """The last ``limit`` windows of a model version, oldest first."""
        query = (
            select(WindowRow)
            .where(WindowRow.model_name == model_name, WindowRow.model_version == model_version)
            .order_by(WindowRow.window_index.desc())
            .limit(limit)
        )
        with self._database.reading() as session:
            return [convert.to_window(row) for row in session.scalars(query)][::-1]

    def events(
        self, model_name: str | None = None, model_version: str | None = None, *, limit: int = 100
    ) -> list[DriftEvent]:
        """The last ``limit`` drift events, newest first."""
        query = select(DriftEventRow).order_by(DriftEventRow.id.desc()).limit(limit)
        if model_name is not None:
            query = query.where(DriftEventRow.model_name == model_name)
        if model_version is not None:
            query = query.where(DriftEventRow.model_version == model_version)
        with self._database.reading() as session:
            return [convert.to_event(row) for row in session.scalars(query)]

    def event(self, event_id: int) -> DriftEvent:
        """One drift event.

        Raises:
            NotInCaseBook: if there is none with this id.
        """
        with self._database.reading() as session:
            return convert.to_event(_event_row(session, event_id))

    def open_event(self, model_name: str, model_version: str) -> DriftEvent | None:
        """The event of a model version that has not ended, if any."""
        with self._database.reading() as session:
            row = _open_event_row(session, model_name, model_version)
            return None if row is None else convert.to_event(row)

    def record_windows(
        self,
        model_name: str,
        model_version: str,
        cursor: Mapping[str, tuple[int, int]],
        windows: Sequence[WindowRecord],
        open_event: NewDriftEvent | None = None,
        end_event_id: int | None = None,
        memory: Mapping[str, str] | None = None,
    ) -> DriftEvent | None:
        """Store judged windows, move the checkpoint, end or open a drift event: all of it or nothing.

        A new event opens a case in state annotating, or joins the case that is already at work on this model
        version, and puts one notification into the outbox.

        Args:
            model_name: registered model.
            model_version: its version.
            cursor: position in the field log just after the last of ``windows``.
            windows: the next windows, in order and without gaps.
            open_event: the alert these windows complete.
            end_event_id: the event whose shift these windows show to be over. Ending it twice does no harm.
            memory: what detectors remember from now on; None leaves what they remember as it is.

        Returns:
            The opened event, or None.

        Raises:
            WindowsOutOfOrder: a window was recorded before, one is missing, or the cursor would move back. Nothing
                is written; read the checkpoint and go on from there.
            EventAlreadyOpen: the model version has an open event.
            NotInCaseBook: there is no event ``end_event_id``.
            InputError: an event of another model version.
        """
        stream = _Stream(model_name, model_version)
        if open_event is not None and _Stream(open_event.model_name, open_event.model_version) != stream:
            raise InputError(
                f"an event of {open_event.model_name} {open_event.model_version} among windows of {stream}"
            )
        return retry_once(lambda: self._record(stream, cursor, windows, open_event, end_event_id, memory))

    def label_windows(self, model_name: str, model_version: str, found: Mapping[int, tuple[float, int]]) -> None:
        """Note with recorded windows what labels say, which mostly come later.

        Args:
            model_name: registered model.
            model_version: its version.
            found: window index -> (share of right answers in 0..1, how many have a label: at least 1).

        Raises:
            InputError: a share or a count that cannot be.
            NotInCaseBook: a window that was never recorded; nothing is noted then.
        """
        for index, (accuracy, count) in found.items():
            if not 0 <= accuracy <= 1 or count < 1:
                raise InputError(
                    f"window {index}: expected an accuracy in 0..1 of at least 1 label, got {accuracy} of {count}"
                )
        with self._database.writing() as session:
            query = select(WindowRow).where(
                WindowRow.model_name == model_name,
                WindowRow.model_version == model_version,
                WindowRow.window_index.in_(found),
            )
            rows = {row.window_index: row for row in session.scalars(query)}
            if missing := sorted(set(found) - set(rows)):
                raise NotInCaseBook(f"there are no windows {missing} of {model_name} {model_version}")
            for index, (accuracy, count) in found.items():
                rows[index].labelled_accuracy, rows[index].labelled_count = accuracy, count

    def _record(
        self,
        stream: _Stream,
        cursor: Mapping[str, tuple[int, int]],
        windows: Sequence[WindowRecord],
        open_event: NewDriftEvent | None,
        end_event_id: int | None,
        memory: Mapping[str, str] | None,
    ) -> DriftEvent | None:
        now = self._now()
        with self._database.writing() as session:
            _move_checkpoint(session, stream, cursor, windows, memory, now)
            session.add_all(_window_row(stream, window, now) for window in windows)
            if end_event_id is not None:
                ended = _event_row(session, end_event_id)
                if _Stream(ended.model_name, ended.model_version) != stream:
                    raise InputError(f"event {end_event_id} is not one of {stream}")
                ended.ended_ms = now if ended.ended_ms is None else ended.ended_ms
                session.flush()
            if open_event is None:
                return None
            return convert.to_event(_open(session, stream, open_event, now))


@dataclass(frozen=True)
class _Stream:
    model_name: str
    model_version: str

    def __str__(self) -> str:
        return f"{self.model_name} {self.model_version}"


def _event_row(session: Session, event_id: int) -> DriftEventRow:
    row = session.get(DriftEventRow, event_id)
    if row is None:
        raise NotInCaseBook(f"there is no drift event {event_id}")
    return row


def _open_event_row(session: Session, model_name: str, model_version: str) -> DriftEventRow | None:
    return session.scalar(
        select(DriftEventRow).where(
            DriftEventRow.model_name == model_name,
            DriftEventRow.model_version == model_version,
            DriftEventRow.ended_ms.is_(None),
        )
    )


def _move_checkpoint(
    session: Session,
    stream: _Stream,
    cursor: Mapping[str, tuple[int, int]],
    windows: Sequence[WindowRecord],
    memory: Mapping[str, str] | None,
    now: int,
) -> None:
    indices = [window.index for window in windows]
    row = session.get(CheckpointRow, (stream.model_name, stream.model_version), with_for_update=True)
    expected = row.next_window_index if row is not None else indices[0] if indices else 0
    if indices != list(range(expected, expected + len(indices))):
        raise WindowsOutOfOrder(
            f"{stream}: the next window to record is {expected}, got {indices}; "
            "windows are recorded once, in order, without gaps"
        )
    if row is None:
        row = CheckpointRow(model_name=stream.model_name, model_version=stream.model_version, cursor={})
        session.add(row)
    for writer, position in convert.cursor_from_json(row.cursor).items():
        if cursor.get(writer, (-1, -1)) < position:
            raise WindowsOutOfOrder(
                f"{stream}: the checkpoint would move back for writer {writer!r}, "
                f"from {position} to {cursor.get(writer)}"
            )
    row.cursor = convert.cursor_to_json(cursor)
    row.next_window_index = expected + len(indices)
    row.updated_ms = now
    if memory is not None:
        row.memory = dict(memory)


def _window_row(stream: _Stream, window: WindowRecord, now: int) -> WindowRow:
    return WindowRow(
        model_name=stream.model_name,
        model_version=stream.model_version,
        window_index=window.index,
        first_timestamp_ms=window.first_timestamp_ms,
        last_timestamp_ms=window.last_timestamp_ms,
        size=window.size,
        detector=window.detector,
        statistic=window.statistic,
        threshold=window.threshold,
        p_value=window.p_value,
        drifted=window.drifted,
        estimated_accuracy=window.estimated_accuracy,
        accuracy_low=window.accuracy_low,
        accuracy_high=window.accuracy_high,
        accuracy_trusted=window.accuracy_trusted,
        labelled_accuracy=window.labelled_accuracy,
        labelled_count=window.labelled_count,
        effect_size=window.effect_size,
        scores=None if window.scores is None else convert.json_object(window.scores),
        cursor_start=convert.cursor_to_json(window.cursor_start),
        recorded_ms=now,
    )


def _open(session: Session, stream: _Stream, new: NewDriftEvent, now: int) -> DriftEventRow:
    already = _open_event_row(session, stream.model_name, stream.model_version)
    if already is not None:
        raise EventAlreadyOpen(f"{stream} has the open drift event {already.id}; end it before opening another")
    case = session.scalar(
        select(CaseRow).where(
            CaseRow.model_name == stream.model_name,
            CaseRow.model_version == stream.model_version,
            CaseRow.state.in_(sorted(OPEN_STATES)),
        )
    )
    opens_case = case is None
    if case is None:
        case = _new_case(session, new, now)
    event = DriftEventRow(
        case_id=case.id,
        opened_case=opens_case,
        model_name=stream.model_name,
        model_version=stream.model_version,
        detector=new.detector,
        statistic=new.statistic,
        p_value=new.p_value,
        threshold=new.threshold,
        window_index=new.window_index,
        cursor_start=convert.cursor_to_json(new.cursor_start),
        field_inputs_until_alert=new.field_inputs_until_alert,
        estimated_accuracy=new.estimated_accuracy,
        reference_accuracy=new.reference_accuracy,
        summary=convert.storable(new.summary),
        opened_ms=now,
    )
    session.add(event)
    session.flush()
    session.add(drift_notification(event, now))
    session.flush()
    return event


def _new_case(session: Session, new: NewDriftEvent, now: int) -> CaseRow:
    case = CaseRow(
        model_name=new.model_name,
        model_version=new.model_version,
        state=str(CaseState.ANNOTATING),
        reason=convert.storable(new.summary),
        note="waiting for the worker to choose field inputs to label",
        attempt=1,
        cursor_start=convert.cursor_to_json(new.cursor_start),
        class_names=list(new.class_names),
        input_spec=convert.json_object(new.input_spec),
        progress={},
        created_ms=now,
        updated_ms=now,
    )
    session.add(case)
    session.flush()
    session.add(
        HistoryRow(case_id=case.id, at_ms=now, to_state=case.state, reason=case.reason, actor="monitor"),
    )
    return case
