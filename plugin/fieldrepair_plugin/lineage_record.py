"""The part of a repair's lineage that MLflow itself does not keep: the drift event, the case and the labels.

It lies in the repair's run as ``repair/lineage.json``: lineage can be walked where the case book is not at hand.
"""

from __future__ import annotations

from typing import Any

from fieldrepair_plugin.acceptance import Verdict
from fieldrepair_plugin.field_window import FieldLogWindow
from fieldrepair_plugin.label_evidence import LabelEvidence
from fieldrepair_service.case_book import Case, DriftEvent

LINEAGE_FILE = "lineage.json"


def lineage_record(
    case: Case, event: DriftEvent, window: FieldLogWindow, labels: LabelEvidence, verdict: Verdict
) -> dict[str, Any]:
    """Plain dicts, lists, numbers and strings. Times are UTC epoch milliseconds."""
    return {
        "model_name": case.model_name,
        "parent_version": case.model_version,
        "case": {"id": case.id, "attempt": case.attempt, "opened_ms": case.created_ms, "budget": case.budget},
        "event": {
            "id": event.id,
            "opened_ms": event.opened_ms,
            "detector": event.detector,
            "statistic": event.statistic,
            "threshold": event.threshold,
            "p_value": event.p_value,
            "summary": event.summary,
            "estimated_accuracy": event.estimated_accuracy,
            "reference_accuracy": event.reference_accuracy,
        },
        "window": window.to_dict(),
        "labels": labels.to_json(),
        "verdict": {
            "accepted": verdict.accepted,
            "reasons": verdict.reasons,
            "repair_rate": None if verdict.repair_rate is None else verdict.repair_rate.value,
            "negative_flips": verdict.negative_flips,
            "p_value": verdict.p_value,
        },
    }
