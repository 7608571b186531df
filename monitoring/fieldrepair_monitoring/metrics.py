"""The monitor's Prometheus metrics, in a registry of their own, and the port that serves them."""

from __future__ import annotations

import logging
from collections.abc import Generator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server

from fieldrepair_service.case_book import WindowRecord
from fieldrepair_service.errors import ConfigurationError

logger = logging.getLogger(__name__)

_STREAM = ("model_name", "model_version")


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
