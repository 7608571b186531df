"""Trials of candidates beside their champion: begun, reported on while they run, ended."""

from __future__ import annotations

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from fieldrepair_service.case_book import convert
from fieldrepair_service.case_book.database import BookPart, retry_once
from fieldrepair_service.case_book.records import JsonObject
from fieldrepair_service.case_book.trial_models import TrialRow
from fieldrepair_service.case_book.trial_records import Trial, TrialKind, TrialState
from fieldrepair_service.errors import InputError, NotInCaseBook


class Trials(BookPart):
    """Shadows and canaries. Of each kind, a model has at most one that runs."""

    def begin_trial(self, kind: TrialKind, model_name: str, champion_version: str, candidate_version: str) -> Trial:
        """The running trial of a candidate beside a champion; begun if there is none.

        Another one of this kind and model that still runs is ended: whoever ran it is gone.
        """
        return retry_once(lambda: self._begin(kind, model_name, champion_version, candidate_version))

    def report_trial(self, trial_id: int, report: JsonObject) -> None:
        """Store what was measured so far, in place of what was stored before. A trial that has ended stays as it is.

        Raises:
            NotInCaseBook: if there is no such trial.
            InputError: something in it is not JSON.
        """
        stored = convert.json_object(report)
        with self._database.writing() as session:
            row = _row(session, trial_id)
            if row.state == TrialState.RUNNING:
                row.report, row.updated_ms = stored, self._now()

    def end_trial(self, trial_id: int, state: TrialState, reason: str = "", report: JsonObject | None = None) -> Trial:
        """End a trial. One that has ended already keeps its state, and only its report may change.

        Raises:
            InputError: running is no end.
            NotInCaseBook: if there is no such trial.
        """
        if state is TrialState.RUNNING:
            raise InputError(f"trial {trial_id}: running is no end")
        stored = None if report is None else convert.json_object(report)
        now = self._now()
        with self._database.writing() as session:
            row = _row(session, trial_id)
            if stored is not None:
                row.report, row.updated_ms = stored, now
            if row.state == TrialState.RUNNING:
                _end(row, state, reason, now)
            session.flush()
            return _to_trial(row)

    def trials(
        self,
        kind: TrialKind | None = None,
        model_name: str | None = None,
        candidate_version: str | None = None,
        state: TrialState | None = None,
        *,
        limit: int = 100,
    ) -> list[Trial]:
        """Trials, newest first."""
        query = select(TrialRow).order_by(TrialRow.id.desc()).limit(limit)
        if kind is not None:
            query = query.where(TrialRow.kind == str(kind))
        if model_name is not None:
            query = query.where(TrialRow.model_name == model_name)
        if candidate_version is not None:
            query = query.where(TrialRow.candidate_version == candidate_version)
        if state is not None:
            query = query.where(TrialRow.state == str(state))
        with self._database.reading() as session:
            return [_to_trial(row) for row in session.scalars(query)]

    def trial_counts(self, kind: TrialKind) -> dict[TrialState, int]:
        """How many trials of a kind are in each state, 0 where there are none."""
        query = select(TrialRow.state, func.count()).where(TrialRow.kind == str(kind)).group_by(TrialRow.state)
        with self._database.reading() as session:
            found = {str(state): int(count) for state, count in session.execute(query)}
        return {state: found.get(str(state), 0) for state in TrialState}

    def _begin(self, kind: TrialKind, model_name: str, champion_version: str, candidate_version: str) -> Trial:
        now = self._now()
        with self._database.writing() as session:
            running = session.scalar(
                select(TrialRow).where(
                    TrialRow.kind == str(kind),
                    TrialRow.model_name == model_name,
                    TrialRow.state == str(TrialState.RUNNING),
                )
            )
            if running is not None:
                if (running.champion_version, running.candidate_version) == (champion_version, candidate_version):
                    return _to_trial(running)
                state = TrialState.ENDED if kind is TrialKind.SHADOW else TrialState.CANCELLED
                _end(running, state, f"version {candidate_version} is tried beside version {champion_version} now", now)
                session.flush()
            row = TrialRow(
                kind=str(kind),
                state=str(TrialState.RUNNING),
                model_name=model_name,
                champion_version=champion_version,
                candidate_version=candidate_version,
                reason="",
                report={},
                started_ms=now,
                updated_ms=now,
            )
            session.add(row)
            session.flush()
            return _to_trial(row)


def _row(session: Session, trial_id: int) -> TrialRow:
    row = session.get(TrialRow, trial_id, with_for_update=True)
    if row is None:
        raise NotInCaseBook(f"there is no trial {trial_id}")
    return row


def _end(row: TrialRow, state: TrialState, reason: str, now: int) -> None:
    row.state, row.reason = str(state), convert.storable(reason)
    row.updated_ms = row.ended_ms = now


def _to_trial(row: TrialRow) -> Trial:
    return Trial(
        id=row.id,
        kind=TrialKind(row.kind),
        state=TrialState(row.state),
        model_name=row.model_name,
        champion_version=row.champion_version,
        candidate_version=row.candidate_version,
        reason=row.reason,
        report=row.report,
        started_ms=row.started_ms,
        updated_ms=row.updated_ms,
        ended_ms=row.ended_ms,
    )
