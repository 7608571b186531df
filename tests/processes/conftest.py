"""What the chart's pods need around them: PostgreSQL, S3, MLflow with a model, and a stand-in for the cluster."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import boto3
import httpx
import psycopg
import pytest

from examples.digits.platform import FieldRepair, Process, wait_for
from tests.charts.helm import NAMESPACE, Manifest, parsed, template
from tests.charts.objects import named, of_kind
from tests.cluster.standin import StandIn, account, served
from tests.e2e.conftest import platform, scans
from tests.processes.controller import RollingUpdate
from tests.processes.network import listening
from tests.processes.pods import ACCOUNT, Cluster, Service
from tests.service.conftest import postgresql_server
from tests.service.test_many_writers import s3_server

__all__ = ["platform", "postgresql_server", "s3_server", "scans"]

TOKENS = {f"{role}-token": f"the-{role}-token-of-the-test" for role in ("control", "labeller", "viewer")}
PREFIX = "digits-fieldrepair"
SIDECARS = f"http://{PREFIX}-sidecar:8081"
"""The headless Service of the sidecars' control ports; here one port, which passes connections on to them."""


class AllPods(Process):
    """The pods as the story's helpers know a process."""

    def __init__(self, cluster: Cluster) -> None:
        self.name = "the chart's pods"
        self._cluster = cluster

    def _failed(self) -> str:
        return "\n".join(filter(None, (pod.failed() for pod in self._cluster.pods if not pod.ending)))

    def is_running(self) -> bool:
        """Whether no container has ended."""
        return not self._failed()

    def last_lines(self, count: int = 40) -> str:
        """Which has, and its last lines."""
        return "\n".join(self._failed().splitlines()[-count:])

    def stop(self, seconds: float = 30.0) -> None:
        """They are stopped with the cluster."""


@dataclasses.dataclass
class Installed:
    """A release of the chart, running."""

    running: FieldRepair
    cluster: Cluster
    rollout: RollingUpdate
    manifests: list[Manifest]
    secrets: dict[str, dict[str, str]]
    standin: StandIn


Install = Callable[..., Any]


@pytest.fixture
def install(postgresql_server: str, s3_server: str, tmp_path: Path) -> Iterator[Install]:
    """Installs the chart beside an MLflow server: ``install(mlflow_url, "worker.settings.epochs=4", ...)``."""
    with ExitStack() as everything:

        def start(mlflow_url: str, *values: str) -> Installed:
            return everything.enter_context(_installed(mlflow_url, values, postgresql_server, s3_server, tmp_path))

        yield start


@contextmanager
def _installed(
    mlflow_url: str, values: tuple[str, ...], postgresql: str, s3: str, folder: Path
) -> Generator[Installed]:
    bucket = f"bucket-{folder.parent.name}-{folder.name}".replace("_", "-").lower()[:60]
    keys = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}
    client = boto3.client(
        "s3", region_name="us-east-1", endpoint_url=s3, aws_access_key_id="test", aws_secret_access_key="test"
    )
    client.create_bucket(Bucket=bucket)
    with psycopg.connect(postgresql, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {bucket.replace('-', '_')}".encode())
    secrets = {
        "case-book": {"url": f"{postgresql.rpartition('/')[0]}/{bucket.replace('-', '_')}"},
        "tokens": TOKENS,
        "bucket": keys,
    }
    with ExitStack() as stack:
        # The API server and the account are what a kubelet tells a pod; here they are settings.
        chosen = [
            *("model.name=digits", f"mlflow.trackingUri={mlflow_url}", "caseBook.existingSecret=case-book"),
            *("tokens.existingSecret=tokens", f"fieldLog.uri=s3://{bucket}/field_log", "server.replicas=1"),
            *("fieldLog.s3.existingSecret=bucket", f"fieldLog.s3.endpointUrl={s3}", "fieldLog.s3.allowHttp=true"),
            *("fieldLog.s3.region=us-east-1", "server.drainDelaySeconds=1", *values),
        ]
        standin = StandIn(_server(_rendered(chosen)), NAMESPACE)
        api = stack.enter_context(served(standin))
        account(folder / "account", NAMESPACE)
        manifests = _rendered(
            [*chosen, f"rollout.settings.kubernetes_api={api}", f"rollout.settings.service_account_dir={ACCOUNT}"]
        )
        cluster = Cluster(manifests, folder / "pods", secrets)
        stack.callback(cluster.stop)
        _migrate(cluster, manifests)
        traffic, sidecars = Service("traffic"), Service("control")
        for name in ("monitor", "worker", "rollout"):
            cluster.start(named(manifests, "Deployment", f"{PREFIX}-{name}")["spec"]["template"])
        rollout = stack.enter_context(RollingUpdate(standin, cluster, [traffic, sidecars]))
        traffic_url, sidecars_url = (stack.enter_context(listening(one)) for one in (traffic, sidecars))
        cluster.services[SIDECARS] = sidecars_url
        console = cluster.start(named(manifests, "Deployment", f"{PREFIX}-console")["spec"]["template"])
        headers = {"Authorization": f"Bearer {TOKENS['control-token']}"}
        # A connection for each request, as kube-proxy would spread them over pods.
        limits = httpx.Limits(max_keepalive_connections=0)
        api_client, sidecar_client = (
            stack.enter_context(
                httpx.Client(base_url=url, headers=headers, timeout=30.0, trust_env=False, limits=limits)
            )
            for url in (console.url("control"), sidecars_url)
        )
        pods = AllPods(cluster)
        # The first pods take what the alias names; the rollout's first look replaces them by pods that are told.
        wait_for("a pod that was told", lambda: any(rollout.history) or None, seconds=300, process=pods)
        wait_for("the case book's API", lambda: _well(api_client), seconds=60, process=pods)
        running = FieldRepair(pods, traffic_url, console.url("control"), api_client, sidecar_client)
        yield Installed(running, cluster, rollout, manifests, secrets, standin)


def _rendered(values: list[str]) -> list[Manifest]:
    done = template(*(word for value in values for word in ("--set", value)))
    assert done.returncode == 0, done.stderr
    return parsed(done.stdout)


def _server(manifests: list[Manifest]) -> Manifest:
    return named(manifests, "Deployment", f"{PREFIX}-server")


def _migrate(cluster: Cluster, manifests: list[Manifest]) -> None:
    """The hook before an install, to its end."""
    [job] = of_kind(manifests, "Job")
    assert job["metadata"]["annotations"]["helm.sh/hook"] == "pre-install,pre-upgrade"
    pod = cluster.start(job["spec"]["template"])
    assert pod.wait(120) == 0, pod.log("migrate")
    assert "is up to date" in pod.log("migrate")


def _well(client: httpx.Client) -> bool | None:
    try:
        return client.get("/api/cases").status_code == 200 or None
    except httpx.HTTPError:
        return None
