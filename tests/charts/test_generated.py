"""What the chart repeats is what it repeats, word for word; and what it leaves to the parts exists there."""

from __future__ import annotations

import pytest
import yaml

from charts.generate import CHART, COMPONENTS, ROOT, comments, generated, setting_names
from tests.charts.helm import parsed, rendered


def test_nothing_was_changed_by_hand_or_forgotten() -> None:
    for path, content in generated().items():
        assert path.read_text() == content, f"{path.relative_to(ROOT)} is out of date: run `make chart`"


def test_the_rules_and_the_dashboard_are_those_of_the_monitor() -> None:
    for ours, theirs in (("alerts.yml", "alerts/fieldrepair.yml"), ("dashboard.json", "dashboards/fieldrepair.json")):
        assert (CHART / "files" / ours).read_bytes() == (ROOT / "monitoring" / theirs).read_bytes()


def test_they_arrive_whole() -> None:
    manifests = rendered("mirror-everything")
    [rule] = [one for one in manifests if one["kind"] == "PrometheusRule"]
    [rules] = parsed((CHART / "files" / "alerts.yml").read_text())
    assert rule["spec"] == rules
    [dashboards] = [one for one in manifests if one["metadata"]["name"].endswith("-dashboards")]
    assert dashboards["data"]["fieldrepair.json"].strip() == (CHART / "files" / "dashboard.json").read_text().strip()
    assert dashboards["metadata"]["labels"]["grafana_dashboard"] == "1"


def test_runbooks_can_be_found() -> None:
    [rule] = [one for one in rendered("server-everything") if one["kind"] == "PrometheusRule"]
    links = [each["annotations"]["runbook_url"] for group in rule["spec"]["groups"] for each in group["rules"]]
    assert links
    assert all(link.startswith("https://docs.example/fieldrepair/runbooks.md#") for link in links)


def test_every_value_is_explained() -> None:
    text = (CHART / "values.yaml").read_text()
    explained = set(comments(text))

    def leaves(values: dict[str, object], prefix: str = "") -> set[str]:
        found: set[str] = set()
        for name, value in values.items():
            path = f"{prefix}{name}"
            if path in explained:
                continue  # what is below is explained with it
            found |= leaves(value, f"{path}.") if isinstance(value, dict) else {path}  # type: ignore[arg-type]
        return found

    assert leaves(yaml.safe_load(text)) == set()


@pytest.mark.parametrize("component", COMPONENTS)
def test_settings_leave_out_what_the_chart_sets(component: str) -> None:
    names = setting_names(component)
    assert names
    for taken in ("state_dir", "case_book", "control_token", "model_name"):
        assert taken not in names


def test_the_chart_has_the_version_of_the_package() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert f'version = "{chart["appVersion"]}"' in (ROOT / "pyproject.toml").read_text()
