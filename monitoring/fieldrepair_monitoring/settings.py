"""Settings of the monitor. Each is also a command line option and an environment variable."""

from __future__ import annotations

import os
from typing import Literal

from pydantic import Field, HttpUrl, SecretStr, model_validator
from typing_extensions import Self

from fieldrepair_monitoring.false_alarms import rate_for
from fieldrepair_service.inputs import InputSpec, TabularInput
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
    detectors: str = "mmd,uncertainty,trend"
    """How windows are compared with the reference: one name, or several with commas between them. mmd, lsdd,
    learned_kernel, online_mmd and frouros_mmd look at embeddings; ks, uncertainty, frouros_ks and classes at class
    scores; context_mmd and trend at both; tabular at the columns of tables (unless this is set, it is added for those).
    trend compares with the field's own earlier windows, all others with the reference. frouros_... are by frouros
    (BSD-3-Clause), classes, trend and tabular our own, all others by alibi-detect (Business Source License 1.1)."""
    drift_p_value: float = Field(default=0.005, gt=0, lt=1)
    """Rate of false alarms per window, for all detectors together: a window with a smaller p-value has drifted."""
    drift_false_alarms_per_day: float | None = Field(default=None, gt=0)
    """Sets drift_p_value so that confirmed false alarms come so often per day of unchanged traffic at most, on average;
    needs drift_field_inputs_per_day. Default: drift_p_value as it is."""
    drift_field_inputs_per_day: float | None = Field(default=None, gt=0)
    """Traffic of one model version, for drift_false_alarms_per_day."""
    drift_multiplicity: Literal["bonferroni", "bh"] = "bonferroni"
    """How the p-values of several detectors make one decision: Bonferroni, or Benjamini-Hochberg (bh)."""
    drift_min_effect: float = Field(default=0.5, ge=0)
    """Windows with a smaller effect never count as drifted. 1 is the distance that chance shows in windows of 100 (95 %
    of them stay below); it matters for windows of several thousand, which see differences that are there and mean
    nothing."""
    drift_calibration_windows: int = Field(default=2000, ge=100)
    """Windows drawn from the reference to learn what chance does; more than the number of detectors / drift_p_value."""
    drift_reference_size: int = Field(default=2000, ge=50)
    """At most so many reference inputs, drawn at random, stand for each world."""
    drift_confirmations: int = Field(default=2, ge=1)
    """Drifted windows among the last drift_confirmation_windows that make a shift. Up to 2, an alarm of the detector
    trend that its last windows agree on makes one by itself: it is as rare by chance."""
    drift_confirmation_windows: int = Field(default=3, ge=1)
    """Windows looked back on to confirm a shift. As many calm ones in a row end a drift event."""
    drift_cooldown_seconds: float = Field(default=0.0, ge=0)
    """For so long after a drift event has ended no new one is opened; a shift that is still there then is one."""
    require_harm: bool = True
    """Raise an alert only if the estimated accuracy has fallen too. Without harm, a shift shows in the metrics only."""
    harm_margin: float = Field(default=0.03, ge=0, lt=1)
    """How far the estimated accuracy must lie below the reference accuracy to count as harm (0.03 = 3 points)."""

    alert_webhook_url: HttpUrl | None = None
    """Each drift event, and each candidate that waits for approval, is posted here. Default: none; both then show in
    the case book and the metrics."""
    alert_webhook_format: Literal["json", "slack"] = "json"
    """What is posted: plain JSON with every field, or a message for Slack's incoming webhooks."""
    alert_webhook_token: SecretStr | None = None
    """Bearer token sent with each alert."""
    alert_timeout_seconds: float = Field(default=10.0, gt=0)
    """How long the webhook may take to answer."""

    monitor_metrics_host: str = "127.0.0.1"
    """Address of the monitor's Prometheus metrics."""
    monitor_metrics_port: int = Field(default=8082, ge=0, le=65535)
    """Port of the monitor's Prometheus metrics; 0 picks a free one. Not opened with --once."""
    monitor_device: str = "auto"
    """PyTorch device for the model and the detectors. auto: a GPU if there is one, else the CPU."""
    monitor_threads: int | None = Field(default=None, ge=1)
    """Threads PyTorch may use. Default: PyTorch's own choice."""
    monitor_seed: int = Field(default=0, ge=0)
    """Seed of calibration windows and of the reference sample: the same window always gets the same answer."""

    @model_validator(mode="after")
    def _can_alert(self) -> Self:
        if self.drift_confirmations > self.drift_confirmation_windows:
            raise ValueError(
                f"drift_confirmations ({self.drift_confirmations}) must not be larger than "
                f"drift_confirmation_windows ({self.drift_confirmation_windows})"
            )
        if len(set(self.detector_names)) < len(self.detector_names) or not self.detector_names:
            raise ValueError(f"detectors must be different names with commas between them, got {self.detectors!r}")
        if (self.drift_false_alarms_per_day is None) != (self.drift_field_inputs_per_day is None):
            raise ValueError("drift_false_alarms_per_day and drift_field_inputs_per_day are set together, or neither")
        share = self.false_alarm_rate / len(self.detector_names)
        if share * (1 + self.drift_calibration_windows) <= 1:
            raise ValueError(
                f"drift_calibration_windows ({self.drift_calibration_windows}) must be larger than the number of "
                f"detectors / the rate of false alarms per window ({1 / share:.0f}), or no window could ever count as "
                "drifted"
            )
        return self

    @property
    def torch_device(self) -> str:
        """The device that ``monitor_device`` means on this machine."""
        if self.monitor_device != "auto":
            return self.monitor_device
        import torch  # takes seconds: only when a model is about to run

        return "cuda" if torch.cuda.is_available() else "cpu"

    @property
    def detector_names(self) -> tuple[str, ...]:
        """The detectors, in order."""
        return tuple(name.strip() for name in self.detectors.split(",") if name.strip())

    def detector_names_for(self, spec: InputSpec) -> tuple[str, ...]:
        """The detectors for a version with such inputs: of tables the columns are looked at too.

        Not where ``detectors`` was set, nor with too few calibration windows for one more detector.
        """
        names = (*self.detector_names, "tabular")
        enough = self.false_alarm_rate / len(names) * (1 + self.drift_calibration_windows) > 1
        if isinstance(spec, TabularInput) and "detectors" not in self.model_fields_set and enough:
            return names
        return self.detector_names

    @property
    def false_alarm_rate(self) -> float:
        """Per window, for all detectors together: ``drift_p_value``, or what follows from the rate per day."""
        if self.drift_false_alarms_per_day is None or self.drift_field_inputs_per_day is None:
            return self.drift_p_value
        return rate_for(
            self.drift_false_alarms_per_day,
            field_inputs_per_day=self.drift_field_inputs_per_day,
            window_size=self.window_size,
            confirmations=self.drift_confirmations,
            windows=self.drift_confirmation_windows,
        )
