"""On a real API server: it takes everything that the chart renders, and a rollout works with the rights it is given."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import fieldrepair_plugin.kubernetes.rollout as rollout_module
from fieldrepair_plugin.errors import ClusterError
from fieldrepair_plugin.kubernetes.api import DeploymentApi
from fieldrepair_plugin.kubernetes.metrics import RolloutMetrics
from fieldrepair_plugin.kubernetes.rollout import Rollout
from fieldrepair_plugin.model_uri import ModelTarget
from fieldrepair_plugin.promotion import AliasWatcher
from tests.charts.helm import rendered, value_sets
from tests.charts.objects import OF_THE_PROMETHEUS_OPERATOR, named, of_kind, with_patched_deployment
from tests.cluster.real import RealCluster, programs, running, wait_until
from tests.cluster.standin import account

SERVER = "digits-fieldrepair-server"
VERSION = "fieldrepair.io/model-version"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealCluster]:
    found = programs()
    if found is None:
        pytest.skip("needs a real API server, whose building takes long: `make cluster-check` does it")
    with running(found, tmp_path_factory.mktemp("cluster")) as cluster:
        yield cluster


def namespace(cluster: RealCluster, name: str) -> str:
    """A new namespace in which pods must keep to the strictest of Kubernetes' own standards."""
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    cluster.call("POST", "/api/v1/namespaces", {"metadata": {"name": name, "labels": labels}})
    path = f"/api/v1/namespaces/{name}/serviceaccounts/default"
    wait_until(lambda: cluster.exists(path), cluster.authority)
    return name


@pytest.mark.timeout(300)
def test_it_takes_everything_the_chart_renders(cluster: RealCluster) -> None:
    where = namespace(cluster, "dry")
    for name in value_sets():
        for one in with_patched_deployment(rendered(name)):
            if one["kind"] == "Pod":
                one["spec"]["serviceAccountName"] = "default"  # a pod's must exist, and a dry run makes none
            if one["kind"] not in OF_THE_PROMETHEUS_OPERATOR:
                cluster.create({**one, "metadata": {**one["metadata"], "namespace": where}}, where, dry_run=True)


@pytest.mark.timeout(300)
def test_a_moved_alias_replaces_pods_one_by_one_and_back(
    cluster: RealCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = namespace(cluster, "rolled")
    manifests = rendered("server-s3")
    for one in of_kind(manifests, "ServiceAccount", "Role"):
        cluster.create(one, where)
    [binding] = of_kind(manifests, "RoleBinding")
    binding["subjects"][0]["namespace"] = where
    cluster.create(binding, where)
    cluster.create(named(manifests, "Deployment", SERVER), where)
    other = named(manifests, "Deployment", "digits-fieldrepair-monitor")
    cluster.create({**other, "spec": {**other["spec"], "replicas": 0}}, where)

    files = account(tmp_path / "account", where, cluster.token(where, "digits-fieldrepair-rollout"), cluster.authority)
    settled: list[tuple[str, str | None]] = []

    def settle(_book: object, _name: str, version: str, previous: str | None) -> list[str]:
        settled.append((version, previous))
        return []

    monkeypatch.setattr(rollout_module, "settle_promotion", settle)
    alias = ["1"]
    target = ModelTarget("digits", alias="champion")
    watcher = AliasWatcher(target, "", ask=lambda _target: alias[0])
    api = DeploymentApi(SERVER, None, files, cluster.url)
    rollout = Rollout(target, watcher, api, case_book_url=f"sqlite:///{tmp_path}/b.db", metrics=RolloutMetrics())
    try:
        for version, previous in (("1", None), ("2", "1"), ("1", "2")):
            alias[0] = version
            fewest = roll(cluster, where, rollout, settled, version)
            assert settled[-1] == (version, previous)
            assert fewest >= (0 if previous is None else 2)
    finally:
        rollout.close()
        api.close()

    # And no more rights than that.
    for account_name, deployment in (("digits-fieldrepair-rollout", "digits-fieldrepair-monitor"), ("default", SERVER)):
        token = cluster.token(where, account_name)
        refused = DeploymentApi(
            deployment, None, account(tmp_path / "other", where, token, cluster.authority), cluster.url
        )
        for ask in (refused.read, lambda: refused.set_version("9", "1")):  # noqa: B023 - called at once
            with pytest.raises(ClusterError, match="403"):
                ask()
        refused.close()


def roll(
    cluster: RealCluster, where: str, rollout: Rollout, settled: list[tuple[str, str | None]], version: str
) -> int:
    """Look until it is recorded, a pod becoming ready now and then; the fewest ready pods at any time."""
    fewest, before = 99, len(settled)
    for _ in range(300):
        rollout.look()
        if len(settled) > before:
            break
        pods = cluster.pods(where)
        ready = [pod for pod in pods if is_ready(pod)]
        fewest = min(fewest, len(ready))
        coming = [pod for pod in pods if not is_ready(pod)]
        if coming:
            cluster.make_ready(coming[0])
    served = {pod["metadata"]["annotations"][VERSION] for pod in cluster.pods(where)}
    assert served == {version}
    return fewest


def is_ready(pod: dict[str, dict[str, list[dict[str, str]]]]) -> bool:
    conditions = pod.get("status", {}).get("conditions", [])
    return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)
