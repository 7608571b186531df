"""Reads a sidecar's report off its metrics, whether they are collected in this process or came as text."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client.metrics_core import Metric

from fieldrepair_service.console.traffic import Numbers, Served, SidecarReport

_MIRROR = "fieldrepair_mirror_pairs_total"
_LOGGED = "fieldrepair_rows_logged_total"


def read_report(families: Iterable[Metric], *, name: str, at: float) -> SidecarReport:
    """What the metrics of a sidecar, or mirror, say.

    Args:
        families: its metric families.
        name: address of its control port; empty for this process.
        at: when they were taken, monotonic seconds.

    Raises:
        ValueError, OverflowError: a number is none that can be counted.
    """
    samples = [sample for family in families for sample in family.samples]

    def by(metric: str, label: str) -> dict[str, int]:
        return {s.labels.get(label, ""): int(s.value) for s in samples if s.name == metric and s.value > 0}

    def total(*metrics: str) -> int:
        return sum(int(s.value) for s in samples if s.name in metrics)

    codes = by("fieldrepair_requests_total", "code")
    in_flight = by("fieldrepair_requests_in_flight", "state")
    upstreams = [s.labels for s in samples if s.name == "fieldrepair_upstream_info" and s.value > 0]
    return SidecarReport(
        name=name,
        at=at,
        numbers=Numbers(
            requests=sum(codes.values()) + total(_MIRROR),
            refused=sum(count for code, count in codes.items() if code >= "400"),
            rows_logged=total(_LOGGED),
            waiting=total("fieldrepair_queue_depth", "fieldrepair_spool_exchanges"),
            dropped_requests=by("fieldrepair_exchanges_dropped_total", "reason"),
            dropped_rows=by("fieldrepair_rows_dropped_total", "reason"),
        ),
        active=next(
            (
                Served(
                    labels.get("model_name", ""),
                    labels.get("model_version", ""),
                    in_flight=in_flight.get("active", 0),
                )
                for labels in upstreams
            ),
            None,
        ),
        # The metrics count these requests, and do not say whose they are.
        draining=(Served("", "", in_flight=in_flight["draining"]),) if "draining" in in_flight else (),
        mirror=any(s.name == _MIRROR for s in samples),
    )


def is_sidecars(families: Iterable[Metric]) -> bool:
    """Whether these are the metrics of a sidecar or mirror, and not of whatever else answers at the address."""
    return any(sample.name == _LOGGED for family in families for sample in family.samples)
