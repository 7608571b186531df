"""The pods of a rendered chart as processes of this machine: a small stand-in for the kubelet.

Each container's command line is the image's entry point and the chart's ``args``; its environment is the chart's
``env`` and ``envFrom``, with secrets looked up and fields of the pod filled in. Nothing else is changed but addresses
and paths:

* a pod's network is one loopback address: 0.0.0.0 and the pod's own 127.0.0.1 become that address
* a pod's volumes are folders: their mount paths become these folders
* what a name server of the cluster would know is given: the address of a Service becomes one of this machine

Probes decide what is ready; at the end ``preStop`` runs, then SIGTERM comes, and SIGKILL after the grace period.
"""

from __future__ import annotations

import base64
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import httpx

from tests.charts.helm import Manifest

Secrets = dict[str, dict[str, str]]
ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"
"""Where the kubelet puts the files of a service account; here they are in the folder ``account``."""
ENTRY_POINT = (sys.executable, "-m", "fieldrepair_service.cli")
OF_THE_IMAGE = {"MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "1", "PYTHONUNBUFFERED": "1"}


class Pod:
    """One pod: its containers are processes.

    Args:
        template: ``metadata`` and ``spec`` of the pod.
        folder: for its volumes and logs.
        address: the loopback address that is its network.
        secrets: by name, what Secrets hold.
        claims: folders of volume claims, by name.
        services: URLs of Services as the chart writes them, and where they are on this machine.
    """

    def __init__(
        self,
        template: Manifest,
        folder: Path,
        address: str,
        secrets: Secrets,
        claims: dict[str, Path],
        services: dict[str, str],
    ) -> None:
        self._services = services
        self._template = template
        self._secrets = secrets
        self.folder = folder
        self.address = address
        self.ending = False
        self.annotations: dict[str, str] = template["metadata"].get("annotations") or {}
        self._volumes = {
            one["name"]: claims[one["persistentVolumeClaim"]["claimName"]]
            if "persistentVolumeClaim" in one
            else folder / one["name"]
            for one in template["spec"].get("volumes", [])
        }
        for path in self._volumes.values():
            path.mkdir(parents=True, exist_ok=True)
        self.containers: dict[str, Manifest] = {one["name"]: one for one in template["spec"]["containers"]}
        self._own_ports = {
            str(port["containerPort"]) for one in self.containers.values() for port in one.get("ports", [])
        }
        self.processes = {name: self._start(one) for name, one in self.containers.items()}

    def port(self, name: str) -> int:
        """The number of a named port."""
        ports = [port for one in self.containers.values() for port in one.get("ports", [])]
        return int(next(port["containerPort"] for port in ports if port["name"] == name))

    def url(self, port: str) -> str:
        """Where a named port is reached."""
        return f"http://{self.address}:{self.port(port)}"

    def ready(self) -> bool:
        """Whether every readiness probe answers as the kubelet wants it."""
        return not self.ending and all(self._answers(one) for one in self.containers.values())

    def failed(self) -> str:
        """Which container has ended, with the end of its log; empty if none has."""
        for name, process in self.processes.items():
            if process.poll() not in (None, 0):
                return f"{name} ended with {process.returncode}:\n{self.log(name)[-3000:]}"
        return ""

    def wait(self, seconds: float) -> int:
        """For a pod that runs to its end: the exit status of its one container."""
        [process] = self.processes.values()
        return process.wait(seconds)

    def log(self, name: str) -> str:
        """What a container has written."""
        return (self.folder / f"{name}.log").read_text(errors="replace")

    def stop(self) -> None:
        """End it as the kubelet does; each container by itself, all within the grace period."""
        self.ending = True
        deadline = time.monotonic() + float(self._template["spec"]["terminationGracePeriodSeconds"])
        threads = [threading.Thread(target=self._stop_one, args=(name, deadline)) for name in self.processes]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _stop_one(self, name: str, deadline: float) -> None:
        process = self.processes[name]
        hook = self.containers[name].get("lifecycle", {}).get("preStop", {}).get("exec", {}).get("command")
        if hook and process.poll() is None:
            subprocess.run(hook, check=True)
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        try:
            process.wait(max(deadline - time.monotonic(), 0.1))
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def _start(self, container: Manifest) -> subprocess.Popen[bytes]:
        environment = self._environment(container)
        arguments = [self._local(_expanded(word, environment), container) for word in container["args"]]
        with (self.folder / f"{container['name']}.log").open("ab") as log:
            return subprocess.Popen(
                [*ENTRY_POINT, *arguments],
                env={**OF_THE_IMAGE, **_of_this_machine(), **environment},
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def _environment(self, container: Manifest) -> dict[str, str]:
        found: dict[str, str] = {}
        for source in container.get("envFrom", []):
            found |= self._secrets[source["secretRef"]["name"]]
        for one in container.get("env", []):
            found[one["name"]] = self._local(_expanded(self._value(one), found), container)
        return found

    def _value(self, variable: Manifest) -> str:
        if "value" in variable:
            return str(variable["value"])
        source = variable["valueFrom"]
        if "secretKeyRef" in source:
            return self._secrets[source["secretKeyRef"]["name"]][source["secretKeyRef"]["key"]]
        path = source["fieldRef"]["fieldPath"]
        assert path.startswith("metadata.annotations['"), path
        return self.annotations.get(path.removeprefix("metadata.annotations['").removesuffix("']"), "")

    def _local(self, text: str, container: Manifest) -> str:
        """Addresses and paths of the pod as this machine has them."""
        if text == "0.0.0.0":  # noqa: S104 - compared, not bound
            return self.address
        if text in self._services:
            return self._services[text]
        if text == ACCOUNT:
            return str(self.folder.parent.parent / "account")
        prefix, _, port = text.rpartition(":")
        if prefix == "http://127.0.0.1" and port in self._own_ports:
            return f"http://{self.address}:{port}"
        for mount in container.get("volumeMounts", []):
            path = mount["mountPath"]
            if text == path or text.startswith(f"{path}/"):
                return str(self._volumes[mount["name"]]) + text.removeprefix(path)
        return text

    def _answers(self, container: Manifest) -> bool:
        probe = container.get("readinessProbe")
        if probe is None:
            return self.processes[container["name"]].poll() is None
        ports = {port["name"]: port["containerPort"] for port in container["ports"]}
        url = f"http://{self.address}:{ports[probe['httpGet']['port']]}{probe['httpGet']['path']}"
        try:
            return httpx.get(url, timeout=probe.get("timeoutSeconds", 1), trust_env=False).status_code < 400
        except httpx.HTTPError:
            return False


def secrets_of(manifests: list[Manifest]) -> Secrets:
    """What the chart's own Secrets hold."""
    found: Secrets = {}
    for one in manifests:
        if one["kind"] == "Secret":
            decoded = {key: base64.b64decode(text).decode() for key, text in one.get("data", {}).items()}
            found[one["metadata"]["name"]] = {**decoded, **one.get("stringData", {})}
    return found


def _expanded(text: str, environment: dict[str, str]) -> str:
    """``$(NAME)`` as Kubernetes expands it."""
    for name, value in environment.items():
        text = text.replace(f"$({name})", value)
    return text


def _of_this_machine() -> dict[str, str]:
    """What a process needs here that an image brings along: where programs are, few threads on few cores."""
    here = str(Path(sys.executable).parent)
    return {
        "PATH": f"{here}{os.pathsep}{os.environ['PATH']}",
        "OMP_NUM_THREADS": "1",
        "HOME": os.environ.get("HOME", "/"),
    }


class Service:
    """A Service: connections to one port go to the ready pods, each as a whole.

    Args:
        port: the pods' port, by name.
    """

    def __init__(self, port: str) -> None:
        self._port = port
        self.pods: list[Pod] = []
        self._turn = 0

    def pick(self) -> tuple[str, int] | None:
        """Where the next connection goes."""
        ready = [pod for pod in self.pods if not pod.ending]
        if not ready:
            return None
        self._turn += 1
        pod = ready[self._turn % len(ready)]
        return pod.address, pod.port(self._port)


class Cluster:
    """The Deployments and Jobs of a rendered chart, running; ``serving`` is rolled when its annotation changes."""

    def __init__(self, manifests: list[Manifest], folder: Path, secrets: Secrets) -> None:
        self._manifests = manifests
        self._folder = folder
        self._secrets = {**secrets_of(manifests), **secrets}
        self._claims = {
            one["metadata"]["name"]: folder / "claims" / one["metadata"]["name"]
            for one in manifests
            if one["kind"] == "PersistentVolumeClaim"
        }
        self._network = f"127.{os.getpid() % 199 + 50}.{time.monotonic_ns() // 1_000_000 % 254 + 1}"
        self._count = 0
        self.services: dict[str, str] = {}
        """URLs of Services as the chart writes them, and where they are here; for pods that start from now on."""
        self.pods: list[Pod] = []

    def start(self, template: Manifest, annotations: dict[str, str] | None = None) -> Pod:
        """A pod of this template."""
        self._count += 1
        meta: dict[str, Any] = template["metadata"]
        meta = {**meta, "annotations": {**(meta.get("annotations") or {}), **(annotations or {})}}
        folder = self._folder / f"pod-{self._count}-{meta['labels']['app.kubernetes.io/component']}"
        folder.mkdir(parents=True)
        address = f"{self._network}.{self._count}"
        pod = Pod({**template, "metadata": meta}, folder, address, self._secrets, self._claims, self.services)
        self.pods.append(pod)
        return pod

    def stop(self) -> None:
        """End every pod."""
        threads = [threading.Thread(target=pod.stop) for pod in self.pods if not pod.ending]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
