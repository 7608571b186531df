"""The sidecar's numbers as Prometheus reads them: collected when asked for, so that counting costs next to nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from fieldrepair_service.build_info import process_registry
from fieldrepair_service.canary import Canary
from fieldrepair_service.capture import Capture
from fieldrepair_service.drops import (
    CAPTURE_REASONS,
    EXCHANGE_DROPPED,
    EXCHANGES_LOGGED,
    ROW_DROPPED,
    ROWS_DECODED,
    ROWS_LOGGED,
)
from fieldrepair_service.flush_stats import FlushStats
from fieldrepair_service.spool import SETTLED, SPOOLED, read_counters
from fieldrepair_service.traffic_stats import Histogram, TrafficStats
from fieldrepair_service.upstream import Upstreams


def create_registry(
    stats: TrafficStats, capture: Capture, upstreams: Upstreams, spool: Path, shipper_starts: Callable[[], int]
) -> CollectorRegistry:
    """A registry of its own with a sidecar's numbers, and those of its process."""
    registry = process_registry()
    registry.register(_Traffic(stats, upstreams))
    registry.register(_Log(capture, spool, shipper_starts))
    return registry


class _Traffic(Collector):
    def __init__(self, stats: TrafficStats, upstreams: Upstreams) -> None:
        self._stats = stats
        self._upstreams = upstreams

    def collect(self) -> Iterator[Metric]:
        stats = self._stats
        requests = CounterMetricFamily(
            "fieldrepair_requests", "Requests on the traffic port; 499: the client hung up.", labels=["code"]
        )
        for code, count in sorted(dict(stats.requests).items()):
            requests.add_metric([str(code)], count)
        yield requests
        yield _counter(
            "broken_answers", "Answers broken off because the model server broke them off.", stats.broken_answers
        )
        yield _counter(
            "undecoded_requests",
            "Requests in none of the protocols that are logged; forwarded all the same.",
            stats.undecoded,
        )
        yield _gauge("connections", "Clients' connections that are open.", stats.connections)
        if stats.request_log is not None:
            yield _counter(
                "request_log_lines_left_out",
                "Lines about single requests that were not written, because there were too many of their kind.",
                stats.request_log.suppressed,
            )
        if stats.spans_dropped is not None:
            yield _counter(
                "spans_dropped",
                "Requests whose span could not be handed to the shipper in time.",
                stats.spans_dropped(),
            )
        yield _histogram("request_seconds", "From a request's arrival to the end of its answer.", stats.request_seconds)
        yield _histogram("upstream_seconds", "The model server's share of that.", stats.upstream_seconds)
        yield _histogram("overhead_seconds", "The sidecar's share of that.", stats.overhead_seconds)
        active, draining = self._upstreams.active, self._upstreams.draining
        in_flight = GaugeMetricFamily("fieldrepair_requests_in_flight", "Requests at model servers.", labels=["state"])
        in_flight.add_metric(["active"], active.in_flight if active else 0)
        in_flight.add_metric(["draining"], sum(upstream.in_flight for upstream in draining))
        yield in_flight
        yield _gauge("upstream_generation", "Upstreams named so far.", active.generation if active else 0)
        info = GaugeMetricFamily(
            "fieldrepair_upstream_info", "What traffic is sent to.", labels=["model_name", "model_version"]
        )
        if active:
            info.add_metric([active.model_name, active.model_version], 1)
        yield info
        yield from _canary(self._upstreams.canary)


def _canary(canary: Canary | None) -> Iterator[Metric]:
    """The canary's share, and both sides' numbers since it began; without one, only a share of 0."""
    percent = canary.percent if canary else 0
    yield _gauge("canary_percent", "Share of the requests that a canary gets; 0 without one.", percent)
    if canary is None:
        return
    names = ["side", "model_version"]
    requests = GaugeMetricFamily(
        "fieldrepair_canary_requests", "Requests since the canary began, by side.", labels=names
    )
    failures = GaugeMetricFamily(
        "fieldrepair_canary_failures", "Of those, answered with 4xx or 5xx, or not at all.", labels=names
    )
    seconds = GaugeMetricFamily(
        "fieldrepair_canary_mean_seconds", "The model server's mean time for the others.", labels=names
    )
    for name, side in (("canary", canary.canary), ("champion", canary.champion)):
        labels = [name, canary.upstream.model_version if name == "canary" else ""]
        requests.add_metric(labels, side.requests)
        failures.add_metric(labels, side.failures)
        seconds.add_metric(labels, side.seconds.total / max(1, side.requests - side.failures))
    yield from (requests, failures, seconds)


