"""A small network on real scans of digits, registered with its hand-over; and a writer of field logs."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
from torch import nn

from fieldrepair_monitoring.reference import Reference
from fieldrepair_monitoring.settings import MonitorSettings
from fieldrepair_service.field_log import FieldLog
from fieldrepair_service.field_rows import FIELD_LOG_SCHEMA

Images = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Digits:
    """Disjoint parts of scikit-learn's 1,797 scans; images (n, 1, 8, 8) float32 in 0..1."""

    train_x: Images
    train_y: Labels
    val_x: Images
    val_y: Labels
    field_x: Images
    field_y: Labels

    @property
    def reference(self) -> Reference:
        return Reference(self.train_x, self.train_y, self.val_x, self.val_y)


@dataclass(frozen=True)
class Registered:
    """A registry with the model `digits`, version 1."""

    tracking_uri: str
    artifacts: Path
    name: str = "digits"
    version: str = "1"


@dataclass
class FieldWriter:
    """Appends rows to a field log as the shipper does."""

    log: FieldLog
    name: str = "digits"
    version: str = "1"
    writer: str = "spool-1"
    seq: int = 0
    clock_ms: int = 1_700_000_000_000

    def write(
        self, instances: npt.NDArray[np.generic], *, per_request: int = 1, columns: list[str] | None = None
    ) -> None:
        """One request per ``per_request`` instances, each with its own sequence number, 10 ms apart.

        ``columns`` is what the requests call the numbers of a row.
        """
        records: list[dict[str, object]] = []
        for start in range(0, len(instances), per_request):
            self.seq += 1
            self.clock_ms += 10
            for row, instance in enumerate(instances[start : start + per_request]):
                records.append({**self._record(instance, row), "columns": columns})
        self.log.append(pa.Table.from_pylist(records, schema=FIELD_LOG_SCHEMA), writer=self.writer, last_seq=self.seq)

    def _record(self, instance: npt.NDArray[np.generic], row: int) -> dict[str, object]:
        little = np.ascontiguousarray(instance).astype(instance.dtype.newbyteorder("<"))
        return {
            "writer": self.writer,
            "seq": self.seq,
            "row": row,
            "request_id": f"{self.clock_ms}-{self.writer}-{self.seq}",
            "timestamp_ms": self.clock_ms,
            "date": "2023-11-14",
            "model_name": self.name,
            "model_version": self.version,
            "protocol": "mlflow",
            "status_code": 200,
            "execution_time_ms": 1.0,
            "sampling_fraction": 1.0,
            "input": little.tobytes(),
            "dtype": instance.dtype.name,
            "shape": list(instance.shape),
        }


@pytest.fixture(scope="session")
def digits() -> Digits:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    order = np.random.default_rng(0).permutation(len(bunch.target))
    images = (bunch.images / 16.0).astype(np.float32)[order, None]
    labels = bunch.target.astype(np.int64)[order]
    return Digits(images[:600], labels[:600], images[600:1000], labels[600:1000], images[1000:], labels[1000:])


@pytest.fixture(scope="session")
def network(digits: Digits) -> nn.Module:
    """About 95 % right on scans it has not seen; trained in about a second."""
    import torch
    from torch.nn import functional as F

    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(512, 32),
        nn.ReLU(),
        nn.Linear(32, 10),
    )
    optimiser = torch.optim.Adam(module.parameters(), lr=3e-3)
    x, y = torch.from_numpy(digits.train_x), torch.from_numpy(digits.train_y)
    for _ in range(15):
        for start in range(0, len(x), 50):
            optimiser.zero_grad()
            F.cross_entropy(module(x[start : start + 50]), y[start : start + 50]).backward()
            optimiser.step()
    return module.eval()


@pytest.fixture(scope="session")
def registered(digits: Digits, network: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Registered:
    import mlflow

    from fieldrepair_plugin import log_model

    folder = tmp_path_factory.mktemp("registry")
    place = Registered(f"sqlite:///{folder}/mlflow.db", folder / "artifacts")
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(place.tracking_uri)
    try:
        mlflow.create_experiment("digits", artifact_location=str(place.artifacts))
        mlflow.set_experiment("digits")
        log_model(network, reference=digits.reference, registered_model_name=place.name, pip_requirements=["torch"])
    finally:
        mlflow.set_tracking_uri(before)
    return place


@pytest.fixture
def registry(registered: Registered, monkeypatch: pytest.MonkeyPatch) -> Iterator[Registered]:
    """MLflow in this test points to the registry."""
    import mlflow

    before = mlflow.get_tracking_uri()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", registered.tracking_uri)
    mlflow.set_tracking_uri(registered.tracking_uri)
    mlflow.set_experiment("digits")
    yield registered
    mlflow.set_tracking_uri(before)


@pytest.fixture
def log(tmp_path: Path) -> FieldLog:
    return FieldLog.open(tmp_path / "state" / "field_log")


@pytest.fixture
def field(log: FieldLog) -> FieldWriter:
    return FieldWriter(log)


@pytest.fixture
def settings(tmp_path: Path) -> Callable[..., MonitorSettings]:
    """Settings with windows of 50 and stores in the test's folder; keyword arguments change them."""

    def make(**changes: object) -> MonitorSettings:
        values: dict[str, object] = {
            "state_dir": tmp_path / "state",
            "window_size": 50,
            "poll_seconds": 0.05,
            "detectors": "mmd",
            "drift_calibration_windows": 500,
            "monitor_threads": 1,
            "monitor_metrics_port": 0,
        }
        return MonitorSettings.model_validate({**values, **changes})

    return make


def pytest_configure(config: pytest.Config) -> None:
    # Must stand before mlflow is imported; see tests/conftest.py for the rest.
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
