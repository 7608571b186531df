"""Settings of the plugin's commands. Each is also a command-line option and an environment variable."""

from __future__ import annotations

from importlib.metadata import entry_points
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator
from pydantic_settings import CliPositionalArg
from typing_extensions import Self

from fieldrepair_monitoring.settings import RegistrySettings
from fieldrepair_plugin.canary_plan import CanaryPlan


class ModelServerSettings(RegistrySettings):
    """How a model server is run."""

    server_workers: int = Field(default=1, ge=1)
    """Worker processes of a model server."""
    server_start_seconds: float = Field(default=180.0, gt=0)
    """How long a model server may take to come up."""
    server_request_seconds: int = Field(default=60, gt=0)
    """How long a model server may take for one request."""


class UpSettings(ModelServerSettings):
    """What ``up`` runs, and where it listens."""

    model: CliPositionalArg[str]
    """Model to serve: models:/NAME@ALIAS (followed as the alias moves) or models:/NAME/VERSION."""

    traffic_host: str = "127.0.0.1"
    """Address the sidecar takes predictions on."""
    traffic_port: int = Field(default=8080, ge=0, le=65535)
    """Port the sidecar takes predictions on; 0 picks a free one."""
    control_host: str = "127.0.0.1"
    """Address of the control port (console, API, metrics)."""
    control_port: int = Field(default=8081, ge=0, le=65535)
    """Control port; 0 picks a free one."""
    monitor_metrics_port: int = Field(default=8082, ge=0, le=65535)
    """Port of the monitor's Prometheus metrics; 0 picks a free one."""

    alias_poll_seconds: float = Field(default=1.0, gt=0)
    """Pause between two looks at the alias."""
    switch_drain_seconds: float = Field(default=60.0, ge=0)
    """How long the old model server may take for its last requests after a switch."""
    stop_seconds: float = Field(default=40.0, gt=0)
    """How long a part may take to stop before it is killed."""
    retry_switch_seconds: float = Field(default=600.0, gt=0)
    """A version that did not come up is tried again after this time, or as soon as the alias has moved."""

    shadow: bool = True
    """Let a version with the alias candidate answer a copy of some of the traffic while it waits for approval, if
    memory allows."""
    shadow_inputs_per_second: float = Field(default=20.0, gt=0)
    """Field inputs that a shadowed candidate is sent, on average, at most."""

    canary_percent: float = Field(default=0.0, ge=0, le=100)
    """Share of the traffic that a newer version gets at first. 0: all of it at once, without a canary. Moving the alias
    to an earlier version takes effect at once in either case."""
    canary_seconds: float = Field(default=600.0, ge=0)
    """For how long, at least; then it gets everything."""
    canary_requests: int = Field(default=100, ge=1)
    """And until it had so many requests."""
    canary_max_failures: float = Field(default=0.02, ge=0, le=1)
    """It goes back if its share of failed requests is surely higher than the champion's by more than this."""
    canary_max_slowdown: float = Field(default=1.5, ge=1)
    """It goes back if its mean time is more than so many times the champion's."""
    canary_max_accuracy_loss: float = Field(default=0.05, ge=0, le=1)
    """It goes back if its estimated accuracy is lower than the champion's by more than this."""

    def canary_plan(self) -> CanaryPlan:
        """How a new version is let in."""
        return CanaryPlan(
            percent=self.canary_percent,
            seconds=self.canary_seconds,
            requests=self.canary_requests,
            max_failures=self.canary_max_failures,
            max_slowdown=self.canary_max_slowdown,
            max_accuracy_loss=self.canary_max_accuracy_loss,
        )


class TrainingSettings(RegistrySettings):
    """How a version was trained, as far as its run's params do not say, and where to train."""

    model: CliPositionalArg[str]
    """Model version: models:/NAME/VERSION or models:/NAME@ALIAS."""
    optimiser: Literal["sgd", "adam", "adamw", "rmsprop", "adagrad"] | None = None
    """Optimiser it was trained with. Default: what its run's params say, else adam."""
    learning_rate: float | None = Field(default=None, gt=0)
    """Learning rate. Default: what its run's params say, else 0.001."""
    momentum: float | None = Field(default=None, ge=0, lt=1)
    """Momentum of sgd or rmsprop. Default: what its run's params say, else 0.9."""
    weight_decay: float | None = Field(default=None, ge=0)
    """Weight decay. Default: what its run's params say, else 0."""
    batch_size: int | None = Field(default=None, ge=1)
    """Inputs per step. Default: what its run's params say, else 32."""
    training_epochs: int | None = Field(default=None, ge=1)
    """Epochs of one training. Default: what its run's params say, else 10."""
    loss: Literal["cross_entropy", "nll", "mse"] | None = None
    """Loss. Default: what its run's params say, else the one that fits the model's output."""
    training_seed: int = Field(default=0, ge=0)
    """Seed of every draw."""
    training_device: str = "cpu"
    """PyTorch device to train on."""
    training_threads: int | None = Field(default=None, ge=1)
    """Threads PyTorch may use. Default: PyTorch's own choice."""

    @property
    def told(self) -> dict[str, object]:
        """The knobs of the training that were given here, by the names of a training plan."""
        names = ("optimiser", "learning_rate", "momentum", "weight_decay", "batch_size", "loss")
        return {**{name: getattr(self, name) for name in names}, "epochs": self.training_epochs}


