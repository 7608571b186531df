"""Database rows to records. Cursors are JSON in the database, so their pairs become tuples again here."""

from __future__ import annotations

from collections.abc import Mapping

import orjson

from fieldrepair_service.case_book import models, records, task_models, task_records
from fieldrepair_service.case_book.states import CaseState, Purpose, TaskState, Verdict
from fieldrepair_service.errors import InputError


def cursor_to_json(cursor: Mapping[str, tuple[int, int]]) -> dict[str, list[int]]:
    """Writer -> [seq, row]."""
    return {writer: [int(seq), int(row)] for writer, (seq, row) in cursor.items()}


def cursor_from_json(stored: Mapping[str, list[int]]) -> records.Cursor:
    """The inverse of :func:`cursor_to_json`."""
    return {writer: (seq, row) for writer, (seq, row) in stored.items()}


def storable(text: str) -> str:
    """Text that every database takes: PostgreSQL refuses NUL, and neither takes half a surrogate pair."""
    return text.encode("utf-8", "replace").decode("utf-8").replace("\0", "\N{REPLACEMENT CHARACTER}")


def json_object(value: Mapping[str, object]) -> dict[str, object]:
    """A JSON object as the database gives it back: NaN and infinity become null, NumPy numbers become plain ones.

    Raises:
        InputError: something in it is not JSON.
    """
    try:
        return orjson.loads(orjson.dumps(dict(value), option=orjson.OPT_SERIALIZE_NUMPY))
    except TypeError as error:
        raise InputError(f"the case book cannot store this as JSON: {error}") from error


def to_checkpoint(row: models.CheckpointRow) -> records.Checkpoint:
    """One checkpoint."""
    return records.Checkpoint(
        model_name=row.model_name,
        model_version=row.model_version,
        cursor=cursor_from_json(row.cursor),
        next_window_index=row.next_window_index,
        updated_ms=row.updated_ms,
        memory=row.memory or {},
    )


def to_window(row: models.WindowRow) -> records.WindowRecord:
    """One window."""
    return records.WindowRecord(
        index=row.window_index,
        first_timestamp_ms=row.first_timestamp_ms,
        last_timestamp_ms=row.last_timestamp_ms,
        size=row.size,
        detector=row.detector,
        statistic=row.statistic,
        threshold=row.threshold,
        p_value=row.p_value,
        drifted=row.drifted,
        estimated_accuracy=row.estimated_accuracy,
        accuracy_low=row.accuracy_low,
        accuracy_high=row.accuracy_high,
        accuracy_trusted=row.accuracy_trusted,
        labelled_accuracy=row.labelled_accuracy,
        labelled_count=row.labelled_count,
        effect_size=row.effect_size,
        scores=row.scores,
        cursor_start=cursor_from_json(row.cursor_start),
    )


def to_event(row: models.DriftEventRow) -> records.DriftEvent:
    """One drift event."""
    return records.DriftEvent(
        id=row.id,
        case_id=row.case_id,
        opened_case=row.opened_case,
        model_name=row.model_name,
        model_version=row.model_version,
        detector=row.detector,
        statistic=row.statistic,
        p_value=row.p_value,
        threshold=row.threshold,
        window_index=row.window_index,
        cursor_start=cursor_from_json(row.cursor_start),
        field_inputs_until_alert=row.field_inputs_until_alert,
        estimated_accuracy=row.estimated_accuracy,
        reference_accuracy=row.reference_accuracy,
        summary=row.summary,
        opened_ms=row.opened_ms,
        ended_ms=row.ended_ms,
        explanation=row.explanation,
    )


def to_notification(row: models.NotificationRow) -> records.Notification:
    """One message of the outbox."""
    return records.Notification(
        id=row.id,
        kind=row.kind,
        event_id=row.event_id,
        case_id=row.case_id,
        payload=row.payload,
        created_ms=row.created_ms,
        attempts=row.attempts,
        last_attempt_ms=row.last_attempt_ms,
        last_error=row.last_error,
        sent_ms=row.sent_ms,
    )


def to_case(row: models.CaseRow, event_id: int) -> records.Case:
    """One case; ``event_id`` is the event that opened it."""
    return records.Case(
        id=row.id,
        event_id=event_id,
        model_name=row.model_name,
        model_version=row.model_version,
        state=CaseState(row.state),
        reason=row.reason,
        note=row.note,
        attempt=row.attempt,
        planned_ms=row.planned_ms,
        budget=row.budget,
        acceptance_size=row.acceptance_size,
        cursor_start=cursor_from_json(row.cursor_start),
        pool_cursor=None if row.pool_cursor is None else cursor_from_json(row.pool_cursor),
        class_names=tuple(row.class_names),
        input_spec=row.input_spec,
        progress=row.progress,
        run_id=row.run_id,
        candidate_version=row.candidate_version,
        acceptance=row.acceptance,
        claimed_by=row.claimed_by,
        claimed_until_ms=row.claimed_until_ms,
        created_ms=row.created_ms,
        updated_ms=row.updated_ms,
        approval=to_approval(row),
    )


def to_approval(row: models.CaseRow) -> records.Approval | None:
    """The approval of a case, if somebody has approved it."""
    if row.approved_by is None or row.approved_ms is None or row.approved_version is None:
        return None
    return records.Approval(
        by=row.approved_by,
        at_ms=row.approved_ms,
        version=row.approved_version,
        moved_ms=row.approval_moved_ms,
        problem=row.approval_problem or "",
    )


def to_history(row: models.HistoryRow) -> records.HistoryEntry:
    """One move of a case."""
    return records.HistoryEntry(
        at_ms=row.at_ms,
        from_state=None if row.from_state is None else CaseState(row.from_state),
        to_state=CaseState(row.to_state),
        reason=row.reason,
        actor=row.actor,
    )


def to_task(row: task_models.TaskRow) -> task_records.Task:
    """One labelling task."""
    return task_records.Task(
        id=row.id,
        case_id=row.case_id,
        attempt=row.attempt,
        request_id=row.request_id,
        row=row.row,
        purpose=Purpose(row.purpose),
        rank=row.rank,
        region=row.region,
        position=row.position,
        state=TaskState(row.state),
        label=row.label,
        decided_by=row.decided_by,
        decided_ms=row.decided_ms,
        leased_to=row.leased_to,
        leased_until_ms=row.leased_until_ms,
        answers_wanted=row.answers_wanted,
        reason=row.reason,
    )


def to_answer(row: task_models.AnswerRow) -> task_records.Answer:
    """One labeller's answer."""
    return task_records.Answer(
        task_id=row.task_id,
        labeller=row.labeller,
        verdict=Verdict(row.verdict),
        label=row.label,
        source=row.source,
        at_ms=row.at_ms,
    )


def to_ground_truth(row: task_models.GroundTruthRow) -> task_records.GroundTruth:
    """One right answer from outside."""
    return task_records.GroundTruth(
        client_request_id=row.client_request_id,
        row=row.row,
        label=row.label,
        source=row.source,
        received_ms=row.received_ms,
    )


def to_audit_entry(row: models.AuditRow) -> records.AuditEntry:
    """One entry of the audit trail."""
    return records.AuditEntry(
        id=row.id,
        at_ms=row.at_ms,
        actor=row.actor,
        role=row.role,
        action=row.action,
        target=row.target,
        detail=row.detail,
    )
