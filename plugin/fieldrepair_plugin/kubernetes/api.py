"""The little of the Kubernetes API that a rollout needs: read one Deployment, and set one annotation of its pods."""

from __future__ import annotations

import os
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast
from urllib.parse import quote

import httpx

from fieldrepair_plugin.errors import ClusterError

VERSION_ANNOTATION = "fieldrepair.io/model-version"
"""On the pod template: the model version that the pods serve."""
PREVIOUS_ANNOTATION = "fieldrepair.io/previous-model-version"
"""On the Deployment: the version that its pods served before, so that a restarted rollout still knows."""


@dataclass(frozen=True)
class DeploymentView:
    """A Deployment as a rollout sees it."""

    version: str
    """The version that its pods are to serve; empty before the first rollout."""
    previous: str
    """The version before that; empty if there was none."""
    complete: bool
    """Every pod serves ``version``, is available, and no other is left."""
    problem: str
    """Why Kubernetes has given up waiting for the new pods; empty if it has not."""


class DeploymentApi:
    """One Deployment at the API server.

    Args:
        name: of the Deployment.
        namespace: its namespace; None is the one in ``service_account_dir``.
        service_account_dir: folder with ``token``, ``ca.crt`` and ``namespace``, as pods have it. The token is read
            anew for each request, because Kubernetes replaces it.
        address: of the API server; None takes it from the environment that pods have.
    """

    def __init__(self, name: str, namespace: str | None, service_account_dir: Path, address: str | None = None) -> None:
        self._account = service_account_dir
        self.name = name
        self.namespace = namespace or self._read("namespace")
        self._path = f"/apis/apps/v1/namespaces/{quote(self.namespace)}/deployments/{quote(name)}"
        authority = self._account / "ca.crt"
        verify = ssl.create_default_context(cafile=str(authority)) if authority.exists() else True
        self._client = httpx.Client(base_url=address or _address_in_pod(), verify=verify, timeout=10.0, trust_env=False)

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def read(self) -> DeploymentView:
        """The Deployment now. Blocks.

        Raises:
            ClusterError: the API server does not answer, or refuses.
        """
        return _view(self._call("GET"))

    def set_version(self, version: str, previous: str) -> DeploymentView:
        """Have the pods serve ``version``; Kubernetes replaces them as the Deployment's strategy says. Blocks.

        Raises:
            ClusterError: the API server does not answer, or refuses.
        """
        patch: dict[str, Any] = {"spec": {"template": {"metadata": {"annotations": {VERSION_ANNOTATION: version}}}}}
        if previous:
            patch["metadata"] = {"annotations": {PREVIOUS_ANNOTATION: previous}}
        return _view(self._call("PATCH", patch))

    def _call(self, method: str, patch: dict[str, Any] | None = None) -> dict[str, Any]:
        headers = {"authorization": f"Bearer {self._read('token')}", "accept": "application/json"}
        if patch is not None:
            headers["content-type"] = "application/merge-patch+json"
            # Who has set a field is kept with the object.
            url = f"{self._path}?fieldManager=fieldrepair"
        else:
            url = self._path
        what = f"{method} deployment {self.namespace}/{self.name}"
        try:
            answer = self._client.request(method, url, json=patch, headers=headers)
        except httpx.HTTPError as error:
            raise ClusterError(f"{what}: the API server {self._client.base_url} does not answer: {error!r}") from error
        if answer.status_code != 200:
            raise ClusterError(f"{what}: the API server answered {answer.status_code}: {_message(answer)}")
        return cast(dict[str, Any], answer.json())

    def _read(self, name: str) -> str:
        path = self._account / name
        try:
            return path.read_text(encoding="utf-8").strip()
        except OSError as error:
            raise ClusterError(
                f"cannot read {path} ({error.strerror}): a pod has it with automountServiceAccountToken: true"
            ) from error


def _address_in_pod() -> str:
    host, port = os.environ.get("KUBERNETES_SERVICE_HOST"), os.environ.get("KUBERNETES_SERVICE_PORT", "443")
    if not host:
        raise ClusterError("not in a pod: KUBERNETES_SERVICE_HOST is not set; name the API server, --kubernetes-api")
    return f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"


def _view(deployment: dict[str, Any]) -> DeploymentView:
    meta, spec, status = deployment["metadata"], deployment["spec"], deployment.get("status", {})
    wanted = int(spec.get("replicas", 1))
    updated = int(status.get("updatedReplicas", 0))
    of_pods = cast(dict[str, Any], spec["template"]["metadata"].get("annotations") or {})
    own = cast(dict[str, Any], meta.get("annotations") or {})
    seen = int(status.get("observedGeneration", 0)) >= int(meta.get("generation", 0))
    return DeploymentView(
        version=str(of_pods.get(VERSION_ANNOTATION, "")),
        previous=str(own.get(PREVIOUS_ANNOTATION, "")),
        complete=seen
        and updated >= wanted
        and int(status.get("replicas", 0)) <= updated
        and int(status.get("availableReplicas", 0)) >= updated,
        problem=_given_up(status) if seen else "",
    )


def _given_up(status: dict[str, Any]) -> str:
    for condition in cast(list[dict[str, Any]], status.get("conditions") or []):
        if condition.get("type") == "Progressing" and condition.get("reason") == "ProgressDeadlineExceeded":
            return str(condition.get("message") or "the new pods did not become ready in time")
    return ""


def _message(answer: httpx.Response) -> str:
    """The API server's own words; a Status object has them in ``message``."""
    try:
        body = cast(object, answer.json())
    except ValueError:
        return answer.text[:300]
    status = cast(dict[str, object], body) if isinstance(body, dict) else {"message": body}
    return str(status.get("message", answer.text))[:300]
