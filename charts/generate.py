"""``make chart``: writes the parts of the chart that follow from something else, so that nothing is kept twice.

* ``files/``: the alerts and the dashboard of ``monitoring/``, which Helm cannot read where they are
* ``values.schema.json``: from ``values.yaml`` (types, descriptions), the settings classes (names of settings) and
  :data:`RULES`
* ``README.md``: the table of values

``tests/charts/test_generated.py`` fails when one of them is not what this writes.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import yaml
from pydantic_settings import BaseSettings

from fieldrepair_monitoring.settings import MonitorSettings
from fieldrepair_plugin.kubernetes.settings import RolloutSettings, ServeSettings
from fieldrepair_plugin.settings import WorkerSettings
from fieldrepair_service.console_settings import ConsoleSettings
from fieldrepair_service.mirror.settings import MirrorSettings
from fieldrepair_service.sidecar_settings import SidecarSettings

ROOT = Path(__file__).parents[1]
CHART = ROOT / "charts" / "fieldrepair"

COMPONENTS: dict[str, type[BaseSettings]] = {
    "server": ServeSettings,
    "sidecar": SidecarSettings,
    "mirror": MirrorSettings,
    "console": ConsoleSettings,
    "monitor": MonitorSettings,
    "worker": WorkerSettings,
    "rollout": RolloutSettings,
}

# Settings that the chart sets itself from values of their own, or that make no sense in a pod.
_OURS = frozenset(
    {
        *("model", "model_name", "model_version", "served_version", "upstream", "deployment", "namespace"),
        *("state_dir", "field_log", "case_book", "tracking_uri", "mlflow_ui_url", "log_format", "control_url"),
        *("traffic_host", "traffic_port", "control_host", "control_port", "control_auth", "events_host", "events_port"),
        *("server_host", "server_port", "monitor_metrics_host", "monitor_metrics_port"),
        *("rollout_metrics_host", "rollout_metrics_port", "once", "worker_once"),
        *("control_tls_cert", "control_tls_key"),  # probes and `serve` speak plain HTTP with this port
        *("console", "sidecars", "sidecars_ca_file"),  # one console, which asks every sidecar over plain HTTP
    }
)
# Settings of the control port that mean nothing where it has no pages.
_OF_PAGES = frozenset({"session_hours"})
_WITHOUT_PAGES = ("sidecar", "mirror")

_PORT = {"minimum": 1, "maximum": 65535}
_QUANTITY = {"pattern": r"^[0-9]+(\.[0-9]+)?([kMGTPE]i?)?$"}
_KIND = {"enum": ["Deployment", "CronJob"]}
_SERVICE_TYPE = {"enum": ["ClusterIP", "NodePort", "LoadBalancer"]}
_RESOURCES = {
    "required": ["requests", "limits"],
    "properties": {"limits": {"type": "object", "required": ["memory"]}, "requests": {"type": "object"}},
}
RULES: dict[str, dict[str, Any]] = {
    "mode": {"enum": ["server", "sidecar", "mirror"]},
    "logFormat": {"enum": ["text", "json"]},
    "images.sidecar.digest": {"pattern": "^(sha256:[0-9a-f]{64})?$"},
    "images.full.digest": {"pattern": "^(sha256:[0-9a-f]{64})?$"},
    "images.sidecar.tag": {"not": {"const": "latest"}},
    "images.full.tag": {"not": {"const": "latest"}},
    "images.sidecar.repository": {"minLength": 1},
    "images.full.repository": {"minLength": 1},
    "images.sidecar.pullPolicy": {"enum": ["Always", "IfNotPresent", "Never"]},
    "images.full.pullPolicy": {"enum": ["Always", "IfNotPresent", "Never"]},
    "model.name": {"pattern": "^[^/@]*$"},
    "model.alias": {"pattern": "^[^/@]+$"},
    "model.version": {"type": ["string", "integer"], "pattern": "^[0-9]*$", "minimum": 1},
    "mlflow.trackingUri": {"pattern": "^(https?://.+)?$"},
    "mlflow.uiUrl": {"pattern": "^(https?://.+)?$"},
    "caseBook.url": {"pattern": r"^(postgres(ql)?(\+psycopg)?://.+)?$"},
    "caseBook.existingSecretKey": {"minLength": 1},
    "fieldLog.uri": {"pattern": "^(s3://.+)?$"},
    "fieldLog.s3.endpointUrl": {"pattern": "^(https?://.+)?$"},
    "sidecar.upstream": {"pattern": "^https?://.+$"},
    "server.replicas": {"minimum": 1},
    "server.progressDeadlineSeconds": {"minimum": 30},
    "server.drainDelaySeconds": {"minimum": 0},
    "server.terminationGracePeriodSeconds": {"minimum": 10},
    "worker.terminationGracePeriodSeconds": {"minimum": 10},
    "worker.activeDeadlineSeconds": {"minimum": 60},
    "monitor.kind": _KIND,
    "worker.kind": _KIND,
    "migration.waitSeconds": {"minimum": 0},
    "autoscaling.minReplicas": {"minimum": 1},
    "autoscaling.maxReplicas": {"minimum": 1},
    "autoscaling.sidecarCpu": {"minimum": 0},
    "autoscaling.serverCpu": {"minimum": 0},
    "podDisruptionBudget.maxUnavailable": {"type": ["integer", "string"]},
    "podSecurityContext": {"properties": {"runAsNonRoot": {"const": True}}, "required": ["runAsNonRoot"]},
    "securityContext": {
        "properties": {"privileged": {"const": False}, "allowPrivilegeEscalation": {"const": False}},
        "required": ["allowPrivilegeEscalation"],
    },
    "service.traffic.type": _SERVICE_TYPE,
    "service.console.type": _SERVICE_TYPE,
    "serviceMonitor.interval": {"pattern": "^[0-9]+(ms|s|m|h)$"},
    "prometheusRule.docsUrl": {"pattern": "^(https?://.+)?$"},
}
_BY_LAST_NAME: dict[str, dict[str, Any]] = {
    "port": _PORT,
    "trafficPort": _PORT,
    "controlPort": _PORT,
    "eventsPort": _PORT,
    "metricsPort": _PORT,
    "size": _QUANTITY,
    "stateSize": _QUANTITY,
    "scratchSize": _QUANTITY,
    "resources": _RESOURCES,
}
# Maps that are handed to Kubernetes as they are.
_FREE = frozenset(
    {
        *("nodeSelector", "affinity", "podLabels", "podAnnotations", "labels", "annotations", "commonLabels"),
        *("resources", "podSecurityContext", "securityContext", "behavior"),
    }
)

README = """# The chart

