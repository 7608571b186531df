"""The Grafana dashboard: Prometheus itself evaluates every query, on the series that sidecar and monitor export."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from importlib import util
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

DASHBOARD = Path(__file__).parents[2] / "monitoring" / "dashboards" / "fieldrepair.json"
VARIABLES = {"$__rate_interval": "5m", "$job": ".*", "$instance": ".*", "$model": ".*", "$version": ".*"}


def _rules() -> ModuleType:
    """The tests of the alerting rules know what is exported."""
    spec = util.spec_from_file_location("alert_rules", Path(__file__).with_name("test_alert_rules.py"))
    assert spec is not None
    assert spec.loader is not None
    module = util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


RULES = _rules()
BOARD: dict[str, Any] = json.loads(DASHBOARD.read_text())
PANELS: list[dict[str, Any]] = [panel for panel in BOARD["panels"] if panel["type"] != "row"]


def queries() -> Iterator[tuple[str, str, str]]:
    """(panel, expression, legend) of every query."""
    for panel in PANELS:
        for target in panel["targets"]:
            yield panel["title"], target["expr"], target["legendFormat"]


def filled(expression: str) -> str:
    for name, value in VARIABLES.items():
        expression = expression.replace(name, value)
    assert "$" not in expression, f"a variable that the dashboard does not have: {expression}"
    return expression


@pytest.fixture
async def series(tmp_path: Path) -> dict[str, list[Mapping[str, str]]]:
    """Every exported time series with its labels."""
    families = [
        *await RULES.sidecar_metrics(tmp_path),
        *RULES.monitor_metrics(),
        *RULES.case_metrics(tmp_path),
    ]
    found: dict[str, list[Mapping[str, str]]] = {}
    for family in families:
        for sample in family.samples:
            found.setdefault(sample.name, []).append(sample.labels)
    return found


def test_every_query_finds_something_in_what_is_exported(
    series: dict[str, list[Mapping[str, str]]], tmp_path: Path
) -> None:
    (tmp_path / "none.yml").write_text("groups: []\n")
    inputs = [
        {"series": name + json_labels({**labels, "job": "fieldrepair", "instance": "edge:1"}), "values": "1+1x60"}
        for name, each in series.items()
        for labels in each
    ]
    checks = [
        {
            "expr": f"count({filled(expression)}) > bool 0",
            "eval_time": "30m",
            "exp_samples": [{"labels": "{}", "value": 1}],
        }
        for _, expression, _ in queries()
    ]
    assert len(checks) > 25
    unit = {
        "rule_files": ["none.yml"],
        "evaluation_interval": "1m",
        "tests": [{"interval": "1m", "input_series": inputs, "promql_expr_test": checks}],
    }
    (tmp_path / "dashboard_test.yml").write_text(yaml.safe_dump(unit))
    RULES.promtool("test", "rules", tmp_path / "dashboard_test.yml")


def json_labels(labels: Mapping[str, str]) -> str:
    return "{" + ",".join(f"{name}={json.dumps(value)}" for name, value in labels.items()) + "}"


def test_a_query_for_what_nobody_exports_would_be_found_out(
    series: dict[str, list[Mapping[str, str]]], tmp_path: Path
) -> None:
    (tmp_path / "none.yml").write_text("groups: []\n")
    check = {
        "expr": "count(fieldrepair_nonsense) > bool 0",
        "eval_time": "30m",
        "exp_samples": [{"labels": "{}", "value": 1}],
    }
    unit = {"rule_files": ["none.yml"], "tests": [{"interval": "1m", "input_series": [], "promql_expr_test": [check]}]}
    (tmp_path / "dashboard_test.yml").write_text(yaml.safe_dump(unit))
    with pytest.raises(AssertionError, match="fieldrepair_nonsense"):
        RULES.promtool("test", "rules", tmp_path / "dashboard_test.yml")


def test_labels_in_groupings_and_legends_are_exported(series: dict[str, list[Mapping[str, str]]]) -> None:
    for panel, expression, legend in queries():
        names = set(re.findall(r"fieldrepair_\w+", expression))
        known = {label for name in names for labels in series[name] for label in labels} | {"job", "instance"}
        grouped = {label for each in re.findall(r"\bby \(([^)]*)\)", expression) for label in re.split(r",\s*", each)}
        shown = set(re.findall(r"\{\{(\w+)\}\}", legend))
        assert grouped <= known, panel
        assert shown <= grouped | ({"job", "instance"} if not grouped else set()), (
            f"{panel}: the legend names a label lost in sum"
        )


def test_the_variables_ask_for_series_that_are_exported(series: dict[str, list[Mapping[str, str]]]) -> None:
    variables = {each["name"]: each for each in BOARD["templating"]["list"]}
    assert variables.pop("datasource")["query"] == "prometheus"
    assert {f"${name}" for name in variables} | {"$__rate_interval"} == set(VARIABLES)
    for variable in variables.values():
        found = re.fullmatch(r"label_values\((\w+)(?:\{.*\})?, (\w+)\)", variable["definition"])
        assert found is not None
        name, label = found.groups()
        assert label in {"job", "instance"}.union(*series[name])


def test_every_panel_says_what_it_shows_and_has_its_place() -> None:
    assert [panel["title"] for panel in BOARD["panels"] if panel["type"] == "row"] == [
        "Traffic",
        "Field log",
        "Drift and severity",
        "Cases",
        "Monitor",
        "Candidates",
    ]
    ids = [panel["id"] for panel in BOARD["panels"]]
    assert len(set(ids)) == len(ids)
    cells: set[tuple[int, int]] = set()
    for panel in BOARD["panels"]:
        place = panel["gridPos"]
        mine = {(place["x"] + i, place["y"] + j) for i in range(place["w"]) for j in range(place["h"])}
        assert not mine & cells, panel["title"]
        assert place["x"] + place["w"] <= 24
        cells |= mine
    for panel in PANELS:
        assert panel["description"].endswith(".")
        assert panel["datasource"]["uid"] == "${datasource}"
        assert panel["fieldConfig"]["defaults"]["unit"]
    assert BOARD["schemaVersion"] >= 39
