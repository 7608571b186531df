"""The real processes of the story: an MLflow server, and ``fieldrepair up`` with everything it supervises."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import httpx

T = TypeVar("T")


class DemoError(Exception):
    """The story cannot go on; the message says where to look."""


def free_port() -> int:
    """A TCP port of the loopback interface that nobody uses right now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for(what: str, ask: Callable[[], T | None], *, seconds: float, process: Process | None = None) -> T:
    """Poll ``ask`` until it returns something; fail when time is up or ``process`` has ended."""
    deadline = time.monotonic() + seconds
    while (answer := ask()) is None:
        if process is not None and not process.is_running():
            raise DemoError(f"{process.name} ended while waiting for {what}; its last lines:\n{process.last_lines()}")
        if time.monotonic() > deadline:
            raise DemoError(f"waited {seconds:.0f} s for {what} in vain")
        time.sleep(0.2)
    return answer


@dataclass
class Process:
    """One process of ours: its output goes to a file, and it ends when the demo does."""

    name: str
    handle: subprocess.Popen[bytes]
    log: Path

    @classmethod
    def start(cls, name: str, command: list[str], *, log: Path, env: Mapping[str, str]) -> Process:
        """Start ``command`` in a process group of its own, so that Ctrl-C reaches the demo first."""
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as output:
            handle = subprocess.Popen(
                command, stdout=output, stderr=subprocess.STDOUT, env={**os.environ, **env}, start_new_session=True
            )
        return cls(name, handle, log)

    def is_running(self) -> bool:
        """Whether the process has not ended."""
        return self.handle.poll() is None

    def last_lines(self, count: int = 20) -> str:
        """The end of its output, for an error message."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-count:])

    def stop(self, seconds: float = 30.0) -> None:
        """Ask it to end as Ctrl-C would; kill its group only when it does not."""
        if self.is_running():
            self.handle.send_signal(signal.SIGINT)
            try:
                self.handle.wait(seconds)
            except subprocess.TimeoutExpired:
                os.killpg(self.handle.pid, signal.SIGKILL)
                self.handle.wait()


@dataclass(frozen=True)
class Platform:
    """Addresses of everything that runs, and the processes to stop at the end."""

    mlflow_url: str
    mlflow: Process
    environment: Mapping[str, str]
    folder: Path

    @classmethod
    def start_mlflow(cls, folder: Path, port: int | None = None) -> Platform:
        """A tracking server with registry on SQLite, artifacts in a folder; the same folder and port again go on."""
        port = port or free_port()
        url = f"http://127.0.0.1:{port}"
        store = folder / "mlflow"
        store.mkdir(parents=True, exist_ok=True)
        mlflow = Process.start(
            "MLflow server",
            [
                *(
                    sys.executable,
                    "-m",
                    "mlflow",
                    "server",
                    "--host",
                    "127.0.0.1",
                    "--port",
                    str(port),
                    "--workers",
                    "1",
                ),
                *("--backend-store-uri", f"sqlite:///{store / 'mlflow.db'}"),
                *("--artifacts-destination", str(store / "artifacts")),
            ],
            log=folder / "logs" / "mlflow.log",
            env={},
        )
        wait_for("the MLflow server", partial(_answers, f"{url}/health"), seconds=180, process=mlflow)
        return cls(url, mlflow, {"MLFLOW_TRACKING_URI": url}, folder)

    def start_fieldrepair(self, model_uri: str) -> FieldRepair:
        """``fieldrepair up MODEL_URI`` with its embedded defaults."""
        state = self.folder / "state"
        process = Process.start(
            "fieldrepair up",
            [
                *(sys.executable, "-m", "fieldrepair_service.cli", "up", model_uri, "--state-dir", str(state)),
                *("--traffic-port", "0", "--control-port", "0", "--monitor-metrics-port", "0"),
            ],
            log=self.folder / "logs" / "up.log",
            env=self.environment,
        )

        def addresses() -> dict[str, Any] | None:
            path = state / "up.json"
            return json.loads(path.read_text()) if path.exists() else None

        found = wait_for("fieldrepair up to say where it listens", addresses, seconds=120, process=process)
        token = (state / "control-token").read_text().strip()
        control = httpx.Client(
            base_url=found["control_url"], headers={"Authorization": f"Bearer {token}"}, timeout=30.0
        )
        # Predictions come first: the case book's API opens a moment after the sidecar is ready.
        for path in ("/readyz", "/api/cases"):
            wait_for(f"{path} of the sidecar", partial(_answers, path, control), seconds=120, process=process)
        return FieldRepair(process, found["traffic_url"], found["control_url"], control)

    def stop(self) -> None:
        """Stop the MLflow server."""
        self.mlflow.stop()


@dataclass(frozen=True)
class FieldRepair:
    """A running ``fieldrepair up``, or the chart's pods: where clients send their traffic, and the case API."""

    process: Process
    traffic_url: str
    control_url: str
    """The control port with console and API: the sidecar's with ``up``, the console's with the chart."""
    control: httpx.Client
    """Talks to it."""
    sidecar: httpx.Client | None = None
    """Talks to the sidecar's control port where that is another one."""

    def get(self, path: str, **params: str | int) -> Any:
        """The JSON answer of the control port."""
        answer = self.control.get(path, params=params)
        if not answer.is_success:
            raise DemoError(f"the control port answered {answer.status_code} to {answer.url}: {answer.text}")
        return answer.json()

    def served_version(self) -> str:
        """The version that the sidecar sends new requests to."""
        answer = (self.sidecar or self.control).get("/upstream")
        if not answer.is_success:
            raise DemoError(f"the sidecar answered {answer.status_code} to {answer.url}: {answer.text}")
        return str(answer.json()["active"]["model_version"])

    def stop(self) -> None:
        """Stop everything that ``fieldrepair up`` started."""
        self.control.close()
        self.process.stop()


def _answers(url: str, http: httpx.Client | None = None) -> bool | None:
    """True when the address answers 200, None while it does not."""
    try:
        return (http or httpx).get(url, timeout=2.0).status_code == 200 or None
    except httpx.HTTPError:
        return None
