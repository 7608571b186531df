"""The case book as Prometheus metrics: how many cases there are, and whom those at work wait for, since when."""

from __future__ import annotations

import logging
from collections.abc import Generator, Iterable
from contextlib import contextmanager

from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from fieldrepair_monitoring.trial_metrics import trial_families
from fieldrepair_service.case_book import OPEN_STATES, Case, CaseBook, CaseState, TaskCounts
from fieldrepair_service.errors import StoreError

logger = logging.getLogger(__name__)

_CASE = ("model_name", "model_version")

WAITS_FOR = ("plan", "labels", "worker", "approval")
"""What a case at work can wait for: enough field inputs to plan it; people's answers; the worker; a person's yes."""


class CaseMetrics(Collector):
    """Reads the case book anew for each scrape; a book that does not answer shows as ``fieldrepair_case_book_up`` 0.

    Few series: a model version has at most one case at work.

    Args:
        book: the case book.
    """

    def __init__(self, book: CaseBook) -> None:
        self._book = book

    def describe(self) -> Iterable[Metric]:
        """Nothing: the registry shall not read the case book to learn the names."""
        return ()

    def collect(self) -> Iterable[Metric]:
        """One family after the other."""
        up = GaugeMetricFamily("fieldrepair_case_book_up", "1 if the case book answered this scrape.")
        try:
            families = self._families()
        except StoreError as error:
            logger.warning("the case book does not answer the scrape: %s", error)
            families = []
            up.add_metric((), 0)
        else:
            up.add_metric((), 1)
        return [up, *families]

    def _families(self) -> list[Metric]:
        counts = GaugeMetricFamily("fieldrepair_cases", "Repair cases, by state.", labels=("state",))
        for state, count in self._book.case_counts().items():
            counts.add_metric((str(state),), count)
        waiting = GaugeMetricFamily(
            "fieldrepair_case_waiting_since_timestamp_seconds",
            "Since when a case at work has waited, by what it waits for: plan, labels, worker or approval.",
            labels=(*_CASE, "waits_for"),
        )
        lease = GaugeMetricFamily(
            "fieldrepair_case_lease_expires_timestamp_seconds",
            "When the worker's hold on a case runs out unless it is renewed.",
            labels=_CASE,
        )
        tasks = GaugeMetricFamily(
            "fieldrepair_case_tasks", "Questions of a case at work, by their state.", labels=(*_CASE, "state")
        )
        at_work = [case for state in sorted(OPEN_STATES) for case in self._book.cases(state)]
        answered = self._book.task_counts_of(at_work)
        for case in at_work:
            names = (case.model_name, case.model_version)
            waits_for, since_ms = self._wait(case, answered[case.id])
            waiting.add_metric((*names, waits_for), since_ms / 1000)
            if case.claimed_until_ms is not None:
                lease.add_metric(names, case.claimed_until_ms / 1000)
            if case.state is CaseState.ANNOTATING and case.planned_ms is not None:
                counted = answered[case.id]
                tasks.add_metric((*names, "open"), counted.open)
                tasks.add_metric((*names, "labelled"), counted.labelled)
                tasks.add_metric((*names, "skipped"), counted.skipped)
        return [counts, waiting, lease, tasks, *trial_families(self._book)]

    def _wait(self, case: Case, counts: TaskCounts) -> tuple[str, int]:
        """What the case waits for, and since when."""
        if case.state is CaseState.ACCEPTED:
            return "approval", self._book.history(case.id)[-1].at_ms
        if case.state is CaseState.TRAINING or counts.ready:
            return "worker", case.updated_ms  # moves with every step of the training: the last sign of life
        if case.planned_ms is None:
            return "plan", self._book.history(case.id)[-1].at_ms
        return "labels", case.planned_ms


@contextmanager
def exported_cases(registry: CollectorRegistry, book: CaseBook) -> Generator[None]:
    """Export the case book's metrics until the block ends: nobody may read a book that was closed."""
    collector = CaseMetrics(book)
    registry.register(collector)
    try:
        yield
    finally:
        registry.unregister(collector)
