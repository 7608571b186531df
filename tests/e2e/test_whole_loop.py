"""The whole loop with real processes: serve, log, notice drift, label, repair, approve, switch, roll back, stop."""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import httpx
import numpy as np
import pytest
from mlflow import MlflowClient, pyfunc

from examples.digits.clients import Client, Labeller
from examples.digits.data import Part, RemountedScanner
from examples.digits.platform import FieldRepair, Platform, wait_for
from tests.e2e.conftest import MODEL, every_process, status_of, still_running, with_settings

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]


class Load:
    """Clients that ask without pause, each over a kept connection and over fresh ones, and count what fails."""

    def __init__(self, url: str, part: Part, clients: int = 3) -> None:
        self.requests = 0
        self.failures: list[str] = []
        self.predictions_by_second: dict[int, int] = {}
        self._url, self._part = url, part
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._run, args=(number,)) for number in range(clients)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _run(self, number: int) -> None:
        generator = np.random.default_rng(number)
        with httpx.Client(timeout=30.0, trust_env=False) as kept:
            while not self._stop.is_set():
                at = int(generator.integers(len(self._part) - 2))
                body = {"inputs": self._part.images[at : at + 2].tolist()}
                problem = self._ask(kept if generator.random() < 0.8 else None, body)
                with self._lock:
                    self.requests += 1
                    if problem:
                        self.failures.append(problem)

    def _ask(self, client: httpx.Client | None, body: dict[str, Any]) -> str:
        try:
            if client is None:
                answer = httpx.post(f"{self._url}/invocations", json=body, timeout=30.0, trust_env=False)
            else:
                answer = client.post(f"{self._url}/invocations", json=body)
        except httpx.HTTPError as error:
            return repr(error)
        if answer.status_code != 200 or len(answer.json()["predictions"]) != 2:
            return f"{answer.status_code} {answer.text[:200]}"
        return ""


def serves(running: FieldRepair, version: str) -> bool | None:
    return running.served_version() == version or None


def approve_in_console(running: FieldRepair, case: dict[str, Any]) -> None:
    """What the button on the case's page sends; ``up`` is to move the alias."""
    place = f"{case['state']}/{case['attempt']}/{case['candidate_version']}"
    path = f"/cases/{case['id']}/promote"
    answer = running.control.post(path, data={"place": place, "reason": "fewer mistakes"})
    assert answer.status_code == 303, answer.text


def move_alias(version: str) -> None:
    """What somebody does in MLflow."""
    MlflowClient().set_registered_model_alias(MODEL, "champion", version)


def switch_under_load(running: FieldRepair, part: Part, version: str, folder: Path, decide: Callable[[], None]) -> Load:
    """Decide, wait until the new version serves and the old server is gone, keep asking all the while."""
    with Load(running.traffic_url, part) as load:
        time.sleep(0.5)
        decide()
        wait_for(f"version {version}", lambda: serves(running, version), seconds=150, process=running.process)
        wait_for(
            "the old server to end",
            lambda: sum("model server" in name for name in server_names(folder)) == 1 or None,
            seconds=90,
            process=running.process,
        )
        time.sleep(0.5)
    return load


def server_names(folder: Path) -> list[str]:
    """The model servers whose copy of the model is still there."""
    return [f"model server {path.name}" for path in (folder / "state" / "tmp").iterdir()]


def case_in(running: FieldRepair, *states: str) -> dict[str, Any] | None:
    return next((case for case in running.get("/api/cases") if case["state"] in states), None)


def test_the_whole_loop(platform: Platform, scans: dict[str, Part], tmp_path: Path) -> None:
    here = with_settings(platform, tmp_path, pool_minimum=400, margin=0.03, repair_threads=1, epochs=4)
    running = here.start_fieldrepair(f"models:/{MODEL}@champion")
    try:
        tell_the_story(running, scans, tmp_path)
        pids = every_process(running, tmp_path)
        assert len(pids) >= 6  # up, mlflow and its server, sidecar and its shipper, monitor, worker
        running.process.handle.send_signal(signal.SIGINT)
        assert running.process.handle.wait(60) == 0
        assert still_running(pids) == set()
        assert not (tmp_path / "state" / "up.json").exists()
    finally:
        sys.stdout.write((tmp_path / "logs" / "up.log").read_text())  # shown if this fails
        running.stop()


