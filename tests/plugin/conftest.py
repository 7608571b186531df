"""A small registered model with a hand-over, in a registry of this test session, and an MLflow server to hold it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import numpy.typing as npt
import pytest

from fieldrepair_plugin.processes import child_environment, free_port

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


@dataclass(frozen=True)
class Registry:
    """An MLflow registry with one model, ``quadrants``, in two versions."""

    tracking_uri: str
    name: str = "quadrants"


def log_versions(name: str, count: int) -> None:
    """Register ``count`` versions of a small network in the registry MLflow points to now."""
    import torch
    from torch import nn
    from torch.nn import functional as F

    from fieldrepair_monitoring.reference import Reference
    from fieldrepair_plugin import log_model

    train_x, train_y = quadrants(200, seed=1)
    val_x, val_y = quadrants(300, seed=2)
    for seed in range(count):
        torch.manual_seed(seed)
        network = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 4))
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
    """An MLflow server on ``folder``; the same folder again is the same registry again."""

    def __init__(self, folder: Path, port: int) -> None:
        self.folder, self.port = folder, port
        self.url = f"http://127.0.0.1:{port}"

    def __enter__(self) -> str:
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port)]
        command += ["--backend-store-uri", f"sqlite:///{self.folder}/mlflow.db", "--workers", "1"]
        command += ["--artifacts-destination", str(self.folder / "artifacts"), "--serve-artifacts"]
        log = (self.folder / "server.log").open("ab")
        with log:
            self.process = subprocess.Popen(
                command, env=child_environment(), stdout=log, stderr=subprocess.STDOUT, start_new_session=True
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
        mlflow.create_experiment("quadrants", artifact_location=str(folder / "artifacts"))
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
