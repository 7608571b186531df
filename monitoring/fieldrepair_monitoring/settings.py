"""Settings of the monitor. Each is also a command line option and an environment variable."""

from __future__ import annotations

import os
from typing import Literal

from pydantic import Field, HttpUrl, SecretStr, model_validator
from typing_extensions import Self

from fieldrepair_service.settings import StoreSettings


class RegistrySettings(StoreSettings):
    """Where the MLflow registry is."""

    tracking_uri: str | None = None
    """MLflow tracking server or store. Default: MLFLOW_TRACKING_URI, else MLflow's own (sqlite:///mlflow.db here)."""

    def use_registry(self) -> str:
        """Make MLflow in this process and its children use that registry; its URI.

        A registry that is down must not hold anything up for minutes: MLflow's own retries, seven with growing
        pauses, are cut down unless the environment says otherwise. What needs the registry asks again by itself.
        """
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
        os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
        os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
        os.environ["DO_NOT_TRACK"] = "1"
        import mlflow

        if self.tracking_uri is not None:
            mlflow.set_tracking_uri(self.tracking_uri)
            os.environ["MLFLOW_TRACKING_URI"] = self.tracking_uri
        return str(mlflow.get_tracking_uri())


class MonitorSettings(RegistrySettings):
    """What the monitor watches, when it raises an alert, and whom it tells."""

    model_name: str | None = None
    """Only versions of this registered model. Default: every model in the field log."""
    poll_seconds: float = Field(default=2.0, gt=0)
    """Pause between two looks at the field log once everything in it is judged."""
    once: bool = False
    """Judge what is there now, then stop."""

    window_size: int = Field(default=100, ge=10)
    """Field inputs that are judged together. Only full windows are judged."""
    detector: Literal["mmd", "frouros_mmd"] = "mmd"
    """How windows are compared with the reference: maximum mean discrepancy with a permutation test, computed by
    alibi-detect (mmd; Business Source License 1.1) or by frouros (frouros_mmd; BSD-3-Clause)."""
    drift_p_value: float = Field(default=0.005, gt=0, lt=1)
    """A window with a smaller p-value counts as drifted."""
    drift_permutations: int = Field(default=1000, ge=10)
    """Random permutations behind a p-value; needs more than 1 / drift_p_value."""
    drift_reference_size: int = Field(default=1000, ge=50)
    """At most so many reference inputs, drawn at random, stand for each world."""
    drift_confirmations: int = Field(default=2, ge=1)
    """Drifted windows among the last drift_confirmation_windows that make a shift."""
    drift_confirmation_windows: int = Field(default=3, ge=1)
    """Windows looked back on to confirm a shift. As many calm ones in a row end a drift event."""
    require_harm: bool = True
    """Raise an alert only if the estimated accuracy has fallen too. Without harm, a shift shows in the metrics only."""
    harm_margin: float = Field(default=0.03, ge=0, lt=1)
    """How far the estimated accuracy must lie below the reference accuracy to count as harm (0.03 = 3 points)."""

    alert_webhook_url: HttpUrl | None = None
    """Each drift event is posted here as JSON. Default: none; events then show in the case book and the metrics."""
    alert_webhook_token: SecretStr | None = None
    """Bearer token sent with each alert."""
    alert_timeout_seconds: float = Field(default=10.0, gt=0)
    """How long the webhook may take to answer."""

    monitor_metrics_host: str = "127.0.0.1"
    """Address of the monitor's Prometheus metrics."""
    monitor_metrics_port: int = Field(default=8082, ge=0, le=65535)
    """Port of the monitor's Prometheus metrics; 0 picks a free one. Not opened with --once."""
    monitor_device: str = "cpu"
    """PyTorch device for the model and the detector."""
    monitor_threads: int | None = Field(default=None, ge=1)
    """Threads PyTorch may use. Default: PyTorch's own choice."""
    monitor_seed: int = Field(default=0, ge=0)
    """Seed of the permutations and of the reference sample: the same window always gets the same answer."""

    @model_validator(mode="after")
    def _can_alert(self) -> Self:
        if self.drift_confirmations > self.drift_confirmation_windows:
            raise ValueError(
                f"drift_confirmations ({self.drift_confirmations}) must not be larger than "
                f"drift_confirmation_windows ({self.drift_confirmation_windows})"
            )
        if self.drift_p_value * (1 + self.drift_permutations) <= 1:
            raise ValueError(
                f"drift_permutations ({self.drift_permutations}) must be larger than 1 / drift_p_value "
                f"({1 / self.drift_p_value:.0f}), or no window could ever count as drifted"
            )
        return self
