from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

import mlflow
import numpy as np
import pytest
from mlflow import pytorch as mlflow_pytorch
from torch import nn

from fieldrepair_monitoring.errors import HandOverMissingError, ModelVersionMissingError
from fieldrepair_monitoring.metrics import MonitorMetrics
from fieldrepair_monitoring.monitor import Monitor
from fieldrepair_monitoring.settings import MonitorSettings
from fieldrepair_monitoring.watched_version import WatchedVersion
from fieldrepair_service.case_book import CaseBook, CaseState, open_case_book
from fieldrepair_service.field_log import FieldLog
from fieldrepair_service.inputs import ImageInput

if TYPE_CHECKING:
    from fieldrepair_monitoring.features import Features
    from tests.monitoring.conftest import Digits, FieldWriter, Images, Registered

pytestmark = pytest.mark.usefixtures("registry")

MakeSettings = Callable[..., MonitorSettings]


def turned(images: Images) -> Images:
    """The scanner was mounted sideways: the network is right on about a fifth."""
    return np.ascontiguousarray(np.rot90(images, axes=(2, 3)))


@pytest.fixture
def book(tmp_path: Path) -> Iterator[CaseBook]:
    with open_case_book(f"sqlite:///{tmp_path}/state/case_book.db") as opened:
        yield opened


@pytest.fixture
def metrics() -> MonitorMetrics:
    return MonitorMetrics()


@pytest.fixture
def monitor(settings: MakeSettings, log: FieldLog, book: CaseBook, metrics: MonitorMetrics) -> Monitor:
    return Monitor(settings(), log, book, metrics)


def sample(metrics: MonitorMetrics, name: str, version: str = "1", **labels: str) -> float | None:
    labels = {"model_name": "digits", "model_version": version, **labels}
    return metrics.registry.get_sample_value(f"fieldrepair_monitor_{name}", labels)


def test_clean_field_inputs_raise_nothing(
    digits: Digits, field: FieldWriter, monitor: Monitor, book: CaseBook, metrics: MonitorMetrics, network: nn.Module
) -> None:
    field.write(digits.field_x[:780], per_request=3)
    assert monitor.round() == []
    windows = book.windows("digits", "1")
    assert [window.index for window in windows] == list(range(15))
    assert not any(window.drifted for window in windows)
    assert book.events() == []
    assert sample(metrics, "windows_total", drifted="false") == 15
    assert sample(metrics, "event_open") == 0
    checkpoint = book.checkpoint("digits", "1")
    assert checkpoint is not None
    assert checkpoint.cursor == {"spool-1": (250, 2)}, "750 inputs; the 30 that fill no window wait"


def test_the_estimate_follows_the_accuracy(digits: Digits, registered: Registered, settings: MakeSettings) -> None:
    """Also where the network is wrong and sure of it, as on turned scans."""
    from fieldrepair_monitoring.handover import load_handover, load_module
    from fieldrepair_monitoring.served_model import ServedModel

    watched = WatchedVersion.load(registered.name, registered.version, settings())
    model = ServedModel(load_module(registered.name, registered.version), load_handover(registered.name, "1"))
    upright = watched.judge(digits.field_x).estimated_accuracy
    assert upright == pytest.approx(float((model.scores(digits.field_x).argmax(1) == digits.field_y).mean()), abs=0.04)
    assert float((model.scores(turned(digits.field_x)).argmax(1) == digits.field_y).mean()) < 0.3
    assert watched.judge(turned(digits.field_x)).estimated_accuracy < 0.7
    assert watched.reference_accuracy > 0.9


