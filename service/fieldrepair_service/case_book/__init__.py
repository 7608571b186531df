"""The case book: drift events, repair cases, labelling tasks and the monitor's checkpoints, in one SQL database."""

from fieldrepair_service.case_book.book import CaseBook, open_case_book
from fieldrepair_service.case_book.cases import CaseFields
from fieldrepair_service.case_book.outbox import DRIFT_EVENT_OPENED
from fieldrepair_service.case_book.records import (
    Case,
    Checkpoint,
    Cursor,
    DriftEvent,
    HistoryEntry,
    NewDriftEvent,
    NewTask,
    Notification,
    PurposeCounts,
    Task,
    TaskCounts,
    WindowRecord,
)
from fieldrepair_service.case_book.states import LEGAL, OPEN_STATES, CaseState, Purpose, TaskState
from fieldrepair_service.case_book.tasks import LEASE_S

__all__ = [
    "DRIFT_EVENT_OPENED",
    "LEASE_S",
    "LEGAL",
    "OPEN_STATES",
    "Case",
    "CaseBook",
    "CaseFields",
    "CaseState",
    "Checkpoint",
    "Cursor",
    "DriftEvent",
    "HistoryEntry",
    "NewDriftEvent",
    "NewTask",
    "Notification",
    "Purpose",
    "PurposeCounts",
    "Task",
    "TaskCounts",
    "TaskState",
    "WindowRecord",
    "open_case_book",
]
