"""Options of the control port, which sidecar, mirror and console have in common."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr, model_validator

from fieldrepair_service.errors import ConfigurationError
from fieldrepair_service.log_format import LogFormat
from fieldrepair_service.roles import Role
from fieldrepair_service.settings import StoreSettings, resolve_token


class ControlSettings(StoreSettings):
    """Where the control port is, who gets in, and how log lines look."""

    control_host: str = "127.0.0.1"
    """Address of the control port: health and metrics; upstream (sidecar); console and case API."""

    control_port: int = Field(default=8081, ge=0, le=65535)
    """Port for control. 0 picks a free one; <state-dir>/sidecar.json (mirror.json, console.json) says which."""

    control_auth: Literal["token", "off"] = "token"
    """Whether the control port asks for the bearer token. ``off`` is allowed on a loopback address only.
    /healthz, /readyz and /metrics are always open."""

    control_tls_cert: Path | None = None
    """PEM file with the control port's certificate. With control_tls_key, the control port speaks HTTPS."""

    control_tls_key: Path | None = None
    """PEM file with the key of control_tls_cert, not encrypted."""

    log_format: LogFormat = "text"
    """How log lines on standard error look: text, or json, one object per line, with the request's id in those about a
    request."""

    labeller_token: SecretStr | None = Field(default=None, min_length=16)
    """Token for people who label and look, but decide nothing. Default: generated once into
    <state-dir>/labeller-token (mode 0600)."""

    viewer_token: SecretStr | None = Field(default=None, min_length=16)
    """Token for people who look. Default: generated once into <state-dir>/viewer-token (mode 0600)."""

    session_hours: float = Field(default=12.0, gt=0, le=24 * 30)
    """How long a sign-in at the console lasts."""

    mlflow_ui_url: str | None = None
    """Where people find the MLflow UI, for links to runs and versions. Default: MLFLOW_TRACKING_URI if it is an http
    address; else there are no links."""

    @model_validator(mode="after")
    def _auth_off_only_on_loopback(self) -> ControlSettings:
        if self.control_auth == "off" and self.control_host not in ("127.0.0.1", "::1", "localhost"):
            raise ValueError(f"control_auth=off needs a loopback control_host, got {self.control_host}")
        return self

    def resolve_tokens(self) -> dict[Role, str] | None:
        """The control port's tokens, made and stored at first use where none was given; None if it asks for none.

        Raises:
            ConfigurationError: if they cannot be stored.
        """
        if self.control_auth == "off":
            return None
        try:
            return {
                Role.VIEWER: resolve_token(self.viewer_token, self.state_dir / "viewer-token"),
                Role.LABELLER: resolve_token(self.labeller_token, self.state_dir / "labeller-token"),
                Role.APPROVER: self.resolve_control_token(),
            }
        except OSError as error:
            raise ConfigurationError(f"the control tokens cannot be kept in {self.state_dir}: {error}") from error

    def mlflow_ui(self) -> str | None:
        """Address of the MLflow UI without a slash at its end, if it is known."""
        url = self.mlflow_ui_url or os.environ.get("MLFLOW_TRACKING_URI", "")
        return url.rstrip("/") if url.startswith(("http://", "https://")) else None
