"""The alias moves, and a Deployment follows: against a stand-in for the API server, which is named as one."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import fieldrepair_plugin.kubernetes.rollout as rollout_module
from fieldrepair_monitoring.errors import RegistryError
from fieldrepair_plugin.errors import ClusterError, ModelUriError
from fieldrepair_plugin.kubernetes.api import DeploymentApi
from fieldrepair_plugin.kubernetes.metrics import RolloutMetrics
from fieldrepair_plugin.kubernetes.rollout import Rollout, run_rollout
from fieldrepair_plugin.kubernetes.settings import RolloutSettings
from fieldrepair_plugin.model_uri import ModelTarget
from fieldrepair_plugin.promotion import AliasWatcher
from tests.cluster.standin import StandIn, account, served

DEPLOYMENT: dict[str, Any] = {
    "metadata": {"name": "server"},
    "spec": {"replicas": 2, "template": {"metadata": {"labels": {"app": "x"}}, "spec": {"containers": []}}},
}


class Registry:
    """Stands in for MLflow's: what the alias names, or what is wrong."""

    def __init__(self) -> None:
        self.answer: str | RegistryError | ModelUriError = "1"

    def ask(self, _target: ModelTarget) -> str:
        if isinstance(self.answer, str):
            return self.answer
        raise self.answer


class World:
    """Everything that a rollout has to do with."""

    def __init__(self, cluster: StandIn, api: DeploymentApi, settled: list[tuple[str, str | None]], book: str) -> None:
        self.cluster, self.settled, self.registry = cluster, settled, Registry()
        self.metrics = RolloutMetrics()
        target = ModelTarget("digits", alias="champion")
        watcher = AliasWatcher(target, "", poll_seconds=0.01, ask=self.registry.ask)
        self.rollout = Rollout(target, watcher, api, case_book_url=book, metrics=self.metrics)

    def value(self, name: str, **labels: str) -> float:
        found = self.metrics.registry.get_sample_value(f"fieldrepair_{name}", labels)
        assert found is not None
        return found


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    settled: list[tuple[str, str | None]] = []

    def settle(_book: object, name: str, version: str, previous: str | None) -> list[str]:
        assert name == "digits"
        settled.append((version, previous))
        return []

    # What is recorded in the case book and the registry is tested where it is written: tests/plugin/test_promotion.py.
    monkeypatch.setattr(rollout_module, "settle_promotion", settle)
    cluster = StandIn(DEPLOYMENT, "ml")
    with served(cluster) as address:
        api = DeploymentApi("server", None, account(tmp_path / "account", "ml"), address)
        world = World(cluster, api, settled, f"sqlite:///{tmp_path}/book.db")
        yield world
        world.rollout.close()
        api.close()


def test_the_first_look_gives_the_pods_their_version(world: World) -> None:
    world.rollout.look()
    assert world.cluster.version == "1"
    assert world.value("rollout_pending") == 1
    assert world.settled == []
    world.cluster.report(updated=2, replicas=2, available=2)
    world.rollout.look()
    assert world.value("rollout_pending") == 0
    assert world.settled == [("1", None)]
    assert world.value("rollouts_total") == 0  # nothing was replaced
    assert world.value("rollout_last_success_timestamp_seconds") > 0


def test_a_move_rolls_and_is_recorded_when_no_old_pod_is_left(world: World) -> None:
    world.rollout.look()
    world.cluster.report(updated=2, replicas=2, available=2)
    world.rollout.look()
    world.registry.answer = "2"
    world.rollout.look()
    assert world.cluster.version == "2"
    # The old status is not mistaken for that of the new pods, and neither are half of them.
    for updated, replicas, available in ((1, 3, 2), (2, 3, 3), (2, 2, 1)):
        world.rollout.look()
        assert world.settled == [("1", None)]
        world.cluster.report(updated=updated, replicas=replicas, available=available)
    world.rollout.look()
    assert world.settled == [("1", None)]
    world.cluster.report(updated=2, replicas=2, available=2)
    world.rollout.look()
    world.rollout.look()
    assert world.settled == [("1", None), ("2", "1")]
    assert world.value("rollouts_total") == 1

    world.registry.answer = "1"  # back
    world.rollout.look()
    assert world.cluster.version == "1"
    world.cluster.report(updated=2, replicas=2, available=2)
    world.rollout.look()
    assert world.settled[-1] == ("1", "2")


