"""Shadows and canaries as Prometheus metrics, from what they have written into the case book."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from fieldrepair_service.case_book import CaseBook, Trial, TrialKind, TrialState
from fieldrepair_service.trial_reports import ShadowReport, read_report

_PAIR = ("model_name", "model_version", "candidate_version")
_ENDS = (TrialState.PASSED, TrialState.ROLLED_BACK, TrialState.CANCELLED)


def trial_families(book: CaseBook) -> Iterator[Metric]:
    """One family after the other. Shadows are exported while they run: at most one for each model.

    Raises:
        StoreUnavailable: the case book does not answer.
    """
    counts = book.trial_counts(TrialKind.CANARY)
    canaries = CounterMetricFamily("fieldrepair_canaries", "Canaries that are over, by outcome.", labels=["outcome"])
    for state in _ENDS:
        canaries.add_metric([str(state)], counts[state])
    yield canaries
    yield from _shadows(book.trials(TrialKind.SHADOW, state=TrialState.RUNNING))


def _shadows(trials: list[Trial]) -> Iterator[Metric]:
    agreed = CounterMetricFamily(
        "fieldrepair_shadow_agreed", "Field inputs that candidate and champion answer alike.", labels=_PAIR
    )
    disagreed = CounterMetricFamily(
        "fieldrepair_shadow_disagreed", "Field inputs that they answer differently.", labels=_PAIR
    )
    dropped = CounterMetricFamily(
        "fieldrepair_shadow_dropped",
        "Field inputs that were not compared, by reason.",
        labels=(*_PAIR, "reason"),
    )
    seconds = GaugeMetricFamily(
        "fieldrepair_shadow_seconds",
        "Time of the last shadowed requests at each model server, by quantile.",
        labels=(*_PAIR, "side", "quantile"),
    )
    accuracy = GaugeMetricFamily(
        "fieldrepair_shadow_estimated_accuracy",
        "Accuracy estimated on the last shadowed inputs, without labels.",
        labels=(*_PAIR, "side"),
    )
    reported = GaugeMetricFamily(
        "fieldrepair_shadow_reported_timestamp_seconds", "When the shadow last reported.", labels=_PAIR
    )
    for trial in trials:
        report = read_report(ShadowReport, trial.report)
        pair = (trial.model_name, trial.champion_version, trial.candidate_version)
        agreed.add_metric(pair, report.agreed)
        disagreed.add_metric(pair, report.disagreed)
        for reason, count in report.dropped.items():
            dropped.add_metric((*pair, reason), count)
        for side, timing in (("champion", report.champion_timing), ("candidate", report.candidate_timing)):
            if timing.count:
                seconds.add_metric((*pair, side, "0.5"), timing.p50_ms / 1000)
                seconds.add_metric((*pair, side, "0.95"), timing.p95_ms / 1000)
        for side, estimate in (("champion", report.champion_accuracy), ("candidate", report.candidate_accuracy)):
            if estimate is not None:
                accuracy.add_metric((*pair, side), estimate.value)
        reported.add_metric(pair, trial.updated_ms / 1000)
    yield from (agreed, disagreed, dropped, seconds, accuracy, reported)
