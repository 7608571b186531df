"""The case book: drift events, repair cases, labelling tasks and the monitor's checkpoints, in one SQL database."""

from fieldrepair_service.case_book.book import CaseBook, open_case_book
from fieldrepair_service.case_book.cases import CaseFields
from fieldrepair_service.case_book.evidence import MAX_ATTACHMENT_BYTES
from fieldrepair_service.case_book.labelling import LEASE_S
from fieldrepair_service.case_book.outbox import CANDIDATE_WAITING, DRIFT_EVENT_OPENED
from fieldrepair_service.case_book.records import (
    Approval,
    Attachment,
    AttachmentInfo,
    AuditEntry,
    Case,
    Checkpoint,
    Cursor,
    DriftEvent,
    HistoryEntry,
    JsonObject,
    NewDriftEvent,
    Notification,
    WindowRecord,
)
from fieldrepair_service.case_book.settling import GROUND_TRUTH
from fieldrepair_service.case_book.states import LEGAL, OPEN_STATES, CaseState, Purpose, TaskState, Verdict
from fieldrepair_service.case_book.task_records import (
    Agreement,
    Answer,
    GroundTruth,
    GroundTruthReceipt,
    ImportedAnswer,
    ImportReceipt,
    NewGroundTruth,
    NewTask,
    PurposeCounts,
    Task,
    TaskCounts,
)
from fieldrepair_service.case_book.trial_records import Trial, TrialKind, TrialState

__all__ = [
    "CANDIDATE_WAITING",
    "DRIFT_EVENT_OPENED",
    "GROUND_TRUTH",
    "LEASE_S",
    "LEGAL",
    "MAX_ATTACHMENT_BYTES",
    "OPEN_STATES",
    "Agreement",
    "Answer",
    "Approval",
    "Attachment",
    "AttachmentInfo",
    "AuditEntry",
    "Case",
    "CaseBook",
    "CaseFields",
    "CaseState",
    "Checkpoint",
    "Cursor",
    "DriftEvent",
    "GroundTruth",
    "GroundTruthReceipt",
    "HistoryEntry",
    "ImportReceipt",
    "ImportedAnswer",
    "JsonObject",
    "NewDriftEvent",
    "NewGroundTruth",
    "NewTask",
    "Notification",
    "Purpose",
    "PurposeCounts",
    "Task",
    "TaskCounts",
    "TaskState",
    "Trial",
    "TrialKind",
    "TrialState",
    "Verdict",
    "WindowRecord",
    "open_case_book",
]
