"""What ``fieldrepair rollout`` tells Prometheus."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, Counter, Gauge, start_http_server

from fieldrepair_service.errors import ConfigurationError


class RolloutMetrics:
    """Gauges and counters, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.pending = Gauge(
            "fieldrepair_rollout_pending",
            "1 while not all pods serve the version that the alias names",
            registry=self.registry,
        )
        self.stuck = Gauge(
            "fieldrepair_rollout_stuck",
            "1 while Kubernetes has given up waiting for the pods of the new version; the old ones go on serving",
            registry=self.registry,
        )
        self.done = Counter(
            "fieldrepair_rollouts", "Times all pods came to serve another version", registry=self.registry
        )
        self.errors = Counter(
            "fieldrepair_rollout_errors",
            "Looks that failed, by what did not answer",
            ["of"],
            registry=self.registry,
        )
        self.last_success = Gauge(
            "fieldrepair_rollout_last_success_timestamp_seconds",
            "When alias and Deployment were last compared",
            registry=self.registry,
        )
        for of in ("registry", "cluster", "case_book"):
            self.errors.labels(of)


@contextmanager
def serve_rollout_metrics(metrics: RolloutMetrics, host: str, port: int) -> Generator[int]:
    """Serve ``/metrics`` until the block ends; gives the port.

    Raises:
        ConfigurationError: the address cannot be bound.
    """
    try:
        server, thread = start_http_server(port, addr=host, registry=metrics.registry)
    except OSError as error:
        raise ConfigurationError(
            f"the metrics cannot be served on {host}:{port} ({error.strerror}); set --rollout-metrics-port "
            "(0 picks a free port) or --rollout-metrics-host"
        ) from error
    try:
        yield int(server.server_port)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
