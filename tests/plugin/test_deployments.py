"""``mlflow deployments -t fieldrepair``: through MLflow's CLI and client, with the real parts.

What MLflow's documentation of ``BaseDeploymentClient`` promises of each method, errors included.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from fieldrepair_plugin.deployments import FieldRepairDeploymentClient
from fieldrepair_plugin.deployments.records import DeploymentFolder
from fieldrepair_plugin.processes import child_environment
from tests.plugin.conftest import Registry, quadrants

pytestmark = pytest.mark.timeout(400)

get_deploy_client: Any = importlib.import_module("mlflow.deployments").get_deploy_client  # it has no types


@pytest.fixture
def target(tmp_path: Path, registry: Registry) -> Iterator[str]:
    """A target with a folder of its own; what a test leaves running is stopped."""
    home = tmp_path / "deployments"
    yield f"fieldrepair:{home}"
    client = FieldRepairDeploymentClient(f"fieldrepair:{home}")
    for deployment in client.list_deployments():
        client.delete_deployment(deployment["name"])


@pytest.fixture
def client(target: str) -> FieldRepairDeploymentClient:
    found = get_deploy_client(target)
    assert isinstance(found, FieldRepairDeploymentClient)
    return found


def mlflow_cli(*words: str) -> str:
    command = [sys.executable, "-m", "mlflow", "deployments", *words]
    run = subprocess.run(command, capture_output=True, text=True, env=child_environment(), timeout=300, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout


def wait_for(true: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 120
    while not true():
        assert time.monotonic() < deadline, f"not in time: {what}"
        time.sleep(0.1)


class Load:
    """Somebody who asks without pause, and counts what comes back."""

    def __init__(self, url: str) -> None:
        self.answered = 0
        self.failed: list[str] = []
        self._url = f"{url}/invocations"
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Load:
        self._thread.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        body = json.dumps({"inputs": quadrants(1, seed=5)[0].tolist()})
        with httpx.Client(trust_env=False, timeout=30) as http:
            while not self._stop.is_set():
                answer = http.post(self._url, content=body, headers={"content-type": "application/json"})
                if answer.status_code == 200:
                    self.answered += 1
                else:
                    self.failed.append(answer.text)


def test_the_life_of_a_deployment(
    target: str, client: FieldRepairDeploymentClient, registry: Registry, tmp_path: Path
) -> None:
    """Made by a command that ends; found, asked, moved to another version under load, killed in parts, deleted."""
    model = f"models:/{registry.name}"
    said = mlflow_cli("create", "-t", target, "--name", "shop", "-m", f"{model}/1", "-C", "window_size=50")
    assert "pytorch deployment shop is created" in said

    made = client.get_deployment("shop")
    assert made["name"] == "shop"
    assert (made["state"], made["version"], made["model_uri"]) == ("ready", "1", f"{model}/1")
    assert made["config"]["window_size"] == "50"
    assert [one["name"] for one in client.list_deployments()] == ["shop"]
    assert "'name': 'shop'" in mlflow_cli("list", "-t", target)

    inputs, labels = quadrants(8, seed=4)
    answers = np.asarray(client.predict("shop", inputs).get_predictions("ndarray"))
    assert (answers.argmax(axis=1) == labels).mean() > 0.8
    asked = tmp_path / "asked.json"
    asked.write_text(json.dumps({"inputs": inputs.tolist()}))
    said = json.loads(mlflow_cli("predict", "-t", target, "--name", "shop", "-I", str(asked)))
    assert np.asarray(said["predictions"]) == pytest.approx(answers, abs=1e-5)

    with pytest.raises(MlflowException, match="'shop' exists already") as taken:
        client.create_deployment("shop", f"{model}/2")
    assert taken.value.error_code == "RESOURCE_ALREADY_EXISTS"

    with Load(made["traffic_url"]) as load:
        wait_for(lambda: load.answered > 20, "answers")
        updated = client.update_deployment("shop", model_uri=f"{model}/2")
        before = load.answered
        wait_for(lambda: load.answered > before + 20, "answers of the new version")
    assert (updated["version"], updated["starts"]) == ("2", 1)
    assert load.failed == []

    folder = DeploymentFolder(Path(target.partition(":")[2]), "shop")
    up = folder.up()
    assert up is not None
    os.kill(up, signal.SIGKILL)
    wait_for(lambda: client.get_deployment("shop")["starts"] == 2, "the keeper to notice")
    wait_for(lambda: client.get_deployment("shop")["state"] == "ready", "the parts to come back")
    back = client.get_deployment("shop")
    assert (back["version"], back["traffic_url"]) == ("2", made["traffic_url"])
    assert "ended with status -9" in back["last_end"]

    keeper, up = folder.keeper(), folder.up()
    assert keeper is not None
    os.kill(keeper, signal.SIGKILL)
    wait_for(lambda: folder.keeper() is None, "the keeper to end")
    assert client.get_deployment("shop")["state"] == "ready", "what serves outlives its keeper"
    client.update_deployment("shop")
    assert folder.keeper() not in (None, keeper)
    assert folder.up() == up, "and is not replaced by a new keeper"

    mlflow_cli("delete", "-t", target, "--name", "shop")
    assert client.list_deployments() == []
    assert (folder.keeper(), folder.up()) == (None, None)
    assert (folder.state / "field_log").is_dir(), "what was collected stays"
    client.delete_deployment("shop")  # once more does no harm
    with pytest.raises(httpx.ConnectError):
        httpx.get(made["traffic_url"], trust_env=False)


def test_other_settings_start_the_parts_anew(
    target: str, client: FieldRepairDeploymentClient, registry: Registry
) -> None:
    MlflowClient().set_registered_model_alias(registry.name, "live", "1")
    made = client.create_deployment("shop", f"models:/{registry.name}@live", config={"max_logged_body": 2048})
    changed = client.update_deployment("shop", config={"max_logged_body": "4096"})
    assert (changed["config"]["max_logged_body"], changed["state"], changed["starts"]) == ("4096", "ready", 2)
    assert changed["traffic_url"] == made["traffic_url"]
    with pytest.raises(MlflowException, match="max_logged_body: Input should be greater than or equal to 1024"):
        client.update_deployment("shop", config={"max_logged_body": 3})
    assert client.get_deployment("shop")["config"]["max_logged_body"] == "4096"


def test_what_cannot_come_up_leaves_nothing(
    target: str, client: FieldRepairDeploymentClient, registry: Registry, tmp_path: Path
) -> None:
    with pytest.raises(MlflowException, match=r"(?s)'shop' does not come up: up ended with status 1: .*within 0\.1 s"):
        client.create_deployment("shop", f"models:/{registry.name}/1", config={"server_start_seconds": 0.1})
    assert client.list_deployments() == []
    folder = DeploymentFolder(tmp_path / "deployments", "shop")
    assert (folder.keeper(), folder.up()) == (None, None)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"name": "../shop"}, "a deployment's name has up to 63 letters"),
        ({"model_uri": "runs:/1/model"}, "expected models:/NAME@ALIAS"),
        ({"model_uri": "models:/nobody/1"}, "nobody"),
        ({"flavor": "sklearn"}, "repairs the flavor pytorch, got 'sklearn'"),
        ({"endpoint": "here"}, "has no endpoints, got endpoint='here'"),
        ({"config": {"windowsize": 3}}, "windowsize: no such setting; `mlflow deployments help"),
        ({"config": {"window_size": 3, "label_fraction": 2}}, "window_size: .*; label_fraction: "),
        ({"config": {"control_token": "0123456789abcdef"}}, "control_token: no such setting"),
    ],
)
def test_a_wrong_order_says_what_is_expected(
    client: FieldRepairDeploymentClient, registry: Registry, arguments: dict[str, Any], says: str
) -> None:
    order: dict[str, Any] = {"name": "shop", "model_uri": f"models:/{registry.name}/1", **arguments}
    with pytest.raises(MlflowException, match=says):
        client.create_deployment(**order)
    assert client.list_deployments() == []


def test_what_is_not_there_is_said(client: FieldRepairDeploymentClient) -> None:
    for ask in (client.get_deployment, client.predict, client.update_deployment):
        with pytest.raises(MlflowException, match="there is no deployment 'shop'"):
            ask("shop")
    client.delete_deployment("shop")
    with pytest.raises(MlflowException, match="name the deployment"):
        client.predict()
    with pytest.raises(MlflowException, match="does not explain single predictions"):
        client.explain("shop", None)
    with pytest.raises(MlflowException, match="delete takes no configuration"):
        client.delete_deployment("shop", config={"purge": True})


def test_help_names_every_setting() -> None:
    said = mlflow_cli("help", "-t", "fieldrepair")
    for setting in ("traffic_port", "durability", "window_size", "label_fraction"):
        assert f"    {setting} (default: " in said
    assert "state_dir" not in said.split("Configuration")[1].split("<state-dir>")[0]
