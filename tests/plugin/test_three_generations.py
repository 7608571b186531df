"""A repaired version meets a new shift and is repaired in turn: three generations, with real monitor and worker."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest
from mlflow import MlflowClient

from fieldrepair_monitoring.handover import load_handover
from fieldrepair_monitoring.metrics import MonitorMetrics
from fieldrepair_monitoring.monitor import Monitor
from fieldrepair_monitoring.settings import MonitorSettings
from fieldrepair_plugin.promotion import settle_promotion
from fieldrepair_plugin.settings import WorkerSettings
from fieldrepair_plugin.worker import Worker
from fieldrepair_service.case_book import Case, CaseState
from tests.plugin.conftest import log_versions

if TYPE_CHECKING:
    from tests.plugin.conftest import Field

pytestmark = pytest.mark.timeout(300)


def test_three_generations(field: Field, worker_settings: WorkerSettings) -> None:
    # A network with room for several worlds, and a wide margin: this is about the chain, and classes are small here.
    field.name = f"wide-{field.name}"
    log_versions(field.name, 1, hidden=128)
    settings = worker_settings.model_copy(update={"epochs": 12, "margin": 0.3})
    monitor = Monitor(
        MonitorSettings(state_dir=field.folder, window_size=50, model_name=field.name),
        field.log,
        field.book,
        MonitorMetrics(),
    )
    worker = Worker(settings, field.book, field.log, worker_id="worker", stop=threading.Event())
    client = MlflowClient()
    for generation, quadrant in enumerate((0, 1, 2), 1):
        assert field.version == str(generation)
        case = repaired(field, monitor, worker, quadrant)
        assert case.state is CaseState.ACCEPTED, case.reason
        assert case.model_version == field.version
        candidate = str(case.candidate_version)
        assert candidate == str(generation + 1)
        entry = client.get_model_version(field.name, candidate)
        assert entry.tags["fieldrepair.parent_version"] == field.version
        # One world more than its parent: the field that it was repaired for.
        assert len(load_handover(field.name, candidate).reference.worlds) == generation + 1

        client.set_registered_model_alias(field.name, "champion", candidate)
        assert f"case {case.id} is promoted" in settle_promotion(field.book, field.name, candidate, field.version)
        field.version = candidate
        # What its parent was alarmed by is part of what it knows.
        field.send(200, quadrant=quadrant)
        assert monitor.round() == []
        assert field.book.open_event(field.name, candidate) is None
        checkpoint = field.book.checkpoint(field.name, candidate)
        assert checkpoint is not None
        assert checkpoint.next_window_index == 4
    assert [case.state for case in field.book.cases()] == [CaseState.PROMOTED] * 3


def repaired(field: Field, monitor: Monitor, worker: Worker, quadrant: int) -> Case:
    """The light falls on another quadrant: an event, a case, labels, a verdict."""
    field.send(300, quadrant=quadrant)
    assert monitor.round() == []
    event = field.book.open_event(field.name, field.version)
    assert event is not None
    assert worker.round()
    field.answer(event.case_id)
    assert worker.round()
    return field.book.case(event.case_id)
