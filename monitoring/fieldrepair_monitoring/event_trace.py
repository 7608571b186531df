"""The trace of a drift event: begun by the monitor, gone on with by the worker, days later and elsewhere.

Its ids follow from the event's key in the case book, so nothing about traces has to be stored.
"""

from __future__ import annotations

from fieldrepair_monitoring.drift_run import event_key
from fieldrepair_service.case_book import DriftEvent
from fieldrepair_service.tracing import SpanRef


def event_span(event: DriftEvent) -> SpanRef:
    """The span of a drift event, whether or not anybody recorded it."""
    return SpanRef.named(event_key(event))