def tell_the_story(running: FieldRepair, scans: dict[str, Part], folder: Path) -> None:
    scanner = RemountedScanner()
    shifted = Part(scanner.scan(scans["traffic"].images, seed=1), scans["traffic"].labels)
    holdout = Part(scanner.scan(scans["holdout"].images, seed=2), scans["holdout"].labels)
    client = Client(running.traffic_url)
    status = status_of(folder)
    assert status["version"] == "1"
    assert status["parts"]["sidecar"]["state"] == "ready"

    # Clean traffic: windows are judged, and nobody is woken up.
    clean = Part(scans["traffic"].images[:300], scans["traffic"].labels[:300])
    client.classify(clean.images)
    wait_for("3 windows", lambda: len(windows(running)) >= 3 or None, seconds=120, process=running.process)
    assert running.get("/api/events") == []

    # Shifted traffic: an event, a case, and tasks to label.
    client.classify(shifted.images)
    planned = wait_for(
        "the case's tasks",
        lambda: next((case for case in running.get("/api/cases") if case["budget"] is not None), None),
        seconds=150,
        process=running.process,
    )
    assert len(running.get("/api/events")) == 1
    assert planned["budget"] <= 0.05 * len(shifted)
    Labeller(running.control, [clean, shifted]).answer_all(planned["id"])

    # The worker repairs, judges and registers.
    case = wait_for(
        "the verdict",
        lambda: case_in(running, "accepted", "rejected", "dismissed"),
        seconds=240,
        process=running.process,
    )
    assert case["state"] == "accepted", case["reason"]
    version = str(case["candidate_version"])
    stored = MlflowClient().get_model_version_by_alias(MODEL, "candidate")
    assert stored.version == version
    assert stored.tags["fieldrepair.parent_version"] == "1"
    run = MlflowClient().get_run(case["run_id"])
    assert run.inputs is not None
    assert {item.dataset.name for item in run.inputs.dataset_inputs} == {"field-log-window", "labels"}
    artifacts = {item.path for item in MlflowClient().list_artifacts(case["run_id"], "repair")}
    assert {"repair/confusion_field.png", "repair/repaired.png", "repair/broken.png"} <= artifacts

    # Approval in the console, then roll-back by nothing but the alias, both under load.
    before = accuracy(client, holdout)
    assert MlflowClient().get_model_version_by_alias(MODEL, "champion").version == "1"
    load = switch_under_load(running, shifted, version, folder, lambda: approve_in_console(running, case))
    assert MlflowClient().get_model_version_by_alias(MODEL, "champion").version == version
    assert load.failures == []
    assert load.requests > 50
    wait_for("the promotion", lambda: case_in(running, "promoted"), seconds=60, process=running.process)
    assert "candidate" not in MlflowClient().get_registered_model(MODEL).aliases
    assert accuracy(client, holdout) > before

    load = switch_under_load(running, shifted, "1", folder, lambda: move_alias("1"))
    assert load.failures == []
    assert accuracy(client, holdout) == before
    case = running.get(f"/api/cases/{case['id']}")
    assert case["state"] == "promoted"
    wait_for(
        "the note of the roll-back",
        lambda: "rolled back" in running.get(f"/api/cases/{case['id']}")["note"] or None,
        seconds=30,
        process=running.process,
    )

    # What was registered loads by MLflow's own means.
    uri = f"models:/{MODEL}/{version}"
    answers = cast(Any, pyfunc.load_model(uri)).predict(holdout.images[:3])
    assert np.asarray(answers).shape == (3, 10)


def windows(running: FieldRepair) -> list[dict[str, Any]]:
    return running.get("/api/windows", model_name=MODEL, model_version="1", limit=1000)


def accuracy(client: Client, part: Part) -> float:
    return client.accuracy(part)