class _Log(Collector):
    """What became of scoring requests.

    At rest ``accepted = logged + dropped + queue_depth + spool_exchanges``, and of the rows of exchanges that could
    be decoded ``decoded = logged + dropped``. These numbers live in the spool and go on after a restart.
    """

    def __init__(self, capture: Capture, spool: Path, shipper_starts: Callable[[], int]) -> None:
        self._capture = capture
        self._spool = spool
        self._shipper_starts = shipper_starts

    def collect(self) -> Iterator[Metric]:
        here = self._capture.counts()
        spool, size = read_counters(self._spool)
        dropped = CounterMetricFamily(
            "fieldrepair_exchanges_dropped",
            "Scoring requests that are not in the field log, by reason.",
            labels=["reason"],
        )
        for reason in CAPTURE_REASONS:
            dropped.add_metric([reason], here.dropped[reason])
        rows_dropped = CounterMetricFamily(
            "fieldrepair_rows_dropped", "Decoded rows that are not in the field log, by reason.", labels=["reason"]
        )
        for name, count in sorted(spool.items()):
            if name.startswith(ROW_DROPPED):
                rows_dropped.add_metric([name.removeprefix(ROW_DROPPED)], count)
            elif name.startswith(EXCHANGE_DROPPED) and name.removeprefix(EXCHANGE_DROPPED) not in CAPTURE_REASONS:
                dropped.add_metric([name.removeprefix(EXCHANGE_DROPPED)], count)
        yield _counter("exchanges_accepted", "Scoring requests that reached the sidecar.", here.accepted)
        yield _counter(
            "exchanges_logged", "Scoring requests with a row in the field log.", spool.get(EXCHANGES_LOGGED, 0)
        )
        yield dropped
        yield _counter("rows_decoded", "Rows of logged requests.", spool.get(ROWS_DECODED, 0))
        yield _counter("rows_logged", "Rows in the field log.", spool.get(ROWS_LOGGED, 0))
        yield rows_dropped
        yield _gauge("queue_depth", "Exchanges that wait in memory for the spool.", here.queued)
        yield _gauge("queue_bytes", "Bytes that wait in memory for the spool.", here.queued_bytes)
        waiting = spool.get(SPOOLED, 0) - spool.get(SETTLED, 0)
        yield _gauge("spool_exchanges", "Exchanges that wait in the spool for the field log.", waiting)
        yield _gauge("spool_bytes", "Bytes in use in the spool.", size)
        yield _counter("sync_late", "Answers sent in sync mode before they were on disk.", here.late_sync)
        flushes = FlushStats.read(self._spool)
        yield _histogram(
            "spool_commit_seconds", "Writing a group of exchanges to the spool.", self._capture.commit_seconds
        )
        yield _histogram(
            "flush_seconds",
            "Reading a batch from the spool, decoding it and writing it to the field log.",
            flushes.seconds,
        )
        if flushes.table_version is not None:
            yield _gauge("field_log_version", "The field log's version after the last flush.", flushes.table_version)
        yield _counter("shipper_starts", "Starts of the process that writes the field log.", self._shipper_starts())


def _counter(name: str, text: str, value: float) -> CounterMetricFamily:
    return CounterMetricFamily(f"fieldrepair_{name}", text, value=value)


def _gauge(name: str, text: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"fieldrepair_{name}", text, value=value)


def _histogram(name: str, text: str, histogram: Histogram) -> HistogramMetricFamily:
    return HistogramMetricFamily(f"fieldrepair_{name}", text, buckets=histogram.cumulative(), sum_value=histogram.total)
