"""The pods' exact commands and environment, taken from the rendered chart, as processes of this machine.

Real: PostgreSQL, the MLflow server, every part. Stand-ins: moto for S3, the cluster (see pods.py, controller.py).
"""

from __future__ import annotations

import os
from pathlib import Path

import httpx
import pytest
from mlflow import MlflowClient

from examples.digits.clients import Client, SteadyTraffic
from examples.digits.data import Part
from examples.digits.platform import FieldRepair, Platform, wait_for
from examples.digits.story import Story
from fieldrepair_service.field_log import FieldLog
from tests.charts.objects import of_kind
from tests.e2e.conftest import MODEL, register_digits
from tests.processes.conftest import Install, Installed

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.timeout(900),
    pytest.mark.skipif(
        not os.environ.get("FIELDREPAIR_CHART_STORY"), reason="takes minutes: `make chart-story` runs it"
    ),
]

QUICK = ("worker.settings.repair_threads=1", "monitor.settings.monitor_threads=1")


def logged(installed: Installed, monkeypatch: pytest.MonkeyPatch) -> int:
    """Rows in the field log, read as anybody would who has the bucket's keys."""
    [deployment] = [
        one for one in of_kind(installed.manifests, "Deployment") if one["metadata"]["name"].endswith("-monitor")
    ]
    [container] = deployment["spec"]["template"]["spec"]["containers"]
    environment = {one["name"]: str(one.get("value")) for one in container["env"]} | installed.secrets["bucket"]
    for name, text in environment.items():
        if name.startswith("AWS_"):
            monkeypatch.setenv(name, text)
    log = FieldLog.open(environment["FIELDREPAIR_FIELD_LOG"])
    return len(log.read_after({}, limit=10_000, columns=[]))


def overview_has(running: FieldRepair, words: str) -> bool | None:
    """Whether the console's overview says so; None while it does not."""
    return words in running.control.get("/").text or None


def test_the_pods_serve_log_and_follow_the_alias(
    platform: Platform, scans: dict[str, Part], install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    register_digits(scans)  # version 2
    installed: Installed = install(platform.mlflow_url, *QUICK)
    running, rollout = installed.running, installed.rollout
    client = Client(running.traffic_url)
    part = scans["traffic"]
    before = client.classify(part.images[:50])
    assert float((before == part.labels[:50]).mean()) > 0.9
    assert rollout.serving is not None
    assert rollout.serving.annotations["fieldrepair.io/model-version"] == "1"
    wait_for(
        "50 rows in the bucket",
        lambda: logged(installed, monkeypatch) == 50 or None,
        seconds=60,
        process=running.process,
    )

    # The alias moves: a new pod, ready before the old one leaves, and no request fails.
    try:
        with SteadyTraffic(client, part.images):
            MlflowClient().set_registered_model_alias(MODEL, "champion", "2")
            wait_for("version 2", lambda: rollout.history[-1:] == ["2"] or None, seconds=170, process=running.process)
            wait_for("the old pod to end", lambda: rollout.coming is None or None, seconds=90)
        assert client.failed_requests == 0
        assert running.served_version() == "2"
        assert running.sidecar is not None
        assert running.sidecar.get("/").status_code == 404
        wait_for("the console to see it", lambda: overview_has(running, "version 2 is served"), seconds=60)
        assert overview_has(running, "1 of 1 sidecar answers.")
        # What a person would look at: every part with a port answers, as `helm test` asks.
        for pod in installed.cluster.pods:
            for container in pod.containers.values():
                for port in container.get("ports", []):
                    if port["name"] == "metrics":
                        text = httpx.get(f"{pod.url('metrics')}/metrics", trust_env=False).text
                        assert "fieldrepair_" in text
    finally:
        MlflowClient().set_registered_model_alias(MODEL, "champion", "1")


def test_the_demos_story_comes_true(install: Install, tmp_path: Path) -> None:
    story = Story(tmp_path / "story")
    platform = story.begin()
    try:
        story.train_and_register(platform)
        installed: Installed = install(platform.mlflow_url, *QUICK)
        story.tell(installed.running, Client(installed.running.traffic_url))
        for row in (*story.summary.rows(), *story.summary.facts()):
            print(*row, sep="\t")  # noqa: T201 - `make chart-story` shows it
        assert story.summary.shortfalls() == []
        assert installed.rollout.history[-2:] == [story.summary.version_before, story.summary.version_after]
    finally:
        platform.stop()