def test_a_shift_opens_one_event_and_one_case_where_it_began(
    digits: Digits, field: FieldWriter, monitor: Monitor, book: CaseBook, metrics: MonitorMetrics
) -> None:
    field.write(digits.field_x[:150])
    field.write(turned(digits.field_x[150:350]))
    monitor.round()
    [event] = book.events()
    assert (event.model_name, event.model_version, event.detector) == ("digits", "1", "mmd")
    assert event.window_index == 4, "the second of the turned windows confirms the first"
    assert event.cursor_start == {"spool-1": (150, 0)}, "just before the first turned scan"
    assert event.field_inputs_until_alert == 100
    assert event.p_value == pytest.approx(1 / 501)
    assert event.statistic > event.threshold
    assert event.estimated_accuracy is not None
    assert event.reference_accuracy is not None
    assert event.estimated_accuracy < event.reference_accuracy - 0.05
    assert event.summary.startswith(
        f"MMD {event.statistic:.4f} > {event.threshold:.4f} (p = 0.002 < 0.005) in 2 of the last 3 windows of 50 "
        f"field inputs; estimated accuracy {event.estimated_accuracy:.0%} against "
        f"{event.reference_accuracy:.0%} on the reference, which cannot be trusted: the estimates are "
    )
    assert book.windows("digits", "1")[event.window_index].accuracy_trusted is False
    [case] = book.cases()
    assert (case.id, case.state, case.class_names) == (event.case_id, CaseState.ANNOTATING, tuple("0123456789"))
    assert ImageInput.model_validate(case.input_spec) == ImageInput(height=8, width=8)
    [notification] = book.pending_notifications()
    assert notification.event_id == event.id
    assert sample(metrics, "event_open") == 1
    assert sample(metrics, "drift_events_total") == 1

    field.write(turned(digits.field_x[350:500]))
    monitor.round()
    assert len(book.events()) == 1, "the same shift"

    field.write(digits.field_x[500:600])
    monitor.round()
    assert book.open_event("digits", "1") is not None, "two calm windows are not yet three"
    field.write(digits.field_x[600:650])
    monitor.round()
    assert book.open_event("digits", "1") is None
    assert sample(metrics, "event_open") == 0

    field.write(turned(digits.field_x[:100]))
    monitor.round()
    assert [event.id for event in book.events()] == [2, 1], "another shift"
    assert len(book.cases()) == 1, "the case is still at work"


def test_dimmed_scans_raise_an_alert(digits: Digits, field: FieldWriter, monitor: Monitor, book: CaseBook) -> None:
    field.write((digits.field_x[:150] * 0.25).astype(np.float32))
    monitor.round()
    [event] = book.events()
    assert event.window_index == 1
    assert event.cursor_start == {}


def test_a_shift_that_does_no_harm_shows_in_metrics_only(
    digits: Digits, field: FieldWriter, settings: MakeSettings, log: FieldLog, book: CaseBook, metrics: MonitorMetrics
) -> None:
    """Only sixes: nothing a model that knows sixes could not do."""
    sixes = np.concatenate([digits.field_x[digits.field_y == 6], digits.val_x[digits.val_y == 6]])[:100]
    field.write(sixes)
    Monitor(settings(), log, book, metrics).round()
    assert [window.drifted for window in book.windows("digits", "1")] == [True, True]
    assert book.events() == []
    assert sample(metrics, "shift_without_harm") == 1

    other = replace(field, writer="spool-2")
    other.write(sixes)
    Monitor(settings(require_harm=False), log, book, metrics).round()
    assert len(book.events()) == 1


def test_a_version_stays_calm_in_every_world_it_was_validated_on(
    digits: Digits,
    network: nn.Module,
    field: FieldWriter,
    settings: MakeSettings,
    log: FieldLog,
    book: CaseBook,
    metrics: MonitorMetrics,
) -> None:
    from fieldrepair_plugin import log_model

    known = replace(
        digits.reference,
        val_x=np.concatenate([digits.val_x, turned(digits.train_x[:60])]),
        val_y=np.concatenate([digits.val_y, digits.train_y[:60]]),
        val_world=np.repeat([0, 1], [400, 60]),
        normal_x=turned(digits.train_x[60:300]),
        normal_world=np.ones(240, dtype=np.int64),
    )
    info = log_model(network, reference=known, registered_model_name="worlds", pip_requirements=["torch"])
    field.name, field.version = "worlds", str(info.version)
    field.write(digits.field_x[:150])
    field.write(turned(digits.field_x[150:300]))
    field.write((digits.field_x[300:450] * 0.25).astype(np.float32))
    Monitor(settings(require_harm=False), log, book, metrics).round()
    drifted = [window.drifted for window in book.windows("worlds", field.version)]
    assert drifted == [False] * 6 + [True] * 3
    watched = WatchedVersion.load("worlds", field.version, settings())
    assert watched.judge(digits.field_x[:100]).world == 0
    assert watched.judge(turned(digits.field_x[:100])).world == 1

    # A detector with a memory: from one world to the other and back is no drift either, somewhere else is.
    remembering = WatchedVersion.load("worlds", field.version, settings(detectors="trend"))
    generator = np.random.default_rng(0)
    memory: Mapping[str, str] = {}
    seen: list[bool] = []
    for world in [0] * 14 + [1] * 10 + [0] * 10 + [2] * 3:
        plain = digits.field_x[generator.choice(600, 50, replace=False)]
        inputs = (plain, turned(plain), (plain * 0.25).astype(np.float32))[world]
        verdict = remembering.judge(inputs, memory)
        memory = verdict.memory
        seen.append(verdict.drifted)
    assert not any(seen[:34])
    assert any(seen[34:])


