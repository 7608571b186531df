"""Answers given elsewhere, Label Studio or a CSV file say: all of them are stored, or none."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy.orm import Session

from fieldrepair_service.case_book.audit import audit_row
from fieldrepair_service.case_book.cases import lock_case
from fieldrepair_service.case_book.labelling import Labelling, class_index, lock_task, require_name
from fieldrepair_service.case_book.states import Verdict
from fieldrepair_service.case_book.task_records import ImportedAnswer, ImportReceipt
from fieldrepair_service.errors import BadUpload, Conflict, InputError, NotInCaseBook


class Importing(Labelling):
    """Imports of answers."""

    def import_answers(
        self, case_id: int, answers: Sequence[ImportedAnswer], *, source: str, actor: str, role: str
    ) -> ImportReceipt:
        """Store answers as if their labellers had given them here, all in one transaction.

        An answer that is stored already, or that agrees with the label its task has, changes nothing.

        Args:
            case_id: the case.
            answers: in the order of the upload.
            source: where they come from: "label-studio", "csv".
            actor: who imports them.
            role: the role they have.

        Raises:
            BadUpload: an answer that cannot be stored; names its line. Nothing is stored.
            NotInCaseBook: if there is no such case.
        """
        stored = 0
        with self._database.writing() as session:
            lock_case(session, case_id)
            for answer in answers:
                try:
                    stored += self._import(session, case_id, answer, source, role)
                except (InputError, NotInCaseBook, Conflict) as error:  # noqa: PERF203  (each says its line)
                    raise BadUpload(answer.line, str(error)) from error
            detail = {"source": source, "stored": stored, "repeated": len(answers) - stored}
            session.add(audit_row(self._now(), actor, role, "import", f"case {case_id}", detail))
        return ImportReceipt(stored=stored, repeated=len(answers) - stored)

    def _import(self, session: Session, case_id: int, answer: ImportedAnswer, source: str, role: str) -> bool:
        """Store one answer; False if there was nothing to store."""
        require_name(answer.labeller)
        case, task = lock_task(session, answer.task_id)
        if case.id != case_id:
            raise NotInCaseBook(f"task {answer.task_id} is one of case {case.id}, not of case {case_id}")
        label = None if answer.label is None else class_index(answer.label, case.class_names)
        if label is not None and task.label == label:
            return False  # whoever said so first: the labels agree
        verdict = Verdict.LABEL if label is not None else Verdict.NOT_SURE if answer.not_sure else Verdict.SKIP
        return self._answer(session, case, task, answer.labeller, verdict, label, source, role)
