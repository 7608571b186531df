"""Walking through rendered objects."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import yaml

from tests.charts.helm import Manifest

OF_THE_PROMETHEUS_OPERATOR = ("ServiceMonitor", "PrometheusRule")


def of_kind(manifests: list[Manifest], *kinds: str) -> list[Manifest]:
    """Objects of these kinds."""
    return [one for one in manifests if one["kind"] in kinds]


def named(manifests: list[Manifest], kind: str, name: str) -> Manifest:
    """The object of this kind and name."""
    [found] = [one for one in of_kind(manifests, kind) if one["metadata"]["name"] == name]
    return found


def label(manifest: Manifest) -> str:
    """An object as people call it."""
    return f"{manifest['kind']}/{manifest['metadata']['name']}"


def pod_templates(manifests: list[Manifest]) -> Iterator[tuple[str, Manifest]]:
    """Every pod that the objects make: (name of its maker, {metadata, spec})."""
    for one in manifests:
        match one["kind"]:
            case "Deployment" | "Job":
                yield label(one), one["spec"]["template"]
            case "CronJob":
                yield label(one), one["spec"]["jobTemplate"]["spec"]["template"]
            case "Pod":
                yield label(one), one
            case _:
                pass


def containers(manifests: list[Manifest]) -> Iterator[tuple[str, Manifest, Manifest]]:
    """Every container: (maker/container, the pod, the container)."""
    for maker, pod in pod_templates(manifests):
        for container in [*pod["spec"].get("initContainers", []), *pod["spec"]["containers"]]:
            yield f"{maker}/{container['name']}", pod, container


def variables(container: Manifest) -> dict[str, Manifest]:
    """Environment of a container by name."""
    return {one["name"]: one for one in container.get("env", [])}


def matches(selector: Manifest, labels: Manifest) -> bool:
    """Whether a label selector of equalities takes these labels."""
    return bool(selector) and selector.items() <= labels.items()


def with_patched_deployment(manifests: list[Manifest]) -> list[Manifest]:
    """In mode ``sidecar``: the objects, and somebody's Deployment after the patch from the ConfigMap."""
    patches = [
        one["data"]["deployment.yaml"] for one in of_kind(manifests, "ConfigMap") if "deployment.yaml" in one["data"]
    ]
    return [*manifests, *(strategic_merge(somebodys_deployment(), yaml.safe_load(patch)) for patch in patches)]


def somebodys_deployment() -> Manifest:
    """A Deployment such as people write for `mlflow models serve`, in a form that our own policies take."""
    security = {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    container = {
        "name": "model",
        "image": "registry.example/mlflow:3",
        "args": ["mlflow", "models", "serve", "-m", "models:/digits/3", "-p", "8085", "--env-manager", "local"],
        "ports": [{"name": "http", "containerPort": 8085}],
        "resources": {"requests": {"cpu": "1", "memory": "1Gi"}, "limits": {"cpu": "1", "memory": "1Gi"}},
        "securityContext": security,
        "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],  # noqa: S108 - a path in a container
        **{
            name: {"httpGet": {"path": "/ping", "port": "http"}}
            for name in ("startupProbe", "livenessProbe", "readinessProbe")
        },
    }
    pod = {
        "containers": [container],
        "automountServiceAccountToken": False,
        "securityContext": {"runAsNonRoot": True, "runAsUser": 1000, "seccompProfile": {"type": "RuntimeDefault"}},
        "volumes": [{"name": "tmp", "emptyDir": {"sizeLimit": "1Gi"}}],
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "mlflow-digits"},
        "spec": {
            "replicas": 2,
            "selector": {"matchLabels": {"app": "mlflow-digits"}},
            "template": {"metadata": {"labels": {"app": "mlflow-digits"}}, "spec": pod},
        },
    }


def strategic_merge(target: Any, patch: Any) -> Any:
    """What `kubectl patch` does with a strategic merge patch, for what our patch has: lists merge by ``name``."""
    if isinstance(target, dict) and isinstance(patch, dict):
        merged = dict(cast(Manifest, target))
        for key, value in cast(Manifest, patch).items():
            merged[key] = strategic_merge(merged[key], value) if key in merged else value
        return merged
    if isinstance(target, list) and isinstance(patch, list):
        by_name: dict[str, Any] = {str(one["name"]): one for one in cast(list[Manifest], target)}
        for one in cast(list[Manifest], patch):
            name = str(one["name"])
            by_name[name] = strategic_merge(by_name[name], one) if name in by_name else one
        return list(by_name.values())
    return patch
