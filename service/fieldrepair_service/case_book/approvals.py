"""Approval of a candidate: a person asks for its promotion here, whoever can reach the registry moves the alias.

The registry's alias stays the truth: a case is promoted when the candidate takes the traffic, however that came about.
An approval belongs to the attempt that made the candidate: a retry clears it.
"""

from __future__ import annotations

from fieldrepair_service.case_book import convert
from fieldrepair_service.case_book.audit import audit_row
from fieldrepair_service.case_book.cases import Cases, lock_case, read_case
from fieldrepair_service.case_book.records import Case
from fieldrepair_service.case_book.states import CaseState
from fieldrepair_service.errors import Conflict


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
            stored = convert.to_approval(row)
            if stored is None or stored.problem:
                row.approved_by, row.approved_ms = convert.storable(actor), now
                row.approved_version = row.candidate_version
                row.approval_moved_ms = row.approval_problem = None
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
            if convert.to_approval(row) is None:
                raise Conflict(f"nobody has approved case {case_id}")
            row.approval_problem = convert.storable(problem) or None
            if not problem:
                row.approval_moved_ms = now
            row.updated_ms = now
            session.flush()
            return read_case(session, case_id)
