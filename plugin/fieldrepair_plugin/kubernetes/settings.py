"""Settings of ``serve`` and ``rollout``. Each is also a command-line option and an environment variable."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field
from pydantic_settings import CliPositionalArg

from fieldrepair_monitoring.settings import RegistrySettings
from fieldrepair_plugin.settings import ModelServerSettings


class ServeSettings(ModelServerSettings):
    """Which version is served, where, and which sidecar is told."""

    model: CliPositionalArg[str]
    """Model to serve: models:/NAME@ALIAS or models:/NAME/VERSION. An alias is asked for once, at the start."""
    served_version: str = Field(default="", pattern="^[0-9]*$")
    """Serve this version, whatever the alias says now. Empty: the alias's. In a pod: its annotation
    fieldrepair.io/model-version, so that all pods of a Deployment serve the same."""
    server_host: str = "127.0.0.1"
    """Address the model server listens on."""
    server_port: int = Field(default=5001, ge=1, le=65535)
    """Port the model server listens on."""
    control_url: str = "http://127.0.0.1:8081"
    """Control port of the sidecar that stands before it. It is told once the model server is warm."""
    serve_stop_seconds: float = Field(default=45.0, gt=0)
    """On SIGTERM: how long to go on answering for a sidecar that finishes what it has taken in."""


class RolloutSettings(RegistrySettings):
    """Which alias is followed, and which Deployment serves it."""

    model: CliPositionalArg[str]
    """Model to follow: models:/NAME@ALIAS."""
    deployment: str
    """Deployment whose pods serve it, each the version that its annotation fieldrepair.io/model-version says."""
    namespace: str | None = None
    """Its namespace. Default: that of the pod this runs in."""
    rollout_poll_seconds: float = Field(default=2.0, gt=0)
    """Pause between two looks at the alias and at the Deployment."""
    kubernetes_api: str | None = None
    """Address of the Kubernetes API server. Default: KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT."""
    service_account_dir: Path = Path("/var/run/secrets/kubernetes.io/serviceaccount")
    """Folder with the service account's token, ca.crt and namespace."""
    rollout_metrics_host: str = "127.0.0.1"
    """Address of the Prometheus metrics."""
    rollout_metrics_port: int = Field(default=8083, ge=0, le=65535)
    """Port of the Prometheus metrics; 0 picks a free one."""