def test_one_annotation_is_patched_and_nothing_else(world: World) -> None:
    world.cluster.deployment["spec"]["template"]["metadata"]["annotations"] = {"note": "stays"}
    world.rollout.look()
    template = world.cluster.deployment["spec"]["template"]
    assert template["metadata"] == {
        "labels": {"app": "x"},
        "annotations": {"note": "stays", "fieldrepair.io/model-version": "1"},
    }
    assert {one.partition(" ")[0] for one in world.cluster.requests} == {"GET", "PATCH"}
    world.rollout.look()
    assert sum(one.startswith("PATCH") for one in world.cluster.requests) == 1  # what is right is left alone


def test_a_restarted_rollout_still_knows_what_was_served_before(world: World, tmp_path: Path) -> None:
    world.cluster.deployment["metadata"]["annotations"] = {"fieldrepair.io/previous-model-version": "1"}
    world.cluster.deployment["spec"]["template"]["metadata"]["annotations"] = {"fieldrepair.io/model-version": "2"}
    world.registry.answer = "2"
    world.cluster.report(updated=2, replicas=2, available=2)
    world.rollout.look()
    assert world.settled == [("2", "1")]


def test_a_version_that_does_not_come_up_is_told(world: World, caplog: pytest.LogCaptureFixture) -> None:
    world.rollout.look()
    world.cluster.report(updated=1, replicas=3, available=2, reason="ProgressDeadlineExceeded")
    for _ in range(2):
        world.rollout.look()
    assert world.value("rollout_stuck") == 1
    assert world.settled == []
    told = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert len(told) == 1  # once, not with every look
    assert "version 1 does not become ready: because of ProgressDeadlineExceeded. The old pods go on serving" in told[0]


@pytest.mark.parametrize(
    "problem", [RegistryError("connection refused"), ModelUriError("the alias 'champion' is not set")]
)
def test_a_registry_without_an_answer_changes_nothing(
    world: World, problem: RegistryError | ModelUriError, caplog: pytest.LogCaptureFixture
) -> None:
    world.rollout.look()
    world.registry.answer = problem
    for _ in range(3):
        world.rollout.look()
    assert world.cluster.version == "1"
    assert world.value("rollout_errors_total", of="registry") == 3
    assert sum(str(problem) in record.getMessage() for record in caplog.records) == 1


def test_a_cluster_that_refuses_is_named_and_asked_again(world: World, caplog: pytest.LogCaptureFixture) -> None:
    world.cluster.refusal = (403, 'deployments.apps "server" is forbidden')
    world.rollout.look()
    assert world.value("rollout_errors_total", of="cluster") == 1
    assert 'deployment ml/server: the API server answered 403: deployments.apps "server" is forbidden' in caplog.text
    world.cluster.refusal = None
    world.rollout.look()
    assert world.cluster.version == "1"


def test_a_token_that_was_replaced_is_used(world: World, tmp_path: Path) -> None:
    (tmp_path / "account" / "token").write_text("an older one")
    world.rollout.look()
    assert world.value("rollout_errors_total", of="cluster") == 1
    account(tmp_path / "account", "ml")
    world.rollout.look()
    assert world.cluster.version == "1"


def test_outside_a_pod_the_message_says_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with pytest.raises(ClusterError, match="a pod has it with automountServiceAccountToken: true"):
        DeploymentApi("server", None, tmp_path / "nothing")
    with pytest.raises(ClusterError, match="KUBERNETES_SERVICE_HOST is not set; name the API server"):
        DeploymentApi("server", "ml", tmp_path / "nothing")


def test_a_fixed_version_has_nothing_to_follow(tmp_path: Path) -> None:
    settings = RolloutSettings(model="models:/digits/3", deployment="server", state_dir=tmp_path)
    with pytest.raises(ModelUriError, match="a rollout follows an alias: expected models:/NAME@ALIAS"):
        run_rollout(settings)
