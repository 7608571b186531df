"""A real API server with its store and the controllers of Deployments, but no node: pods are made and never run.

The programs are built from Kubernetes' own sources by `make cluster-check`. RBAC is on.
"""

from __future__ import annotations

import json
import os
import socket
import ssl
import subprocess
import time
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import yaml
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

ADMIN = "the-administrator-of-the-test"

PLURALS = {
    "HorizontalPodAutoscaler": "horizontalpodautoscalers",
    "NetworkPolicy": "networkpolicies",
}


class RealCluster:
    """The API server, as its administrator."""

    def __init__(self, url: str, authority: Path) -> None:
        self.url = url
        self.authority = authority
        self._client = httpx.Client(
            base_url=url,
            verify=ssl.create_default_context(cafile=str(authority)),
            headers={"authorization": f"Bearer {ADMIN}"},
            timeout=30,
            trust_env=False,
        )

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def call(self, method: str, path: str, body: object = None) -> Any:
        """The answer's JSON.

        Raises:
            AssertionError: the API server refused.
        """
        content = None if body is None else json.dumps(body)
        headers = {"content-type": "application/json"} if body is not None else {}
        answer = self._client.request(method, path, content=content, headers=headers)
        assert answer.is_success, f"{method} {path}: {answer.status_code} {answer.text[:1000]}"
        return answer.json()

    def answers(self) -> bool:
        """Whether it is ready."""
        try:
            return self._client.get("/readyz").status_code == 200
        except httpx.HTTPError:
            return False

    def exists(self, path: str) -> bool:
        """Whether there is such an object."""
        return self._client.get(path).status_code == 200

    def create(self, manifest: dict[str, Any], namespace: str, *, dry_run: bool = False) -> Any:
        """Create an object; every field that the API server does not know is an error."""
        group = manifest["apiVersion"]
        root = f"/apis/{group}" if "/" in group else f"/api/{group}"
        plural = PLURALS.get(manifest["kind"], f"{manifest['kind'].lower()}s")
        query = "fieldValidation=Strict" + ("&dryRun=All" if dry_run else "")
        return self.call("POST", f"{root}/namespaces/{namespace}/{plural}?{query}", manifest)

    def pods(self, namespace: str) -> list[dict[str, Any]]:
        """Pods that are not on their way out."""
        found = self.call("GET", f"/api/v1/namespaces/{namespace}/pods")["items"]
        return [pod for pod in found if "deletionTimestamp" not in pod["metadata"]]

    def make_ready(self, pod: dict[str, Any]) -> None:
        """What a kubelet would report of a pod whose probes have answered."""
        meta = pod["metadata"]
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        status = {"phase": "Running", "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": now}]}
        path = f"/api/v1/namespaces/{meta['namespace']}/pods/{meta['name']}/status"
        headers = {"content-type": "application/merge-patch+json"}
        answer = self._client.patch(path, content=json.dumps({"status": status}), headers=headers)
        # The controllers may have taken it away in this moment.
        assert answer.status_code in (200, 404), answer.text[:1000]

    def token(self, namespace: str, account: str) -> str:
        """A token of a service account."""
        path = f"/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token"
        return str(self.call("POST", path, {"spec": {"expirationSeconds": 3600}})["status"]["token"])


@contextmanager
def running(programs: Path, folder: Path) -> Generator[RealCluster]:
    """Start store, API server and controllers on free ports of 127.0.0.1; stop them at the end."""
    etcd, peer, secure = (_free_port() for _ in range(3))
    _write_keys(folder)
    (folder / "tokens.csv").write_text(f"{ADMIN},admin,1,system:masters\n")
    url = f"https://127.0.0.1:{secure}"
    certificates = folder / "certificates"
    with ExitStack() as stack:

        def start(name: str, *options: str) -> None:
            log = stack.enter_context((folder / f"{name}.log").open("wb"))
            process = subprocess.Popen([programs / name, *options], stdout=log, stderr=log, cwd=folder)
            stack.callback(_end, process)

        start(
            "etcd",
            *(f"--data-dir={folder / 'etcd'}", "--unsafe-no-fsync", f"--listen-client-urls=http://127.0.0.1:{etcd}"),
            *(f"--advertise-client-urls=http://127.0.0.1:{etcd}", f"--listen-peer-urls=http://127.0.0.1:{peer}"),
        )
        start(
            "kube-apiserver",
            *(f"--etcd-servers=http://127.0.0.1:{etcd}", f"--secure-port={secure}", "--bind-address=127.0.0.1"),
            *(f"--cert-dir={certificates}", f"--token-auth-file={folder / 'tokens.csv'}", "--authorization-mode=RBAC"),
            *("--service-account-issuer=https://kubernetes.default.svc", "--service-cluster-ip-range=10.0.0.0/24"),
            *(f"--service-account-key-file={folder / 'account.pub'}", "--endpoint-reconciler-type=none"),
            f"--service-account-signing-key-file={folder / 'account.key'}",
        )
        _wait(certificates / "apiserver.crt", folder)
        cluster = RealCluster(url, certificates / "apiserver.crt")
        stack.callback(cluster.close)
        wait_until(cluster.answers, folder / "kube-apiserver.log")
        (folder / "kubeconfig").write_text(_kubeconfig(url, cluster.authority))
        start(
            "kube-controller-manager",
            *(f"--kubeconfig={folder / 'kubeconfig'}", "--leader-elect=false", f"--secure-port={_free_port()}"),
            *(
                "--controllers=deployment-controller,replicaset-controller,serviceaccount-controller",
                "--bind-address=127.0.0.1",
            ),
        )
        yield cluster


def wait_until(asked: Callable[[], object], log: Path, seconds: float = 90) -> None:
    """Wait until it is so; the end of the log otherwise."""
    deadline = time.monotonic() + seconds
    while not asked():
        assert time.monotonic() < deadline, log.read_text(errors="replace")[-2000:]
        time.sleep(0.2)


def _wait(path: Path, folder: Path) -> None:
    wait_until(path.exists, folder / "kube-apiserver.log")


def _write_keys(folder: Path) -> None:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    public = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    (folder / "account.key").write_bytes(private)
    (folder / "account.pub").write_bytes(public)


def _kubeconfig(url: str, authority: Path) -> str:
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "test", "cluster": {"server": url, "certificate-authority": str(authority)}}],
        "users": [{"name": "admin", "user": {"token": ADMIN}}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "admin"}}],
        "current-context": "test",
    }
    return yaml.safe_dump(config)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def programs() -> Path | None:
    """Where `make cluster-check` has put them."""
    found = os.environ.get("FIELDREPAIR_KUBERNETES", "")
    return Path(found) if found and (Path(found) / "kube-apiserver").exists() else None
