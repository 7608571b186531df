"""``fieldrepair up`` when its parts, the registry or a new version fail: clients keep getting answers."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import httpx
import mlflow
import numpy as np
import numpy.typing as npt
import pytest
from mlflow import MlflowClient
from mlflow import pytorch as mlflow_pytorch
from torch import nn

from fieldrepair_plugin.processes import child_environment, free_port, group_members
from fieldrepair_service.case_book import CaseState, DriftEvent, open_case_book
from tests.plugin.conftest import log_versions, quadrants, running_mlflow, stray_light

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

T = TypeVar("T")
NAME = "quadrants"
HANDOVER_TAG = "fieldrepair.handover"


class Up:
    """A running ``fieldrepair up`` on a registry behind a real MLflow server."""

    def __init__(self, folder: Path, server: running_mlflow) -> None:
        self.folder = folder
        self.server = server
        self.state = folder / "state"
        self.log = folder / "up.log"
        self.process = self.start()

    def start(self) -> subprocess.Popen[bytes]:
        return self.command("--state-dir", str(self.state))

    def command(self, *options: str, model: str = f"models:/{NAME}@champion") -> subprocess.Popen[bytes]:
        environment = child_environment(
            MLFLOW_TRACKING_URI=self.server.url,
            FIELDREPAIR_TRAFFIC_PORT="0",
            FIELDREPAIR_CONTROL_PORT="0",
            FIELDREPAIR_MONITOR_METRICS_PORT="0",
            FIELDREPAIR_RETRY_SWITCH_SECONDS="3600",
        )
        with self.log.open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "fieldrepair_service.cli", "up", model, *options],
                env=environment,
                stdout=log,
                stderr=log,
            )

    def status(self) -> dict[str, Any]:
        path = self.state / "up.json"
        return json.loads(path.read_text()) if path.exists() else {"ready": False}

    def part(self, name: str) -> dict[str, Any]:
        return self.status()["parts"][name]

    def wait_for(self, what: str, ask: Callable[[], T | None], seconds: float = 200.0) -> T:
        deadline = time.monotonic() + seconds
        while (answer := ask()) in (None, False):
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, f"no {what}\n{self.log.read_text()}"
            time.sleep(0.1)
        assert answer is not None
        return answer

    def ask(self, images: npt.NDArray[np.float32] | None = None) -> httpx.Response:
        body = {"inputs": (quadrants(3, seed=5)[0] if images is None else images).tolist()}
        return httpx.post(f"{self.status()['traffic_url']}/invocations", json=body, timeout=30, trust_env=False)

    def answers(self) -> bool:
        try:
            return self.ask().status_code == 200
        except httpx.HTTPError:
            return False


class Watching:
    """Asks without pause while something is done to ``up``, and keeps what failed."""

    def __init__(self, up: Up) -> None:
        self._up = up
        self._stop = threading.Event()
        self.asked = 0
        self.failed: list[str] = []
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Watching:
        self._thread.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                answer = self._up.ask()
                if answer.status_code != 200:
                    self.failed.append(answer.text)
            except httpx.HTTPError as error:
                self.failed.append(repr(error))
            self.asked += 1


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    folder = tmp_path_factory.mktemp("up")
    (folder / "mlflow").mkdir()
    server = running_mlflow(folder / "mlflow", free_port())
    before = str(mlflow.get_tracking_uri())
    with server as url:
        mlflow.set_tracking_uri(url)
        mlflow.set_experiment(NAME)
        log_versions(NAME, 2)
        MlflowClient().set_registered_model_alias(NAME, "champion", "1")
        up = Up(folder, server)
        try:
            up.wait_for("ready line", lambda: up.status()["ready"])
            yield up
        finally:
            if up.process.poll() is None:
                up.process.send_signal(signal.SIGINT)
                up.process.wait(90)
            mlflow.set_tracking_uri(before)


def champion(version: str) -> None:
    MlflowClient().set_registered_model_alias(NAME, "champion", version)


def test_a_version_that_fails_its_own_inputs_gets_no_traffic(up: Up) -> None:
    """It loads and answers /ping; only its own reference inputs show that it is broken."""
    with mlflow.start_run():
        takes_63 = nn.Sequential(nn.Flatten(), nn.Linear(63, 4))
        info = mlflow_pytorch.log_model(
            takes_63, name="model", serialization_format="pickle", pip_requirements=["torch"]
        )
        handover = MlflowClient().get_model_version(NAME, "1").tags[HANDOVER_TAG]
        broken = mlflow.register_model(info.model_uri, NAME, tags={HANDOVER_TAG: handover})
    with Watching(up) as clients:
        champion(str(broken.version))
        failed = up.wait_for(
            "refusal", lambda: part if (part := up.part("model server"))["state"] == "failed" else None
        )
        assert f"v{broken.version} does not come up, {NAME} v1 goes on" in failed["text"]
        assert up.status()["version"] == "1"
        champion("1")
        up.wait_for("way back", lambda: up.part("model server")["state"] == "ready")
    assert clients.failed == []
    assert clients.asked > 10


def test_the_registry_goes_away_and_comes_back(up: Up) -> None:
    with Watching(up) as clients:
        up.server.__exit__()
        waiting = up.wait_for("note", lambda: part if (part := up.part("registry"))["state"] == "waiting" else None)
        assert "the registry does not answer" in waiting["text"]
        assert f"{NAME} v1 goes on" in waiting["text"]
        up.server.__enter__()
        up.wait_for("registry", lambda: up.part("registry")["state"] == "ready")
    assert clients.failed == []


def test_everything_but_promotion_goes_on_without_the_registry(up: Up) -> None:
    """Parts die meanwhile, ``up`` itself too, and a drift event opens a case; what waits is done afterwards."""
    up.server.__exit__()
    up.wait_for("note", lambda: up.part("registry")["state"] == "waiting")
    for part in ("model server", "monitor"):
        pid = up.part(part)["pid"]
        os.killpg(pid, signal.SIGKILL)
        up.wait_for("restart", lambda part=part, pid=pid: up.part(part)["pid"] != pid and up.answers())
        up.wait_for("part", lambda part=part: up.part(part)["state"] == "ready")
    with open_case_book(f"sqlite:///{up.state}/case_book.db") as book:
        seeds = iter(range(100, 1000))

        def alert() -> DriftEvent | None:
            images = stray_light(quadrants(50, seed=next(seeds))[0])
            assert up.ask(images).status_code == 200
            return book.open_event(NAME, "1")

        event = up.wait_for("drift event", alert)
        assert book.case(event.case_id).state is CaseState.ANNOTATING

        up.process.kill()
        up.process.wait()
        (up.state / "up.json").unlink()
        up.process = up.start()
        up.wait_for("ready line", lambda: up.status()["ready"])
        assert up.status()["version"] == "1"
        assert up.answers()
        assert "so version 1 is served as before" in up.log.read_text()

        up.server.__enter__()
        up.wait_for("registry", lambda: up.part("registry")["state"] == "ready")
        while book.case(event.case_id).planned_ms is None:
            assert up.ask(stray_light(quadrants(50, seed=next(seeds))[0])).status_code == 200
        assert [case.id for case in book.cases()] == [event.case_id]


@pytest.mark.parametrize("part", ["model server", "sidecar", "monitor", "worker"])
def test_a_part_that_dies_comes_back(up: Up, part: str) -> None:
    pid = up.wait_for("part", lambda: up.part(part)["pid"] if up.part(part)["state"] == "ready" else None)
    os.killpg(pid, signal.SIGKILL)
    up.wait_for("restart", lambda: up.part(part)["pid"] != pid and up.part(part)["state"] == "ready")
    up.wait_for("answers", up.answers)
    if part in ("monitor", "worker"):
        assert f"{part:<12}  restarting  ended with status -9" in up.log.read_text()


def test_a_second_up_in_the_same_folder_is_refused(up: Up) -> None:
    second = up.command("--state-dir", str(up.state))
    assert second.wait(120) == 1
    assert f"another `fieldrepair up` (process {up.process.pid}) already works in" in up.log.read_text()
    assert up.answers()


def test_what_is_not_there_is_named(up: Up, tmp_path: Path) -> None:
    other = up.command("--state-dir", str(tmp_path), model=f"models:/{NAME}@golden")
    assert other.wait(120) == 1
    assert "the alias 'golden' is not set" in up.log.read_text()
    assert not (tmp_path / "up.json").exists()


def test_nothing_outlives_a_killed_up(up: Up) -> None:
    """Last, for it ends this ``up``: SIGKILL leaves it no time to stop anything."""
    groups = list(up.status()["processes"])
    assert len(groups) >= 4
    # The children of parts, too: the model server under mlflow's command, the sidecar's shipper.
    assert sum(len(group_members(group)) for group in groups) > len(groups)
    up.process.kill()
    up.process.wait()
    deadline = time.monotonic() + 60
    while any(group_members(group) for group in groups) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert [group for group in groups if group_members(group)] == []
