"""Which settings a deployment takes, from the settings classes of its parts; nothing is listed twice."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import cache
from typing import cast

from pydantic import ValidationError
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings

from fieldrepair_monitoring.settings import MonitorSettings
from fieldrepair_plugin.errors import DeploymentError
from fieldrepair_plugin.processes import free_port
from fieldrepair_plugin.settings import UpSettings, WorkerSettings
from fieldrepair_service.sidecar_settings import SidecarSettings

PARTS: Mapping[str, type[BaseSettings]] = {
    "up": UpSettings,
    "sidecar": SidecarSettings,
    "monitor": MonitorSettings,
    "worker": WorkerSettings,
}
PORTS = ("traffic_port", "control_port", "monitor_metrics_port")
# What follows from the deployment itself, or would end it after one round.
_OURS = frozenset(
    {"model", "model_name", "model_version", "upstream", "state_dir", "tracking_uri", "once", "worker_once"}
)


@cache
def settings() -> Mapping[str, tuple[str, FieldInfo]]:
    """Setting -> (part, field): what ``config`` may hold."""
    found: dict[str, tuple[str, FieldInfo]] = {}
    for part, settings_class in PARTS.items():
        for name, field in settings_class.model_fields.items():
            # A secret does not belong into a file of ours; it comes from the environment.
            if name not in _OURS and "SecretStr" not in str(field.annotation):
                found.setdefault(name, (part, field))
    return found


def checked(config: Mapping[str, object] | None) -> dict[str, str]:
    """The configuration as text, as environment variables hold it; ports that are not given are picked and kept.

    Raises:
        DeploymentError: for a name that is no setting, or a value that a part refuses; all of them are named.
    """
    given = {str(name).replace("-", "_"): _text(value) for name, value in (config or {}).items()}
    unknown = sorted(given.keys() - settings().keys())
    problems = [f"{name}: no such setting" for name in unknown]
    for part, settings_class in PARTS.items():
        values = {name: _value(text) for name, text in given.items() if name in settings_class.model_fields}
        if part == "up":
            values["model"] = "models:/any/1"  # required, and checked elsewhere
        try:
            settings_class.model_validate(values)
        except ValidationError as error:
            problems += [
                f"{'.'.join(map(str, one['loc'])) or part}: {one['msg']}, got {one['input']!r}"
                for one in error.errors()
                if not one["loc"] or one["loc"][0] in given
            ]
    if problems:
        known = "; `mlflow deployments help -t fieldrepair` lists them" if unknown else ""
        raise DeploymentError("; ".join(dict.fromkeys(problems)) + known)
    for port in PORTS:
        if int(given.get(port, "0")) == 0:
            given[port] = str(free_port())
    return given


def environment(config: Mapping[str, str]) -> dict[str, str]:
    """The configuration as environment variables."""
    return {f"FIELDREPAIR_{name.upper()}": text for name, text in config.items()}


def numeric(config: Mapping[str, str], part: type[BaseSettings], name: str) -> float:
    """A numeric setting, or its default."""
    return float(config.get(name, cast(float, part.model_fields[name].default)))


def described() -> str:
    """Every setting with its default and what it says about itself, by part."""
    lines: list[str] = []
    for part in PARTS:
        lines.append(f"\n  {part}")
        lines += [line for name, (of, field) in settings().items() if of == part for line in _entry(name, field)]
    return "\n".join(lines)


def _entry(name: str, field: FieldInfo) -> Iterator[str]:
    default = cast(object, field.get_default(call_default_factory=True, validated_data={}))
    shown = "a free port, kept" if name in PORTS else "none" if default is None else default
    yield f"    {name} (default: {shown})"
    yield f"        {' '.join((field.description or '').split())}"


def _text(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return value if isinstance(value, str) else json.dumps(value)


def _value(text: str) -> object:
    """Lists and objects come as JSON, as they do in an environment variable."""
    if text[:1] not in ("[", "{"):
        return text
    try:
        return cast(object, json.loads(text))
    except json.JSONDecodeError as error:
        raise DeploymentError(f"{text!r} begins like JSON but is none: {error}") from error
