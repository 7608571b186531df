"""One trace per drift event: the monitor begins it, the worker goes on with it."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import numpy as np

from fieldrepair_monitoring.event_trace import event_span
from fieldrepair_monitoring.metrics import MonitorMetrics
from fieldrepair_monitoring.monitor import Monitor
from fieldrepair_monitoring.settings import MonitorSettings
from fieldrepair_plugin.settings import WorkerSettings
from fieldrepair_plugin.worker import Worker
from fieldrepair_service.case_book import CaseState
from fieldrepair_service.tracing import open_tracing

if TYPE_CHECKING:
    from tests.plugin.conftest import Field
    from tests.tracing.conftest import Collector


def test_from_the_window_to_the_registered_version(
    field: Field, worker_settings: WorkerSettings, collector: Collector
) -> None:
    field.send(100, shifted=False)
    field.send(150)
    monitor_settings = MonitorSettings(
        state_dir=field.folder, window_size=50, detectors="mmd", drift_calibration_windows=250, monitor_threads=1
    )
    watching = open_tracing("monitor", collector.url)
    Monitor(monitor_settings, field.log, field.book, MonitorMetrics(), tracing=watching).round()
    watching.close()
    (event,) = field.book.events()

    working = open_tracing("worker", collector.url)
    worker = Worker(worker_settings, field.book, field.log, worker_id="test", stop=threading.Event(), tracing=working)
    while worker.round():
        pass
    field.answer(event.case_id)
    while worker.round():
        pass
    working.close()
    case = field.book.case(event.case_id)
    assert case.state is CaseState.ACCEPTED, case.reason

    windows = collector.named("judge window")
    assert [each.attributes["fieldrepair.window"] for each in windows] == [0, 1, 2, 3, 4]
    assert [each.attributes["fieldrepair.drifted"] for each in windows][:2] == [False, False]
    (raised,) = collector.named("drift event")
    ref = event_span(event)
    assert (raised.trace_id, raised.span_id, raised.parent_id) == (f"{ref.trace_id:032x}", f"{ref.span_id:016x}", "")
    assert raised.attributes["fieldrepair.case"] == case.id
    assert [link.span_id.hex() for link in raised.span.links] == [windows[event.window_index].span_id]
    assert raised.service == "fieldrepair-monitor"

    (planned,), (repaired,) = collector.named("plan case"), collector.named("repair case")
    for each in (planned, repaired):
        assert (each.service, each.trace_id, each.parent_id) == ("fieldrepair-worker", raised.trace_id, raised.span_id)
    assert planned.attributes["fieldrepair.budget"] == case.budget
    assert repaired.attributes["fieldrepair.state"] == "accepted"
    steps = [next(iter(collector.named(name))) for name in ("train", "judge", "register")]
    assert {each.parent_id for each in steps} == {repaired.span_id}
    assert steps[0].attributes["fieldrepair.run_id"] == case.run_id
    assert steps[1].attributes["fieldrepair.accepted"] is True
    assert steps[2].attributes["fieldrepair.candidate_version"] == case.candidate_version == "2"
    ends = [each.span.end_time_unix_nano for each in steps]
    assert ends == sorted(ends)
    assert np.all(np.diff([each.span.start_time_unix_nano for each in steps]) > 0)
