"""The alerting rules: promtool accepts them and their unit tests, they use what is exported, and each has a runbook."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import Metric

from fieldrepair_monitoring.case_metrics import exported_cases
from fieldrepair_monitoring.metrics import MonitorMetrics
from fieldrepair_plugin.kubernetes.metrics import RolloutMetrics
from fieldrepair_service.capture import Capture, CaptureLimits
from fieldrepair_service.case_book import NewDriftEvent, NewTask, TrialKind, WindowRecord, open_case_book
from fieldrepair_service.drops import (
    CAPTURE_REASONS,
    CLIENT_DISCONNECTED,
    EXCHANGE_DROPPED,
    EXCLUDED,
    NOT_SAMPLED,
    ROW_DROPPED,
    ROW_REASONS,
    SHIPPER_REASONS,
    UPSTREAM_ERROR_STATUS,
    UPSTREAM_FAILED,
)
from fieldrepair_service.metrics import create_registry
from fieldrepair_service.spool import Spool
from fieldrepair_service.traffic_stats import TrafficStats
from fieldrepair_service.trial_reports import Estimate, ShadowReport, Timing
from fieldrepair_service.upstream import UpstreamLimits, Upstreams

ROOT = Path(__file__).parents[2]
RULES = ROOT / "monitoring" / "alerts" / "fieldrepair.yml"
UNIT_TESTS = RULES.with_name("fieldrepair_test.yml")
RUNBOOKS = ROOT / "docs" / "runbooks.md"

SCRAPED = {"job", "instance"}  # labels that Prometheus adds to everything it scrapes
NO_ALERT = {NOT_SAMPLED, EXCLUDED, UPSTREAM_ERROR_STATUS, UPSTREAM_FAILED, CLIENT_DISCONNECTED}
"""Reasons not to log an exchange that are somebody's wish, or that the alerts on requests are about."""

Exported = Mapping[str, set[str]]
"""Label names by name of a time series, as Prometheus stores it."""