Sidecar, console, monitor, repair worker and alias-driven rollouts for one registered model of MLflow.
[docs/kubernetes.md](../../docs/kubernetes.md) says how to install it and what it does.

```
helm install digits charts/fieldrepair \\
  --set images.sidecar.repository=registry.example/fieldrepair-sidecar \\
  --set images.full.repository=registry.example/fieldrepair-full \\
  --set model.name=digits --set mlflow.trackingUri=http://mlflow.mlflow:5000 \\
  --set caseBook.existingSecret=fieldrepair-case-book --set fieldLog.uri=s3://bucket/field_log
```

## Values

Written by `make chart` from `values.yaml`. A value that is not here, or is not what it should be, is refused.

"""


def setting_names(component: str) -> list[str]:
    """Settings that ``<component>.settings`` takes: all but the chart's own and secrets, which come by reference."""
    fields = COMPONENTS[component].model_fields.items()
    taken = _OURS | _OF_PAGES if component in _WITHOUT_PAGES else _OURS
    return sorted(name for name, field in fields if name not in taken and "SecretStr" not in str(field.annotation))


def comments(text: str) -> dict[str, str]:
    """Dotted path of a value -> the ``# --`` comment above it."""
    lines = text.splitlines()
    root = cast(yaml.MappingNode, yaml.compose(text))  # pyright: ignore[reportUnknownMemberType] - not annotated
    return dict(_comments(root, "", lines))


