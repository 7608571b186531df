"""The monitor as a process of its own: killed, stopped, asked for metrics."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from multiprocessing.context import ForkServerContext, ForkServerProcess
from typing import TYPE_CHECKING, cast

import httpx
import mlflow
import numpy as np
import pytest

from fieldrepair_monitoring.drift_run import EVENT_TAG, EXPERIMENT, event_key
from fieldrepair_monitoring.explainer import Explainer
from fieldrepair_monitoring.metrics import MonitorMetrics
from fieldrepair_monitoring.monitor import Monitor, run_monitor
from fieldrepair_monitoring.settings import MonitorSettings
from fieldrepair_service.case_book import CaseBook, DriftEvent, open_case_book
from fieldrepair_service.errors import ConfigurationError
from fieldrepair_service.field_log import FieldLog

if TYPE_CHECKING:
    from tests.monitoring.conftest import Digits, FieldWriter, Registered

MakeSettings = Callable[..., MonitorSettings]


@pytest.fixture(scope="session")
def processes() -> ForkServerContext:
    """Starts monitors from a process that has loaded torch, mlflow and alibi-detect once."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        [
            "fieldrepair_monitoring.monitor",
            "fieldrepair_monitoring.mmd",
            "mlflow.pyfunc",
            "mlflow.pytorch",
            "mlflow.store.model_registry.sqlalchemy_store",
            "mlflow.store.tracking.sqlalchemy_store",
        ]
    )
    return context


@pytest.fixture
def start(processes: ForkServerContext) -> Iterator[Callable[[MonitorSettings], ForkServerProcess]]:
    started: list[ForkServerProcess] = []

    def begin(settings: MonitorSettings) -> ForkServerProcess:
        process = processes.Process(target=run_monitor, args=(settings,))
        process.start()
        started.append(process)
        return process

    yield begin
    for process in started:
        if process.is_alive():
            process.kill()
        process.join()


@pytest.fixture
def book(settings: MakeSettings) -> Iterator[CaseBook]:
    with open_case_book(settings().case_book_url) as opened:
        yield opened


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline, "waited for two minutes"
        time.sleep(0.01)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def scrape(port: int) -> str:
    """What the monitor says of itself; nothing while it does not listen yet."""
    try:
        return httpx.get(f"http://127.0.0.1:{port}/metrics", trust_env=False).text
    except httpx.ConnectError:
        return ""


def told(event: DriftEvent) -> dict[str, object]:
    """What the explanation says, without the run it is in and without what rounding may change."""
    assert event.explanation is not None
    unlike = cast("list[dict[str, object]]", event.explanation["unlike"])
    same = {name: event.explanation[name] for name in ("summary", "classes", "world", "field_inputs", "pictures")}
    return {**same, "unlike": [(each["request_id"], each["row"], each["neighbour_index"]) for each in unlike]}


def runs_of(event: DriftEvent) -> list[object]:
    client = mlflow.MlflowClient()
    experiment = client.get_experiment_by_name(EXPERIMENT)
    assert experiment is not None
    return list(client.search_runs([experiment.experiment_id], f"tags.`{EVENT_TAG}` = '{event_key(event)}'"))


def kill(process: ForkServerProcess) -> None:
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()


