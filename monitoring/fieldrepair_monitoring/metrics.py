"""The monitor's Prometheus metrics, in a registry of their own, and the port that serves them."""

from __future__ import annotations

import logging
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import cast

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server

from fieldrepair_service.case_book import WindowRecord
from fieldrepair_service.errors import ConfigurationError

logger = logging.getLogger(__name__)

_STREAM = ("model_name", "model_version")
_DETECTOR = (*_STREAM, "detector")
EXPLANATION_OUTCOMES = ("explained", "failed", "given_up")


class MonitorMetrics:
    """What the monitor counts and measures. Each instance has its own registry."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self._failing: set[tuple[str, str, str]] = set()
        self.last_success = Gauge(
            "fieldrepair_monitor_last_success_timestamp_seconds",
            "When the monitor last went through the whole field log.",
            registry=registry,
        )
        self.windows = Counter(
            "fieldrepair_monitor_windows_total", "Windows judged.", (*_STREAM, "drifted"), registry=registry
        )
        self.skipped = Counter(
            "fieldrepair_monitor_field_inputs_skipped_total",
            "Field inputs that no window could use, by reason.",
            (*_STREAM, "reason"),
            registry=registry,
        )
        self.events = Counter(
            "fieldrepair_monitor_drift_events_total", "Drift events opened.", _STREAM, registry=registry
        )
        self.event_open = Gauge(
            "fieldrepair_monitor_event_open",
            "1 while a drift event of this model version is open.",
            _STREAM,
            registry=registry,
        )
        self.shift_without_harm = Gauge(
            "fieldrepair_monitor_shift_without_harm",
            "1 while a confirmed shift raises no alert because the estimated accuracy has not fallen.",
            _STREAM,
            registry=registry,
        )
        self.statistic = Gauge(
            "fieldrepair_monitor_drift_statistic", "Drift statistic of the last window.", _STREAM, registry=registry
        )
        self.threshold = Gauge(
            "fieldrepair_monitor_drift_threshold",
            "Statistic above which the last window is drifted.",
            _STREAM,
            registry=registry,
        )
        self.p_value = Gauge(
            "fieldrepair_monitor_drift_p_value", "P-value of the last window.", _STREAM, registry=registry
        )
        self.estimated_accuracy = Gauge(
            "fieldrepair_monitor_estimated_accuracy",
            "Accuracy estimated on the last window, without labels.",
            _STREAM,
            registry=registry,
        )
        self.reference_accuracy = Gauge(
            "fieldrepair_monitor_reference_accuracy",
            "Accuracy on the reference validation inputs.",
            _STREAM,
            registry=registry,
        )
        self.accuracy_low = Gauge(
            "fieldrepair_monitor_estimated_accuracy_low",
            "Lower end of the interval of the estimated accuracy.",
            _STREAM,
            registry=registry,
        )
        self.accuracy_high = Gauge(
            "fieldrepair_monitor_estimated_accuracy_high",
            "Upper end of the interval of the estimated accuracy.",
            _STREAM,
            registry=registry,
        )
        self.accuracy_trusted = Gauge(
            "fieldrepair_monitor_estimated_accuracy_trusted",
            "1 if the estimated accuracy of the last window can be trusted, 0 if something speaks against it.",
            _STREAM,
            registry=registry,
        )
        self.labelled_accuracy = Gauge(
            "fieldrepair_monitor_labelled_accuracy",
            "Accuracy on the labelled acceptance sample of the repair case at work: random field inputs of the shift.",
            _STREAM,
            registry=registry,
        )
        self.labelled_inputs = Gauge(
            "fieldrepair_monitor_labelled_inputs", "Labels behind the labelled accuracy.", _STREAM, registry=registry
        )
        self.detector_statistic = Gauge(
            "fieldrepair_monitor_detector_statistic",
            "Each detector's statistic of the last window.",
            _DETECTOR,
            registry=registry,
        )
        self.detector_threshold = Gauge(
            "fieldrepair_monitor_detector_threshold",
            "Statistic above which a detector by itself calls the last window drifted.",
            _DETECTOR,
            registry=registry,
        )
        self.detector_p_value = Gauge(
            "fieldrepair_monitor_detector_p_value",
            "Each detector's p-value of the last window.",
            _DETECTOR,
            registry=registry,
        )
        self.last_input = Gauge(
            "fieldrepair_monitor_last_input_timestamp_seconds",
            "When the newest field input of the last window was asked for, by its sidecar's clock.",
            _STREAM,
            registry=registry,
        )
        self.late = Counter(
            "fieldrepair_monitor_late_field_inputs_total",
            "Field inputs judged after ones a minute newer: their sidecar shipped late, or its clock is behind.",
            _STREAM,
            registry=registry,
        )
        self.clock_ahead = Gauge(
            "fieldrepair_monitor_clock_ahead_seconds",
            "How far the newest field input of the last window lies in the monitor's future; 0 if it does not.",
            _STREAM,
            registry=registry,
        )
        self.window_seconds = Histogram(
            "fieldrepair_monitor_window_seconds",
            "Time to read, judge and record one window.",
            buckets=(0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
            registry=registry,
        )
        self.stream_failing = Gauge(
            "fieldrepair_monitor_stream_failing",
            "1 while this model version cannot be watched, by the kind of error.",
            (*_STREAM, "error"),
            registry=registry,
        )
        self.errors = Counter(
            "fieldrepair_monitor_errors_total", "Failed attempts, by what was tried.", ("part",), registry=registry
        )
        self.explanations = Counter(
            "fieldrepair_monitor_explanations_total",
            "Attempts to explain a drift event, by outcome: explained, failed (tried again), given_up.",
            ("outcome",),
            registry=registry,
        )
        for outcome in EXPLANATION_OUTCOMES:
            self.explanations.labels(outcome)  # there from the start, so that rate() sees the first one
        self.explanations_pending = Gauge(
            "fieldrepair_monitor_explanations_pending",
            "Drift events that are not explained yet.",
            registry=registry,
        )
        self.notifications = Counter(
            "fieldrepair_monitor_notifications_total",
            "Alerts posted to the webhook, by outcome.",
            ("outcome",),
            registry=registry,
        )
        self.notifications_pending = Gauge(
            "fieldrepair_monitor_notifications_pending",
            "Alerts that wait to be posted to the webhook.",
            registry=registry,
        )

    def window(self, model_name: str, model_version: str, window: WindowRecord, reference_accuracy: float) -> None:
        """Take up a window that was recorded."""
        stream = (model_name, model_version)
        self.windows.labels(*stream, str(window.drifted).lower()).inc()
        self.statistic.labels(*stream).set(window.statistic)
        self.threshold.labels(*stream).set(window.threshold)
        self.reference_accuracy.labels(*stream).set(reference_accuracy)
        if window.p_value is not None:
            self.p_value.labels(*stream).set(window.p_value)
        if window.estimated_accuracy is not None:
            self.estimated_accuracy.labels(*stream).set(window.estimated_accuracy)
        for gauge, value in (
            (self.accuracy_low, window.accuracy_low),
            (self.accuracy_high, window.accuracy_high),
            (self.accuracy_trusted, window.accuracy_trusted),
        ):
            if value is not None:
                gauge.labels(*stream).set(value)
        self._detectors(stream, window.scores or {})

    def _detectors(self, stream: tuple[str, str], scores: Mapping[str, object]) -> None:
        """Each detector's numbers; there are as many series as detectors in use."""
        for detector, score in scores.items():
            if not isinstance(score, Mapping):
                continue
            for gauge, name in (
                (self.detector_statistic, "statistic"),
                (self.detector_threshold, "threshold"),
                (self.detector_p_value, "p_value"),
            ):
                value = cast("Mapping[str, object]", score).get(name)
                if isinstance(value, (int, float)):
                    gauge.labels(*stream, detector).set(value)

    def timestamps(self, model_name: str, model_version: str, *, newest_ms: int, now_s: float, late: int) -> None:
        """Take up how the clocks of the field inputs stand.

        Args:
            model_name: registered model.
            model_version: its version.
            newest_ms: the newest timestamp in the window.
            now_s: the monitor's own time, in epoch seconds.
            late: field inputs of the window that are a minute or more older than an earlier window's newest.
        """
        stream = (model_name, model_version)
        self.last_input.labels(*stream).set(newest_ms / 1000)
        self.clock_ahead.labels(*stream).set(max(0.0, newest_ms / 1000 - now_s))
        self.late.labels(*stream).inc(late)

    def failing(self, model_name: str, model_version: str, error: Exception | None) -> None:
        """Say that a stream fails with this error, or (None) that it does not fail."""
        for labels in [key for key in self._failing if key[:2] == (model_name, model_version)]:
            self.stream_failing.remove(*labels)
            self._failing.discard(labels)
        if error is not None:
            labels = (model_name, model_version, type(error).__name__)
            self._failing.add(labels)
            self.stream_failing.labels(*labels).set(1)


@contextmanager
def serve_metrics(metrics: MonitorMetrics, host: str, port: int) -> Generator[int]:
    """Serve ``/metrics`` until the block ends; gives the port.

    Raises:
        ConfigurationError: the address cannot be bound.
    """
    try:
        server, thread = start_http_server(port, addr=host, registry=metrics.registry)
    except OSError as error:
        raise ConfigurationError(
            f"the monitor's metrics cannot be served on {host}:{port} ({error.strerror}); set "
            "--monitor-metrics-port (0 picks a free port) or --monitor-metrics-host"
        ) from error
    bound = int(server.server_port)
    logger.info("metrics on http://%s:%d/metrics", host, bound)
    try:
        yield bound
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