def _comments(node: yaml.MappingNode, prefix: str, lines: list[str]) -> Iterator[tuple[str, str]]:
    for key, value in cast(list[tuple[yaml.ScalarNode, yaml.Node]], node.value):
        path = f"{prefix}{key.value}"
        comment = _comment_above(lines, key.start_mark.line)
        if comment:
            yield path, comment
        if isinstance(value, yaml.MappingNode):
            yield from _comments(value, f"{path}.", lines)


def _comment_above(lines: list[str], at: int) -> str:
    words: list[str] = []
    while at > 0 and lines[at - 1].lstrip().startswith("#"):
        at -= 1
        line = lines[at].lstrip().removeprefix("#").strip()
        if line.startswith("--"):
            return " ".join([line.removeprefix("--").strip(), *words])
        words.insert(0, line)
    return ""


def schema(values: dict[str, Any], described: dict[str, str]) -> dict[str, Any]:
    """JSON schema of the values."""
    made = _object_schema(values, "", described)
    made["properties"]["global"] = {"type": "object"}  # Helm adds it when the chart is part of another
    return {"$schema": "http://json-schema.org/draft-07/schema#", **made}


def _object_schema(values: dict[str, Any], prefix: str, described: dict[str, str]) -> dict[str, Any]:
    properties = {name: _schema_of(value, f"{prefix}{name}", described) for name, value in values.items()}
    return {"type": "object", "additionalProperties": False, "properties": properties}


def _schema_of(value: object, path: str, described: dict[str, str]) -> dict[str, Any]:
    component, _, name = path.rpartition(".")
    if name == "settings":
        scalar = {"type": ["string", "number", "boolean", "array"]}
        made: dict[str, Any] = {
            "type": "object",
            "additionalProperties": False,
            "properties": dict.fromkeys(setting_names(component), scalar),
        }
    elif isinstance(value, dict) and name not in _FREE:
        made = _object_schema(cast(dict[str, Any], value), f"{path}.", described)
    else:
        made = {"type": _TYPES[type(cast(object, value))]}
    if path in described:
        made["description"] = described[path]
    return {**made, **_BY_LAST_NAME.get(name, {}), **RULES.get(path, {})}


_TYPES: dict[type, str] = {
    bool: "boolean",
    int: "integer",
    float: "number",
    str: "string",
    list: "array",
    dict: "object",
}


def readme(values: dict[str, Any], described: dict[str, str]) -> str:
    """The chart's README."""
    rows = [f"| `{path}` | {_default(values, path)} | {_cell(text)} |" for path, text in described.items()]
    return README + "\n".join(["| value | default | meaning |", "|---|---|---|", *rows]) + "\n"


def _default(values: dict[str, Any], path: str) -> str:
    found: Any = values
    for name in path.split("."):
        found = found[name]
    text = json.dumps(found)
    if text == '""':
        return ""
    return f"`{_cell(text)}`"


def _cell(text: str) -> str:
    return re.sub(r"\s+", " ", text).replace("|", "\\|")


def generated() -> dict[Path, str]:
    """What each generated file is to hold."""
    text = (CHART / "values.yaml").read_text()
    values = cast(dict[str, Any], yaml.safe_load(text))
    described = comments(text)
    return {
        CHART / "files" / "alerts.yml": (ROOT / "monitoring" / "alerts" / "fieldrepair.yml").read_text(),
        CHART / "files" / "dashboard.json": (ROOT / "monitoring" / "dashboards" / "fieldrepair.json").read_text(),
        CHART / "values.schema.json": json.dumps(schema(values, described), indent=2) + "\n",
        CHART / "README.md": readme(values, described),
    }


def main() -> int:
    """Write what has changed."""
    for path, content in generated().items():
        if not path.exists() or path.read_text() != content:
            path.parent.mkdir(exist_ok=True)
            path.write_text(content)
            sys.stdout.write(f"wrote {path.relative_to(ROOT)}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
