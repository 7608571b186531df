"""A sidecar that is pointed to its upstream by the control port: killed and started again, it goes on serving."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import httpx
import pytest

WaitUntil = Callable[[Callable[[], bool]], None]


class Running:
    """A sidecar process that may not be ready yet."""

    def __init__(self, state_dir: Path, wait_until: WaitUntil, *options: str) -> None:
        self.log = state_dir / "sidecar.log"
        state_dir.mkdir(exist_ok=True)
        command = [sys.executable, "-m", "fieldrepair_service.cli", "sidecar", f"--state-dir={state_dir}"]
        ports = ["--traffic-port=0", "--control-port=0", "--control-auth=off", "--log-format=json"]
        with self.log.open("ab") as stream:
            self.process = subprocess.Popen([*command, *ports, *options], stdout=stream, stderr=stream)
        address = state_dir / "sidecar.json"
        wait_until(lambda: address.exists() and json.loads(address.read_text())["pid"] == self.process.pid)
        addresses = json.loads(address.read_text())
        self.traffic_url: str = addresses["traffic_url"]
        self.control_url: str = addresses["control_url"]
        wait_until(self.answers)

    def answers(self) -> bool:
        assert self.process.poll() is None, self.log.read_text()
        return httpx.get(f"{self.control_url}/healthz", timeout=60).status_code == 200

    def ask(self) -> httpx.Response:
        headers = {"x-request-id": "mine"}
        return httpx.post(f"{self.traffic_url}/invocations", json={"inputs": [[1]]}, headers=headers, timeout=60)

    def point_to(self, url: str, version: str) -> None:
        spec = {"url": url, "model_name": "digits", "model_version": version}
        assert httpx.put(f"{self.control_url}/upstream", json=spec, timeout=60).status_code == 200

    def active(self) -> Any:
        return httpx.get(f"{self.control_url}/upstream", timeout=60).json()["active"]

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(60)


Start = Callable[..., Running]


@pytest.fixture
def start(tmp_path: Path, wait_until: WaitUntil) -> Generator[Start]:
    started: list[Running] = []

    def make(*options: str) -> Running:
        started.append(Running(tmp_path / "state", wait_until, *options))
        return started[-1]

    yield make
    for running in started:
        running.kill()


def test_a_switched_upstream_outlives_the_process(start: Start, model_server: Any) -> None:
    url = f"http://127.0.0.1:{model_server.server_address[1]}"
    first = start()
    refused = first.ask()
    assert refused.status_code == 503
    assert httpx.get(f"{first.control_url}/readyz").status_code == 503
    first.point_to(url, "6")
    first.point_to(url, "7")
    first.kill()
    second = start()
    assert second.ask().status_code == 200
    assert (second.active()["url"], second.active()["model_version"]) == (url, "7")
    second.kill()
    # One that is named at the start counts for more, and what it is switched to is not for the next start.
    third = start(f"--upstream={url}", "--model-name=digits", "--model-version=1")
    assert third.active()["model_version"] == "1"
    third.point_to(url, "8")
    third.kill()
    assert start().active()["model_version"] == "7"
    # Every line is an object, and what was told a client can be found by the id of its request.
    lines = [json.loads(line) for line in first.log.read_text().splitlines()]
    found = [line for line in lines if line.get("request_id") == "mine"]
    assert [(line["event"], line["status"], line["path"]) for line in found] == [("NoUpstream", 503, "/invocations")]
    assert refused.json()["request_id"] == "mine"