def read(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


def alerts() -> dict[str, dict[str, Any]]:
    rules = [rule for group in read(RULES)["groups"] for rule in group["rules"]]
    names = [rule["alert"] for rule in rules]
    assert len(names) == len(set(names))
    return dict(zip(names, rules, strict=True))


ALERTS = alerts()


def promtool(*arguments: str | Path) -> None:
    program = shutil.which("promtool")
    if program is None:
        pytest.skip("needs promtool; install the Debian package prometheus")
    done = subprocess.run([program, *map(str, arguments)], capture_output=True, text=True, cwd=RULES.parent)
    assert done.returncode == 0, done.stdout + done.stderr


async def sidecar_metrics(folder: Path) -> list[Metric]:
    """What a sidecar exports that has seen everything there is to count."""
    stats, upstreams, spool = TrafficStats(), Upstreams(UpstreamLimits()), folder / "spool.db"
    await upstreams.switch("http://127.0.0.1:1", "digits", "3")
    await upstreams.start_canary("http://127.0.0.1:2", "digits", "4", 10)
    capture = Capture(spool, CaptureLimits(), sync=False, on_new_spool=lambda: None)
    stats.observe(200, 0.004, 0.003)
    shipper = Spool.attach(spool)
    exchanges = {f"{EXCHANGE_DROPPED}{reason}": 1 for reason in SHIPPER_REASONS}
    shipper.settle(0, {**exchanges, **{f"{ROW_DROPPED}{reason}": 1 for reason in ROW_REASONS}})
    shipper.close()
    families = list(create_registry(stats, capture, upstreams, spool, lambda: 1).collect())
    capture.close()
    await upstreams.close()
    return families


def monitor_metrics() -> list[Metric]:
    """What a monitor exports that has met everything there is to meet."""
    metrics = MonitorMetrics()
    stream = ("digits", "3")
    window = WindowRecord(
        index=0,
        first_timestamp_ms=0,
        last_timestamp_ms=1,
        size=100,
        detector="mmd",
        statistic=0.1,
        threshold=0.2,
        p_value=0.5,
        drifted=False,
        estimated_accuracy=0.9,
        accuracy_low=0.8,
        accuracy_high=0.95,
        scores={"mmd": {"statistic": 0.1, "threshold": 0.2, "p_value": 0.5}},
    )
    metrics.window(*stream, window, 0.97)
    metrics.labelled_accuracy.labels(*stream).set(0.9)
    metrics.timestamps(*stream, newest_ms=1000, now_s=0, late=1)
    metrics.failing(*stream, ValueError())
    metrics.event_open.labels(*stream).set(1)
    metrics.events.labels(*stream).inc()
    metrics.shift_without_harm.labels(*stream).set(0)
    metrics.skipped.labels(*stream, "shape").inc()
    metrics.errors.labels("round").inc()
    metrics.notifications.labels("taken").inc()
    return list(metrics.registry.collect())


def case_metrics(folder: Path) -> list[Metric]:
    """What a monitor exports of a case book with a case that people work on."""
    event = NewDriftEvent(
        model_name="digits",
        model_version="3",
        detector="mmd",
        statistic=0.5,
        p_value=0.001,
        threshold=0.1,
        window_index=0,
        cursor_start={},
        field_inputs_until_alert=100,
        estimated_accuracy=0.6,
        reference_accuracy=0.97,
        summary="it has shifted",
        class_names=("a", "b"),
        input_spec={},
    )
    with open_case_book(f"sqlite:///{folder}/book.db") as book:
        window = WindowRecord(0, 0, 1, 100, "mmd", 0.5, 0.1, 0.001, drifted=True)
        opened = book.record_windows("digits", "3", {}, [window], event)
        assert opened is not None
        book.plan_case(
            opened.case_id, [NewTask("r", 0, "repair")], budget=1, acceptance_size=0, pool_cursor={}, note=""
        )
        book.claim(opened.case_id, "worker", 60)
        timing, estimate = Timing(count=1), Estimate(value=0.9, low=0.8, high=0.95, trusted=True, inputs=100)
        report = ShadowReport(
            dropped={"queue_full": 1},
            champion_timing=timing,
            candidate_timing=timing,
            champion_accuracy=estimate,
            candidate_accuracy=estimate,
        )
        book.report_trial(book.begin_trial(TrialKind.SHADOW, "digits", "3", "4").id, report.model_dump())
        registry = CollectorRegistry()
        with exported_cases(registry, book):
            return list(registry.collect())


@pytest.fixture
async def exported(tmp_path: Path) -> Exported:
    series: dict[str, set[str]] = {"up": set()}  # Prometheus' own
    families = [*await sidecar_metrics(tmp_path), *monitor_metrics(), *case_metrics(tmp_path)]
    for family in [*families, *RolloutMetrics().registry.collect()]:
        for sample in family.samples:
            series.setdefault(sample.name, set()).update(sample.labels)
    return series


def selectors(text: str) -> Iterator[tuple[str, set[str]]]:
    """(name, labels asked for) of every time series in an expression or a template."""
    for name, braces in re.findall(r"\b(fieldrepair_\w+|up)\b(?:\{([^}]*)\})?", text):
        yield name, set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", braces))


def reasons_of(alert: str) -> set[str]:
    """The reasons for dropped exchanges that an alert's (first) selector takes."""
    found = re.search(r'fieldrepair_exchanges_dropped_total\{\s*reason([=!])~"([^"]+)"', ALERTS[alert]["expr"])
    assert found is not None
    operator, pattern = found.groups()
    return {
        reason
        for reason in (*CAPTURE_REASONS, *SHIPPER_REASONS)
        if (re.fullmatch(pattern, reason) is not None) == (operator == "=")
    }


def test_promtool_accepts_the_rules() -> None:
    promtool("check", "rules", RULES)


def test_every_alert_fires_and_stays_silent_when_it_should() -> None:
    promtool("test", "rules", UNIT_TESTS)


@pytest.mark.parametrize("alert", ALERTS)
def test_each_alert_has_a_unit_test_that_fires_and_one_that_does_not(alert: str) -> None:
    outcomes = [
        bool(case["exp_alerts"])
        for test in read(UNIT_TESTS)["tests"]
        for case in test["alert_rule_test"]
        if case["alertname"] == alert
    ]
    assert set(outcomes) == {True, False}


@pytest.mark.parametrize("alert", ALERTS)
def test_each_alert_says_all_a_person_needs(alert: str) -> None:
    rule = ALERTS[alert]
    annotations = rule["annotations"]
    assert re.fullmatch(r"\d+[mh]", rule["for"])
    assert rule["labels"]["severity"] in {"critical", "warning", "info"}
    assert set(annotations) == {"summary", "description", "runbook_url"}
    assert "$value" in annotations["description"]
    assert annotations["runbook_url"] == f"docs/runbooks.md#{alert.lower()}"


def test_the_rules_use_only_series_and_labels_that_are_exported(exported: Exported) -> None:
    used = [each for rule in ALERTS.values() for each in selectors(rule["expr"] + rule["annotations"]["description"])]
    unknown = [(name, labels) for name, labels in used if labels - exported.get(name, set()) - SCRAPED]
    assert {name for name, _ in used} - set(exported) == set()
    assert unknown == []


def test_the_unit_tests_use_only_series_and_labels_that_are_exported(exported: Exported) -> None:
    for test in read(UNIT_TESTS)["tests"]:
        for name, labels in (each for row in test["input_series"] for each in selectors(row["series"])):
            assert name in exported, test["name"]
            assert labels - exported[name] <= SCRAPED, test["name"]


def test_every_reason_to_drop_an_exchange_belongs_to_one_alert() -> None:
    lost, not_loggable, crashed = (
        reasons_of(f"Fieldrepair{name}") for name in ("ExchangesLost", "ExchangesNotLoggable", "DecoderCrashed")
    )
    assert sorted([*lost, *not_loggable, *crashed, *NO_ALERT]) == sorted([*CAPTURE_REASONS, *SHIPPER_REASONS])
    assert lost <= set(CAPTURE_REASONS)


def test_the_shippers_own_drops_count_as_movement_of_the_spool() -> None:
    assert reasons_of("FieldrepairFieldLogNotWritten") == set(SHIPPER_REASONS)


def test_alerts_and_runbooks_are_the_same_in_the_same_order() -> None:
    sections = re.findall(r"^## (Fieldrepair\w+)$", RUNBOOKS.read_text(), flags=re.MULTILINE)
    assert sections == list(ALERTS)


@pytest.mark.parametrize("alert", ALERTS)
def test_each_runbook_says_what_to_do_and_when_it_is_over(alert: str) -> None:
    section = RUNBOOKS.read_text().split(f"## {alert}\n")[1].split("\n## ")[0]
    assert re.findall(r"^\*\*(\w+)\*\*:", section, flags=re.MULTILINE) == ["Means", "Look", "Do", "Over"]


def test_the_runbooks_name_only_options_series_and_reasons_that_exist(exported: Exported) -> None:
    text = RUNBOOKS.read_text()
    commands = [each.load() for each in entry_points(group="fieldrepair.commands")]
    options = {field.replace("_", "-") for command in commands for field in command.model_fields}
    options |= {f"no-{option}" for option in options}
    assert set(re.findall(r"(?<![\w-])--([a-z][a-z-]+)", text)) - options == set()
    assert {name for name, _ in selectors(text) if name not in exported and name != "fieldrepair_test"} == set()
    for reason in (*CAPTURE_REASONS, *SHIPPER_REASONS, *ROW_REASONS):
        assert reason in NO_ALERT or f"`{reason}`" in text


@pytest.mark.parametrize("link", sorted(set(re.findall(r"\]\(([^)]+)\)", RUNBOOKS.read_text()))))
def test_links_of_the_runbooks_lead_somewhere(link: str) -> None:
    page, _, anchor = link.partition("#")
    text = ((RUNBOOKS.parent / page) if page else RUNBOOKS).read_text()
    headings = re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)
    anchors = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
    assert not anchor or anchor in anchors