def test_the_detector_stands_on_held_out_inputs(
    digits: Digits, network: nn.Module, settings: MakeSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With 400 validation inputs the training inputs are left alone; with 120 they fill up to 200."""
    from fieldrepair_monitoring.handover import HandOver
    from fieldrepair_monitoring.served_model import ServedModel

    fitted: list[int] = []

    def note(_self: object, reference: Features) -> None:
        fitted.append(len(reference))

    monkeypatch.setattr("fieldrepair_monitoring.detectors.mmd.MmdDetector.fit", note)
    for reference in (
        digits.reference,
        replace(
            digits.reference, val_x=digits.val_x[:120], val_y=digits.val_y[:120], val_world=np.zeros(120, np.int64)
        ),
    ):
        handover = HandOver(ImageInput(height=8, width=8), tuple("0123456789"), "8", "logits", reference, {0: 0.9})
        WatchedVersion(handover, ServedModel(network, handover), settings())
    WatchedVersion(handover, ServedModel(network, handover), settings(drift_reference_size=150))
    assert fitted == [400, 200, 150]


def test_several_detectors_make_one_decision(
    digits: Digits, field: FieldWriter, settings: MakeSettings, log: FieldLog, book: CaseBook
) -> None:
    field.write(digits.field_x[:150])
    field.write(turned(digits.field_x[150:250]))
    chosen = settings(detectors="mmd,uncertainty", drift_calibration_windows=600)
    Monitor(chosen, log, book, MonitorMetrics()).round()
    windows = book.windows("digits", "1")
    assert [window.drifted for window in windows] == [False] * 3 + [True] * 2
    for window in windows:
        assert window.scores is not None
        assert set(window.scores) == {"mmd", "uncertainty"}
        assert window.detector in window.scores
        score = cast("dict[str, float]", window.scores[window.detector])
        assert (score["statistic"], score["effect_size"]) == (window.statistic, window.effect_size)
        assert window.p_value == pytest.approx(min(2 * score["p_value"], 1.0)), "adjusted for two detectors"
        assert window.accuracy_low is not None
        assert window.accuracy_high is not None
        assert window.estimated_accuracy is not None
        assert window.accuracy_low <= window.estimated_accuracy <= window.accuracy_high
        assert window.accuracy_trusted is not None
    assert len(book.events()) == 1


def test_no_new_event_while_it_cools_down(
    digits: Digits, field: FieldWriter, settings: MakeSettings, log: FieldLog, book: CaseBook
) -> None:
    """Shift, calm for three windows, and the shift again."""
    field.write(turned(digits.field_x[:100]))
    field.write(digits.field_x[100:250])
    field.write(turned(digits.field_x[250:350]))
    Monitor(settings(drift_cooldown_seconds=3600), log, book, MonitorMetrics()).round()
    [event] = book.events()
    assert event.ended_ms is not None
    field.write(turned(digits.field_x[350:400]))
    Monitor(settings(), log, book, MonitorMetrics()).round()
    assert len(book.events()) == 2, "it is still there when nothing holds it back any more"


def test_a_change_of_detector_is_recorded_and_carries_on(
    digits: Digits, field: FieldWriter, settings: MakeSettings, log: FieldLog, book: CaseBook
) -> None:
    field.write(digits.field_x[:150])
    Monitor(settings(), log, book, MonitorMetrics()).round()
    field.write(turned(digits.field_x[150:250]))
    Monitor(settings(detectors="frouros_mmd"), log, book, MonitorMetrics()).round()
    windows = book.windows("digits", "1")
    assert [window.detector for window in windows] == ["mmd"] * 3 + ["frouros_mmd"] * 2
    [event] = book.events()
    assert event.detector == "frouros_mmd"
    assert event.p_value == pytest.approx(1 / 501)
    assert event.summary.startswith(f"FROUROS MMD {event.statistic:.4f} > {event.threshold:.4f} (p = 0.002 < 0.005)")


def test_a_monitor_that_starts_anew_for_every_window_decides_the_same(
    digits: Digits, field: FieldWriter, settings: MakeSettings, log: FieldLog, tmp_path: Path
) -> None:
    story = np.concatenate([digits.field_x[:120], turned(digits.field_x[120:300]), digits.field_x[300:600]])
    results: list[object] = []
    for name, step in (("at once", 600), ("in dribs", 37)):
        own = FieldLog.open(tmp_path / name / "log")
        writer = replace(field, log=own)
        with open_case_book(f"sqlite:///{tmp_path / name}/book.db") as book:
            for start in range(0, len(story), step):
                writer.write(story[start : start + step])
                chosen = settings(detectors="mmd,trend")
                Monitor(chosen, own, book, MonitorMetrics()).round()
            checkpoint = book.checkpoint("digits", "1")
            assert checkpoint is not None
            assert set(checkpoint.memory) == {"0/trend"}
            results.append(
                (
                    checkpoint.memory,
                    book.windows("digits", "1"),
                    [replace(event, opened_ms=0, ended_ms=event.ended_ms and 0) for event in book.events()],
                )
            )
    assert results[0] == results[1]


def test_two_monitors_on_one_case_book_record_every_window_once(
    digits: Digits, field: FieldWriter, settings: MakeSettings, book: CaseBook, tmp_path: Path
) -> None:
    field.write(digits.field_x[:200])
    field.write(turned(digits.field_x[200:500]))
    failures: list[object] = []

    def watch() -> None:
        try:
            own = FieldLog.open(tmp_path / "state" / "field_log")
            failures.extend(Monitor(settings(), own, book, MonitorMetrics()).round())
        except Exception as error:  # noqa: BLE001 - whatever it is, the test must see it
            failures.append(error)

    threads = [threading.Thread(target=watch) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert [window.index for window in book.windows("digits", "1")] == list(range(10))
    assert len(book.events()) == 1


def test_a_version_without_a_hand_over_is_watched_from_its_beginning_once_it_has_one(
    digits: Digits,
    network: nn.Module,
    field: FieldWriter,
    monitor: Monitor,
    book: CaseBook,
    metrics: MonitorMetrics,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    from fieldrepair_plugin import attach

    with mlflow.start_run():
        mlflow_pytorch.log_model(
            network, name="m", registered_model_name="late", serialization_format="pickle", pip_requirements=["torch"]
        )
    late = replace(field, name="late", writer="spool-2")
    late.write(turned(digits.field_x[:100]))
    field.write(digits.field_x[:100])
    [failure] = monitor.round()
    assert isinstance(failure, HandOverMissingError)
    assert len(book.windows("digits", "1")) == 2, "other versions are watched meanwhile"
    labels = {"model_name": "late", "model_version": "1", "error": "HandOverMissingError"}
    assert metrics.registry.get_sample_value("fieldrepair_monitor_stream_failing", labels) == 1
    until(lambda: bool(monitor.round()))
    said = [record for record in caplog.records if "fieldrepair attach models:/late/1" in record.message]
    assert len(said) == 1, "said once, not at every look"

    digits.reference.save_npz(tmp_path / "reference.npz")
    attach("models:/late/1", tmp_path / "reference.npz")
    until(lambda: monitor.round() == [] and len(book.windows("late", "1")) == 2)
    assert len(book.events("late", "1")) == 1
    assert metrics.registry.get_sample_value("fieldrepair_monitor_stream_failing", labels) is None


def test_a_version_that_is_gone_does_not_stop_the_others(
    digits: Digits, field: FieldWriter, monitor: Monitor, book: CaseBook
) -> None:
    replace(field, version="99", writer="spool-2").write(digits.field_x[:50])
    field.write(digits.field_x[:50])
    assert [type(failure) for failure in monitor.round()] == [ModelVersionMissingError]
    assert len(book.windows("digits", "1")) == 1


def test_other_models_are_left_alone_if_one_is_named(
    digits: Digits, field: FieldWriter, settings: MakeSettings, log: FieldLog, book: CaseBook, metrics: MonitorMetrics
) -> None:
    replace(field, name="nobody", writer="spool-2").write(digits.field_x[:50])
    field.write(digits.field_x[:50])
    assert Monitor(settings(model_name="digits"), log, book, metrics).round() == []
    assert [checkpoint.model_name for checkpoint in book.checkpoints()] == ["digits"]


def test_rows_a_version_cannot_take_are_counted_and_passed(
    digits: Digits, field: FieldWriter, monitor: Monitor, book: CaseBook, metrics: MonitorMetrics
) -> None:
    field.write(digits.field_x[:30])
    field.write(np.zeros((7, 3, 3), np.float32))
    field.write(digits.field_x[30:50])
    field.write(np.zeros((60, 64), np.float32))
    field.write(digits.field_x[50:100])
    monitor.round()
    assert [window.size for window in book.windows("digits", "1")] == [50, 50]
    assert sample(metrics, "field_inputs_skipped_total", reason="shape") == 67


def test_a_window_the_model_fails_on_is_passed_over(
    digits: Digits, network: nn.Module, field: FieldWriter, monitor: Monitor, book: CaseBook, metrics: MonitorMetrics
) -> None:
    """Values so large that the network overflows: the model answers NaN, and nothing can be said of the window."""
    field.write(np.full((50, 1, 8, 8), 3e38, np.float32))
    field.write(digits.field_x[:50])
    assert monitor.round() == []
    assert [window.index for window in book.windows("digits", "1")] == [0]
    assert sample(metrics, "field_inputs_skipped_total", reason="output_not_finite") == 50


def test_the_loop_outlives_a_field_log_that_goes_away(
    digits: Digits, field: FieldWriter, monitor: Monitor, book: CaseBook, metrics: MonitorMetrics, tmp_path: Path
) -> None:
    field.write(digits.field_x[:50])
    place, aside = tmp_path / "state" / "field_log", tmp_path / "aside"
    shutil.move(place, aside)
    stop = threading.Event()
    thread = threading.Thread(target=monitor.run, args=(stop,))
    thread.start()
    try:
        until(lambda: metrics.registry.get_sample_value("fieldrepair_monitor_errors_total", {"part": "round"}))
        shutil.move(aside, place)
        until(lambda: len(book.windows("digits", "1")) == 1)
        until(lambda: metrics.registry.get_sample_value("fieldrepair_monitor_last_success_timestamp_seconds"))
    finally:
        stop.set()
        thread.join()


def until(condition: Callable[[], object]) -> None:
    """Wait for it; a deadline only so that a failure is not a hang."""
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "waited for a minute"
        time.sleep(0.02)


def test_a_sidecar_that_ships_late_or_has_a_wrong_clock_loses_nothing(
    digits: Digits, field: FieldWriter, monitor: Monitor, book: CaseBook, metrics: MonitorMetrics
) -> None:
    field.write(digits.field_x[:100])
    monitor.round()
    behind = replace(field, writer="spool-2", seq=0, clock_ms=field.clock_ms - 3_600_000)
    behind.write(digits.field_x[100:150])
    ahead = replace(field, writer="spool-3", seq=0, clock_ms=int(time.time() * 1000) + 3_600_000)
    ahead.write(digits.field_x[150:200])
    monitor.round()
    assert [window.index for window in book.windows("digits", "1")] == [0, 1, 2, 3]
    assert sample(metrics, "windows_total", drifted="false") == 4
    assert sample(metrics, "late_field_inputs_total") == 50
    seconds_ahead = sample(metrics, "clock_ahead_seconds")
    assert seconds_ahead is not None
    assert 3000 < seconds_ahead < 3602
    checkpoint = book.checkpoint("digits", "1")
    assert checkpoint is not None
    assert checkpoint.cursor == {"spool-1": (100, 0), "spool-2": (50, 0), "spool-3": (50, 0)}


def test_a_new_version_begins_with_windows_of_its_own(
    digits: Digits, field: FieldWriter, monitor: Monitor, book: CaseBook, metrics: MonitorMetrics
) -> None:
    field.write(digits.field_x[:80])
    field.version = "2"  # not registered: it only must not be mixed with the first
    field.write(digits.field_x[80:120])
    field.version = "1"
    field.write(digits.field_x[120:150])
    monitor.round()
    first, second = book.windows("digits", "1")
    assert (first.cursor_start, second.cursor_start) == ({}, {"spool-1": (50, 0)})
    assert book.windows("digits", "2") == [], "40 inputs are no window"
    checkpoint = book.checkpoint("digits", "1")
    assert checkpoint is not None
    assert checkpoint.cursor == {"spool-1": (140, 0)}, "the second window leaves out what version 2 answered"


def test_a_gpu_is_used_if_there_is_one_unless_told_otherwise(settings: MakeSettings) -> None:
    import torch

    assert settings().torch_device == ("cuda" if torch.cuda.is_available() else "cpu")
    assert settings(monitor_device="cuda:1").torch_device == "cuda:1"
