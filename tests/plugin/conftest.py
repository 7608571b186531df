"""A small registered model with a hand-over, in a registry of this test session, and an MLflow server to hold it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from dataclasses import field as dataclass_field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest

from fieldrepair_plugin.processes import child_environment, free_port
from fieldrepair_plugin.settings import WorkerSettings
from fieldrepair_service.case_book import CaseBook, NewDriftEvent, Task, WindowRecord, open_case_book
from fieldrepair_service.field_log import FIELD_LOG_SCHEMA, FieldLog
from fieldrepair_service.inputs import ImageInput

CLASSES = ("top left", "top right", "bottom left", "bottom right")


def quadrants(n: int, seed: int, dim: float = 1.0) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """(n, 1, 8, 8) noisy images with one bright quadrant, and which one; ``dim`` < 1 is a weaker lamp."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, 4, n)
    images = generator.uniform(0.0, 0.3, (n, 1, 8, 8))
    for image, label in zip(images, labels, strict=True):
        top, left = 4 * (int(label) // 2), 4 * (int(label) % 2)
        image[0, top : top + 4, left : left + 4] += 0.6
    return np.rint(images * dim * 255).astype(np.float32) / 255, labels.astype(np.int64)


def stray_light(images: npt.NDArray[np.float32], quadrant: int = 0) -> npt.NDArray[np.float32]:
    """The same images after the camera was moved beside a window: the networks below answer "top left" throughout.

    With another quadrant the window is elsewhere, and so is what they answer.
    """
    lit = images.copy()
    top, left = 4 * (quadrant // 2), 4 * (quadrant % 2)
    lit[:, 0, top : top + 4, left : left + 4] = np.clip(lit[:, 0, top : top + 4, left : left + 4] + 0.7, 0.0, 1.0)
    return np.rint(lit * 255).astype(np.float32) / 255


@dataclass(frozen=True)
class Registry:
    """An MLflow registry with one model, ``quadrants``, in two versions."""

    tracking_uri: str
    name: str = "quadrants"


def log_versions(name: str, count: int, hidden: int = 16, *, batch_norm: bool = False) -> None:
    """Register ``count`` versions of a small network, with batch norm or without, in the registry of now."""
    import torch
    from torch import nn
    from torch.nn import functional as F

    from fieldrepair_monitoring.reference import Reference
    from fieldrepair_plugin import log_model

    train_x, train_y = quadrants(200, seed=1)
    val_x, val_y = quadrants(300, seed=2)
    for seed in range(count):
        torch.manual_seed(seed)
        norm = nn.BatchNorm1d(hidden) if batch_norm else nn.Identity()
        network = nn.Sequential(nn.Flatten(), nn.Linear(64, hidden), norm, nn.ReLU(), nn.Linear(hidden, 4))
        optimiser = torch.optim.Adam(network.parameters(), lr=0.02)
        for _ in range(60):
            optimiser.zero_grad()
            F.cross_entropy(network(torch.from_numpy(train_x)), torch.from_numpy(train_y)).backward()
            optimiser.step()
        log_model(
            network,
            reference=Reference(train_x, train_y, val_x, val_y),
            class_names=CLASSES,
            registered_model_name=name,
            pip_requirements=["torch"],
        )


@pytest.fixture(scope="session")
def mlflow_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of an MLflow tracking server with an empty registry."""
    folder = tmp_path_factory.mktemp("mlflow-server")
    with running_mlflow(folder, free_port()) as url:
        yield url


class running_mlflow:  # noqa: N801 - reads like the context manager it is
    """An MLflow server on ``folder``; the same folder again is the same registry again.

    Args:
        folder: for its log, and for database and artifacts unless they are elsewhere.
        port: to listen on.
        database: URL of another database.
        artifacts: where clients write artifacts themselves; default: through the server, into the folder.
        environment: of the server, besides this process's own.
    """

    def __init__(
        self,
        folder: Path,
        port: int,
        *,
        database: str | None = None,
        artifacts: str | None = None,
        **environment: str,
    ) -> None:
        self.folder, self.port, self.environment = folder, port, environment
        self.database = database or f"sqlite:///{folder}/mlflow.db"
        self.artifacts = artifacts
        self.url = f"http://127.0.0.1:{port}"

    def __enter__(self) -> str:
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port)]
        command += ["--backend-store-uri", self.database, "--workers", "1"]
        if self.artifacts is None:
            command += ["--artifacts-destination", str(self.folder / "artifacts"), "--serve-artifacts"]
        else:
            command += ["--default-artifact-root", self.artifacts, "--no-serve-artifacts"]
        log = (self.folder / "server.log").open("ab")
        with log:
            self.process = subprocess.Popen(
                command, env=child_environment(**self.environment), stdout=log, stderr=log, start_new_session=True
            )
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            assert self.process.poll() is None, (self.folder / "server.log").read_text()
            try:
                if httpx.get(f"{self.url}/health", trust_env=False).status_code == 200:
                    return self.url
            except httpx.HTTPError:
                time.sleep(0.2)
        raise AssertionError((self.folder / "server.log").read_text())

    def __exit__(self, *_exception: object) -> None:
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@pytest.fixture(scope="session")
def registry_file(tmp_path_factory: pytest.TempPathFactory) -> Registry:
    """A registry in an SQLite file, with two versions of the model. No server: the quickest there is."""
    import mlflow

    folder = tmp_path_factory.mktemp("registry")
    uri = f"sqlite:///{folder}/mlflow.db"
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(uri)
    try:
        # Named here, so that their artifacts go into this folder and not into the one the tests run in.
        for experiment in ("quadrants", "fieldrepair"):
            mlflow.create_experiment(experiment, artifact_location=str(folder / "artifacts" / experiment))
        mlflow.set_experiment("quadrants")
        log_versions("quadrants", 2)
    finally:
        mlflow.set_tracking_uri(before)
    return Registry(uri)


@pytest.fixture
def registry(registry_file: Registry, monkeypatch: pytest.MonkeyPatch) -> Iterator[Registry]:
    """:func:`registry_file`, and this test's MLflow points to it."""
    import mlflow

    before: Any = mlflow.get_tracking_uri()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", registry_file.tracking_uri)
    mlflow.set_tracking_uri(registry_file.tracking_uri)
    yield registry_file
    mlflow.set_tracking_uri(before)


@dataclass
class Field:
    """A field log and a case book in a folder, with shifted inputs of one model version and their true classes."""

    folder: Path
    log: FieldLog
    book: CaseBook
    name: str
    version: str = "1"
    truth: dict[tuple[str, int], int] = dataclass_field(default_factory=dict[tuple[str, int], int])
    sent: int = 0

    def send(self, count: int, *, per_request: int = 5, shifted: bool = True, quadrant: int = 0) -> None:
        """Log ``count`` field inputs, ``per_request`` in each request, as the sidecar would."""
        images, labels = quadrants(count, seed=100 + self.sent)
        images = stray_light(images, quadrant) if shifted else images
        rows: list[dict[str, object]] = []
        for index in range(count):
            number = self.sent + index
            request, row = f"{number // per_request:08d}", number % per_request
            self.truth[request, row] = int(labels[index])
            rows.append(
                {
                    "writer": "camera",
                    "seq": number // per_request,
                    "row": row,
                    "request_id": request,
                    "client_request_id": f"client-{request}",
                    "timestamp_ms": 1_700_000_000_000 + number,
                    "date": "2023-11-14",
                    "model_name": self.name,
                    "model_version": self.version,
                    "protocol": "mlflow",
                    "status_code": 200,
                    "execution_time_ms": 1.0,
                    "sampling_fraction": 1.0,
                    "input": images[index].tobytes(),
                    "dtype": "float32",
                    "shape": [1, 8, 8],
                }
            )
        self.sent += count
        table = pa.Table.from_pylist(rows, schema=FIELD_LOG_SCHEMA)
        self.log.append(table, writer="camera", last_seq=(self.sent - 1) // per_request)

    def open_case(self) -> int:
        """What the monitor does at an alert: record a window and open an event; the case's id."""
        checkpoint = self.book.checkpoint(self.name, self.version)
        index = 0 if checkpoint is None else checkpoint.next_window_index
        window = WindowRecord(index, 1, 2, 100, "mmd", 0.3, 0.01, 0.001, drifted=True, estimated_accuracy=0.3)
        event = NewDriftEvent(
            self.name, self.version, "mmd", 0.3, 0.001, 0.01, index, {}, 100, 0.3, 0.99,
            "mmd 0.3 > 0.01", CLASSES, SPEC.model_dump(mode="json"),
        )  # fmt: skip
        opened = self.book.record_windows(self.name, self.version, {"camera": (index, 0)}, [window], event)
        assert opened is not None
        return opened.case_id

    def answer(self, case_id: int, *, skip: Callable[[Task], bool] = lambda _: False) -> None:
        """A labeller who knows the truth answers every task, or skips it."""
        while (task := self.book.next_task(case_id, "labeller")) is not None:
            if skip(task):
                self.book.skip(task.id, "labeller")
            else:
                self.book.submit(task.id, self.truth[task.request_id, task.row], "labeller")


SPEC = ImageInput(height=8, width=8)


@pytest.fixture
def field(registry: Registry, tmp_path: Path) -> Iterator[Field]:
    """Stores in ``tmp_path / "state"``, and a model of this test's own, version 1, in the registry."""
    name = f"model-{tmp_path.name}-{os.getpid()}"
    log_versions(name, 1)
    state = tmp_path / "state"
    state.mkdir()
    with open_case_book(f"sqlite:///{state}/case_book.db") as book:
        yield Field(state, FieldLog.open(state / "field_log"), book, name)


@pytest.fixture
def worker_settings(field: Field) -> WorkerSettings:
    """Small numbers, so that a repair takes seconds."""
    return WorkerSettings(
        state_dir=field.folder,
        pool_minimum=120,
        acceptance_size=40,
        acceptance_minimum=10,
        label_fraction=0.15,
        epochs=3,
        margin=0.1,
        case_poll_seconds=0.05,
        lease_seconds=10,
        repair_threads=1,
    )