@pytest.mark.timeout(400)
def test_a_monitor_killed_again_and_again_tells_the_same_story_once(
    digits: Digits,
    field: FieldWriter,
    registry: Registered,
    settings: MakeSettings,
    start: Callable[[MonitorSettings], ForkServerProcess],
    book: CaseBook,
    log: FieldLog,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    turned = np.ascontiguousarray(np.rot90(digits.field_x, axes=(2, 3)))
    for part in (digits.field_x[:160], turned[160:420], digits.field_x[420:640], turned[640:780]):
        field.write(part, per_request=4)
    # Two detectors with a short calibration: each start fits them anew. The second remembers earlier windows.
    made = settings(tracking_uri=registry.tracking_uri, detectors="mmd,trend", drift_calibration_windows=450)
    moments = random.Random(os.environ.get("FIELDREPAIR_KILL_SEED", "0"))

    for judged in (1, 5, 13):
        process = start(made)
        until(lambda count=judged: len(book.windows(registry.name, "1")) >= count)
        # Somewhere in what it does next: reading, judging, in the middle of a transaction, explaining.
        time.sleep(moments.uniform(0.0, 0.15))
        kill(process)
    explaining = start(made)
    until(lambda: book.attachments(book.cases()[0].id))
    kill(explaining)
    finishing = start(made.model_copy(update={"once": True}))
    finishing.join()
    assert finishing.exitcode == 0

    folder = tmp_path_factory.mktemp("uninterrupted")
    with open_case_book(f"sqlite:///{folder}/book.db") as other:
        Monitor(made, log, other, MonitorMetrics()).round()
        Explainer(made, log, other, MonitorMetrics()).round()
        assert len(other.windows(registry.name, "1")) == 15
        assert len(other.events()) == 2
        assert book.windows(registry.name, "1") == other.windows(registry.name, "1")
        timeless = [
            [
                replace(event, opened_ms=0, ended_ms=None if event.ended_ms is None else 0, explanation=None)
                for event in each.events()
            ]
            for each in (book, other)
        ]
        assert timeless[0] == timeless[1]
        for event, uninterrupted in zip(book.events(), other.events(), strict=True):
            assert told(event) == told(uninterrupted)
            assert len(runs_of(event)) == 1
        names = [[each.name for each in some.attachments(1)] for some in (book, other)]
        assert names[0] == names[1]
        assert len(names[0]) == 4
        assert len(book.cases()) == len(other.cases()) == 1
        assert len(book.pending_notifications()) == len(other.pending_notifications()) == 2
        ended, opened = book.checkpoint(registry.name, "1"), other.checkpoint(registry.name, "1")
        assert ended is not None
        assert opened is not None
        assert ended.cursor == opened.cursor


def test_sigterm_stops_it_and_metrics_are_served_until_then(
    digits: Digits,
    field: FieldWriter,
    registry: Registered,
    settings: MakeSettings,
    start: Callable[[MonitorSettings], ForkServerProcess],
    book: CaseBook,
) -> None:
    port = free_port()
    field.write(digits.field_x[:50])
    process = start(settings(tracking_uri=registry.tracking_uri, monitor_metrics_port=port))
    until(lambda: len(book.windows(registry.name, "1")) == 1)
    wanted = 'fieldrepair_monitor_windows_total{drifted="false",model_name="digits",model_version="1"} 1.0'
    until(lambda: wanted in scrape(port))
    assert "fieldrepair_case_book_up 1.0" in scrape(port)
    process.terminate()
    process.join(60)
    assert process.exitcode == 0


def test_once_without_anything_to_do_ends_at_once(
    registry: Registered, settings: MakeSettings, start: Callable[[MonitorSettings], ForkServerProcess]
) -> None:
    process = start(settings(tracking_uri=registry.tracking_uri, once=True))
    process.join(120)
    assert process.exitcode == 0


@pytest.mark.usefixtures("registry")
def test_a_port_in_use_is_named_with_the_option(settings: MakeSettings) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port: int = taken.getsockname()[1]
        with pytest.raises(ConfigurationError, match=f"127.0.0.1:{port}.*--monitor-metrics-port"):
            run_monitor(settings(monitor_metrics_port=port))


def test_a_registry_that_does_not_answer_fails_a_single_run_and_not_a_lasting_one(
    digits: Digits,
    field: FieldWriter,
    registry: Registered,
    settings: MakeSettings,
    start: Callable[[MonitorSettings], ForkServerProcess],
    book: CaseBook,
) -> None:
    field.write(digits.field_x[:50])
    nowhere = settings(tracking_uri="http://127.0.0.1:9", once=True)
    single = start(nowhere)
    single.join(120)
    assert single.exitcode == 1
    port = free_port()
    lasting = start(nowhere.model_copy(update={"once": False, "monitor_metrics_port": port}))
    until(lambda: 'fieldrepair_monitor_errors_total{part="registry"} 2.0' in scrape(port))
    assert 'stream_failing{error="RegistryError",model_name="digits",model_version="1"} 1.0' in scrape(port)
    lasting.terminate()
    lasting.join(60)
    assert lasting.exitcode == 0
    assert book.windows(registry.name, "1") == []
