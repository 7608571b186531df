"""Every error the service raises on purpose, in one tree.

FieldRepairError
├── ConfigurationError          a setting is missing or cannot work
├── NotWell                     a part does not answer, or says that it is not well
├── InputError                  what came in is not what was expected
│   ├── DecodeError             a request or answer body cannot be read as field inputs
│   ├── UnknownClass            a label is none of the case's classes
│   ├── BadUpload               uploaded labels are not of the expected form; names the line
│   └── BodyTooLarge            a request body is larger than the control port takes
└── StoreError                  a store (spool, field log, case book) cannot do what was asked
    ├── RowsNotFound            the field log has no row under the keys that were asked for
    ├── SpoolError              the spool cannot be opened, read or written
    ├── StoreUnavailable        the case book's database does not answer; trying again may help
    ├── SchemaMismatch          the case book was written by another version of fieldrepair
    ├── NotInCaseBook           no case, task, event or notification has this id
    ├── ImageUnavailable        a task's field input cannot be shown as an image
    └── Conflict                the case book's present state does not allow what was asked
        ├── IllegalTransition   a case cannot go from this state to that one
        ├── CaseNotAnnotating   labels and plans are taken only while a case is annotating
        ├── CaseAlreadyPlanned  a case's tasks are chosen once
        ├── CaseAlreadyOpen     this model version already has a case at work
        ├── AlreadyLabelled     somebody labelled this task first
        ├── NotYourTask         only the labeller who decided a task may take that back
        ├── WindowsOutOfOrder   windows were recorded before, or some between are missing
        └── EventAlreadyOpen    this model version already has an open drift event

The monitoring and plugin packages derive theirs from :class:`FieldRepairError`, so one ``except`` catches all.
"""

from __future__ import annotations

from collections.abc import Sequence


class FieldRepairError(Exception):
    """The root: everything fieldrepair raises on purpose."""


class ConfigurationError(FieldRepairError):
    """A setting is missing or cannot work; the message names it and the remedy."""


class NotWell(FieldRepairError):  # noqa: N818 - says what is the case, as the names below do
    """A part does not answer, or says that it is not well; the message quotes it."""


class ServerEnded(FieldRepairError):  # noqa: N818
    """A part's server stopped by itself, so the part is no use any more."""


class InputError(FieldRepairError):
    """What came in is not what was expected; the message says both."""


class DecodeError(InputError):
    """A request or answer body cannot be read as field inputs.

    Args:
        message: what came and what was expected.
        reason: the same in one word, as the metrics count it; one of :mod:`fieldrepair_service.drops`.
    """

    def __init__(self, message: str, *, reason: str = "undecodable") -> None:
        super().__init__(message)
        self.reason = reason


class StoreError(FieldRepairError):
    """A store (spool, field log or case book) cannot do what was asked."""


class RowsNotFound(StoreError):  # noqa: N818 - named like a KeyError: it says what is missing
    """The field log has no row under the keys that were asked for; the message names them.

    Attributes:
        missing: every (request_id, row) that is not there.
    """

    def __init__(self, message: str, missing: Sequence[tuple[str, int]] = ()) -> None:
        self.missing = tuple(missing)
        super().__init__(message)


class SpoolError(StoreError):
    """The spool cannot be opened, read or written."""


# The names below say what is the case, as the labelling page shows them; hence no suffix "Error".


class UnknownClass(InputError):  # noqa: N818
    """A label is none of the case's classes; the message lists them."""


class BadUpload(InputError):  # noqa: N818
    """Uploaded labels are not of the expected form, or contradict what is stored; nothing of them is kept.

    Attributes:
        line: the line of the upload that is wrong, counted from 1.
    """

    def __init__(self, line: int, problem: str) -> None:
        self.line = line
        super().__init__(f"line {line}: {problem}; nothing was imported")


class BodyTooLarge(InputError):  # noqa: N818
    """A request body is larger than the control port takes."""


class StoreUnavailable(StoreError):  # noqa: N818
    """The case book's database does not answer, or is busy for too long; trying again may help."""


class SchemaMismatch(StoreError):  # noqa: N818
    """The case book was written by another version of fieldrepair; the message names both schemas and the remedy."""


class NotInCaseBook(StoreError):  # noqa: N818
    """No case, task, event or notification has this id."""


class ImageUnavailable(StoreError):  # noqa: N818
    """A task's field input cannot be shown as an image; the message says why."""


class Conflict(StoreError):  # noqa: N818
    """The case book's present state does not allow what was asked."""


class IllegalTransition(Conflict):
    """A case cannot go from this state to that one."""

    def __init__(self, case_id: int, current: str, to: str, legal: Sequence[str]) -> None:
        self.current, self.to, self.legal = current, to, tuple(legal)
        allowed = f"legal from there: {', '.join(legal)}" if legal else f"{current} is final"
        super().__init__(f"case {case_id} cannot go from {current} to {to}; {allowed}")


class CaseNotAnnotating(Conflict):
    """Labels and plans are taken only while a case is annotating."""


class CaseAlreadyPlanned(Conflict):
    """A case's tasks are chosen once per attempt."""


class CaseAlreadyOpen(Conflict):
    """This model version already has a case at work."""


class AlreadyLabelled(Conflict):
    """Somebody labelled this task first; carries what is stored.

    Attributes:
        label: index of the stored class.
        class_name: the stored class.
        labeller: who gave it.
    """

    def __init__(self, task_id: int, *, label: int, class_name: str, labeller: str) -> None:
        self.label, self.class_name, self.labeller = label, class_name, labeller
        super().__init__(f"task {task_id} already has the label {class_name!r} from {labeller!r}")


class NotYourTask(Conflict):
    """Only the labeller who decided a task may take that back."""


class WindowsOutOfOrder(Conflict):
    """Windows were recorded before, or windows between the last recorded one and these are missing."""


class EventAlreadyOpen(Conflict):
    """This model version already has an open drift event."""