class WorkerSettings(RegistrySettings):
    """How the worker plans, trains and judges."""

    model_name: str | None = None
    """Only cases of this registered model. Default: all."""
    case_poll_seconds: float = Field(default=2.0, gt=0)
    """Pause between two looks at the case book."""
    lease_seconds: float = Field(default=60.0, ge=5)
    """How long a claimed case stays this worker's without a sign of life."""

    pool_minimum: int = Field(default=500, ge=10)
    """Field inputs a case waits for before its tasks are chosen."""
    pool_maximum: int = Field(default=10_000, ge=10)
    """At most so many field inputs are used, the first after the shift."""
    label_fraction: float = Field(default=0.05, gt=0, le=1)
    """Labels for repair that a case may ask for, as a share of its field inputs."""
    acceptance_size: int = Field(default=100, ge=10)
    """Field inputs drawn at random, whole requests at a time, that are labelled to judge the result, never to train."""
    acceptance_minimum: int = Field(default=20, ge=5)
    """Acceptance labels below which a case is rejected: too few to show that a repair is one."""
    double_label_share: float = Field(default=0.0, ge=0, le=1)
    """Share of a case's questions that two people answer, to learn how well they agree. A third is asked where they
    differ, so this needs three labellers."""
    training_attempts: int = Field(default=3, ge=1)
    """Trainings that may fail before a case is rejected."""

    repair_strategy: str = "hybridrepair"
    """Who chooses what to ask and trains: an installed strategy by name (docs/repair.md lists them). Those that need no
    labels ask for the acceptance sample only; full is for benchmarks."""
    recipe: Literal["auto", "paper", "default"] = "auto"
    """How a repair chooses and trains: as the paper says, or by our own recipe, called default. Auto takes ours for
    models with batch norm and the paper's for others (docs/repair.md says why)."""
    keep_reference: Literal["strict", "balanced", "off"] = "strict"
    """How much of the old world a repair must keep: strict, balanced, or off (only the field matters)."""
    margin: float = Field(default=0.01, gt=0, lt=1)
    """How much accuracy on the reference validation set a candidate may lose."""
    alpha: float = Field(default=0.05, gt=0, lt=1)
    """Significance level of the acceptance test."""
    epochs: int = Field(default=10, ge=1)
    """Epochs of the repair."""
    repair_seed: int = Field(default=0, ge=0)
    """Seed of every random draw; each case and attempt derives its own."""
    repair_device: str | None = None
    """PyTorch device to repair on. Default: a GPU where PyTorch finds one, else the processor."""
    repair_threads: int | None = Field(default=None, ge=1)
    """Threads PyTorch may use. Default: PyTorch's own choice."""
    worker_once: bool = False
    """Work every case as far as it goes now, then stop."""

    @property
    def cases_dir(self) -> Path:
        """Where the plan, the checkpoint and the selection of each case are kept."""
        return self.state_dir.absolute() / "cases"

    @property
    def handover_cache(self) -> Path:
        """Where downloaded hand-overs are kept; shared with the monitor."""
        return self.state_dir.absolute() / "cache" / "handovers"

    @model_validator(mode="after")
    def _strategy_is_installed(self) -> Self:
        # By name only: loading them would load torch, which a command's help does not need.
        names = sorted({each.name for each in entry_points(group="fieldrepair.strategies")} - {"full"})
        if self.repair_strategy not in names:
            raise ValueError(f"repair_strategy must be one of {', '.join(names)}; got {self.repair_strategy!r}")
        return self

    @model_validator(mode="after")
    def _pool_holds_both_samples(self) -> Self:
        if self.pool_minimum < 2 * self.acceptance_size:
            raise ValueError(
                f"pool_minimum ({self.pool_minimum}) must be at least twice acceptance_size ({self.acceptance_size}): "
                "what judges a repair is not there to make it"
            )
        if self.pool_maximum < self.pool_minimum:
            raise ValueError(f"pool_maximum ({self.pool_maximum}) must not be below pool_minimum ({self.pool_minimum})")
        if self.acceptance_minimum > self.acceptance_size:
            raise ValueError(
                f"acceptance_minimum ({self.acceptance_minimum}) must not be above acceptance_size "
                f"({self.acceptance_size})"
            )
        return self
