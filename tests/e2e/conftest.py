"""The real processes of a platform: an MLflow server and ``fieldrepair up``, with the demo's network and clients."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import pytest
from mlflow import MlflowClient

from examples.digits.data import CLASS_NAMES, SERVED_AS, Part, split_scans
from examples.digits.model import train_network
from examples.digits.platform import FieldRepair, Platform
from fieldrepair_monitoring.reference import Reference
from fieldrepair_plugin import log_model
from fieldrepair_plugin.processes import group_members

MODEL = "digits"


@pytest.fixture(scope="session")
def scans() -> dict[str, Part]:
    """The demo's four parts of real scans."""
    return split_scans()


@pytest.fixture(scope="session")
def platform(tmp_path_factory: pytest.TempPathFactory, scans: dict[str, Part]) -> Iterator[Platform]:
    """An MLflow server whose registry holds the digits network as version 1, the champion."""
    platform = Platform.start_mlflow(tmp_path_factory.mktemp("platform"))
    before = str(mlflow.get_tracking_uri())
    mlflow.set_tracking_uri(platform.mlflow_url)
    try:
        mlflow.set_experiment(MODEL)
        register_digits(scans)
        MlflowClient().set_registered_model_alias(MODEL, "champion", "1")
        yield platform
    finally:
        mlflow.set_tracking_uri(before)
        platform.stop()


def register_digits(scans: dict[str, Part]) -> None:
    """Train and register one more version of the network."""
    train, validation = scans["train"], scans["validation"]
    log_model(
        train_network(train, epochs=30),
        registered_model_name=MODEL,
        reference=Reference(train.images, train.labels, validation.images, validation.labels),
        class_names=CLASS_NAMES,
        input=SERVED_AS,
        pip_requirements=["torch"],
    )


def with_settings(platform: Platform, folder: Path, **settings: object) -> Platform:
    """The platform with another folder, and FIELDREPAIR_ settings for what it starts."""
    environment = {f"FIELDREPAIR_{name.upper()}": str(value) for name, value in settings.items()}
    environment.setdefault("FIELDREPAIR_MONITOR_METRICS_PORT", "0")
    return dataclasses.replace(platform, folder=folder, environment={**platform.environment, **environment})


def status_of(folder: Path) -> dict[str, Any]:
    """What ``up`` wrote about itself."""
    return json.loads((folder / "state" / "up.json").read_text())


def every_process(running: FieldRepair, folder: Path) -> set[int]:
    """Ids of ``up`` and everything it started, down to the grandchildren."""
    groups = [running.process.handle.pid, *status_of(folder)["processes"]]
    return {pid for group in groups for pid in group_members(group)}


def still_running(pids: set[int]) -> set[int]:
    """Those of them that have not ended."""
    return {pid for pid in pids if _state(pid) not in ("", "Z", "X")}


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return ""
