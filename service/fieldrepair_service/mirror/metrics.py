"""The mirror's own numbers: what became of every event."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from fieldrepair_service.mirror.sink import Sink


class MirrorMetrics(Collector):
    """Events by type. At rest, of those since the start, ``events = 2 * pairs + unpaired + waiting``."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink

    def collect(self) -> Iterator[Metric]:
        """The metric families, as they are now."""
        pairing = self._sink.pairing
        events = CounterMetricFamily("fieldrepair_mirror_events", "Events that were taken.", labels=["type"])
        for kind, count in pairing.taken.items():
            events.add_metric([kind], count)
        yield events
        yield CounterMetricFamily("fieldrepair_mirror_pairs", "Requests with their answers.", value=pairing.pairs)
        unpaired = CounterMetricFamily(
            "fieldrepair_mirror_events_unpaired", "Events given up without a partner.", labels=["type", "reason"]
        )
        for (kind, reason), count in pairing.unpaired.items():
            unpaired.add_metric([kind, reason], count)
        yield unpaired
        refused = CounterMetricFamily(
            "fieldrepair_mirror_events_refused", "What was sent and is no event to take.", labels=["reason"]
        )
        for reason, count in self._sink.refused.items():
            refused.add_metric([reason], count)
        yield refused
        yield GaugeMetricFamily(
            "fieldrepair_mirror_events_waiting", "Events that wait for their partner.", value=pairing.waiting
        )
        yield GaugeMetricFamily(
            "fieldrepair_mirror_waiting_bytes", "Bytes of events that wait.", value=pairing.waiting_bytes
        )
