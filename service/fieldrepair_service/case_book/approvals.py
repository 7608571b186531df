"""Approval of a candidate: a person asks for its promotion here, whoever can reach the registry moves the alias.

The registry's alias stays the truth: a case is promoted when the candidate takes the traffic, however that came about.
An approval is part of the case's ``progress``, which a retry clears.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

from fieldrepair_service.case_book import convert
from fieldrepair_service.case_book.audit import audit_row
from fieldrepair_service.case_book.cases import Cases, lock_case, read_case
from fieldrepair_service.case_book.models import CaseRow
from fieldrepair_service.case_book.records import Case
from fieldrepair_service.case_book.states import CaseState
from fieldrepair_service.errors import Conflict

_KEY = "approval"


@dataclass(frozen=True)
class Approval:
    """That somebody wants a candidate promoted, and what became of it."""

    by: str
    at_ms: int
    version: str
    moved_ms: int | None = None
    """When the alias was moved to the version; None while that waits."""
    problem: str = ""
    """Why it could not be moved so far."""


def approval_of(case: Case) -> Approval | None:
    """The approval of a case, if somebody has approved it."""
    found = case.progress.get(_KEY)
    if not isinstance(found, Mapping):
        return None
    stored = cast(Mapping[str, object], found)
    moved = stored.get("moved_ms")
    return Approval(
        by=str(stored.get("by", "")),
        at_ms=int(cast(int, stored.get("at_ms", 0))),
        version=str(stored.get("version", "")),
        moved_ms=None if moved is None else int(cast(int, moved)),
        problem=str(stored.get("problem", "")),
    )


class Approvals(Cases):
    """What the console asks for, and what the watcher of the registry answers."""

    def approve(self, case_id: int, actor: str, role: str, reason: str = "") -> Case:
        """Ask for the promotion of an accepted case's candidate, with an entry in the audit trail.

        Asking again changes nothing, unless the alias could not be moved: then it is tried again.

        Args:
            case_id: the case.
            actor: who approves.
            role: their role, for the audit trail.
            reason: why, if they say so.

        Raises:
            Conflict: the case is not accepted, or has no candidate.
            NotInCaseBook: if there is no such case.
        """
        now = self._now()
        with self._database.writing() as session:
            row = lock_case(session, case_id)
            if row.state != str(CaseState.ACCEPTED) or row.candidate_version is None:
                raise Conflict(f"only an accepted case with a candidate can be promoted, case {case_id} is {row.state}")
            stored = _stored(row)
            if stored is None or stored.get("problem"):
                _store(row, {"by": actor, "at_ms": now, "version": row.candidate_version})
                row.updated_ms = now
                detail = {
                    "model": row.model_name,
                    "version": row.candidate_version,
                    **({"reason": reason} if reason else {}),
                }
                session.add(audit_row(now, actor, role, "promote", f"case {case_id}", detail))
            session.flush()
            return read_case(session, case_id)

    def answer_approval(self, case_id: int, problem: str = "") -> Case:
        """Record that the alias was moved as approved, or why it could not be.

        Raises:
            Conflict: nobody has approved the case.
            NotInCaseBook: if there is no such case.
        """
        now = self._now()
        with self._database.writing() as session:
            row = lock_case(session, case_id)
            stored = _stored(row)
            if stored is None:
                raise Conflict(f"nobody has approved case {case_id}")
            _store(row, {**stored, "problem": problem, **({} if problem else {"moved_ms": now})})
            row.updated_ms = now
            session.flush()
            return read_case(session, case_id)


def _stored(row: CaseRow) -> Mapping[str, object] | None:
    found = row.progress.get(_KEY)
    return cast(Mapping[str, object], found) if isinstance(found, Mapping) else None


def _store(row: CaseRow, approval: Mapping[str, object]) -> None:
    # A new object: the database toolkit does not see changes inside one.
    row.progress = {**row.progress, _KEY: convert.json_object(approval)}
