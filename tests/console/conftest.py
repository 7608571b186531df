"""A sidecar's numbers without its traffic port, control ports that serve them, and the console as a process."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest
from prometheus_client import CollectorRegistry

from fieldrepair_service.capture import Capture, CaptureLimits
from fieldrepair_service.console.security import Security
from fieldrepair_service.control import create_control_app
from fieldrepair_service.control_server import ControlServer
from fieldrepair_service.metrics import create_registry
from fieldrepair_service.roles import Role
from fieldrepair_service.traffic_stats import TrafficStats
from fieldrepair_service.upstream import UpstreamLimits, Upstreams
from tests.faults.conftest import eventually, model_server, sidecar

__all__ = ["TOKENS", "eventually", "model_server", "sidecar"]

TOKENS = {role: f"a-token-for-the-{role}" for role in Role}


@dataclass
class Counted:
    """What a sidecar counts, and a control port that serves it."""

    folder: Path
    stats: TrafficStats = field(default_factory=TrafficStats)
    upstreams: Upstreams = field(default_factory=lambda: Upstreams(UpstreamLimits()))

    def __post_init__(self) -> None:
        self.folder.mkdir()
        spool = self.folder / "spool.db"
        self.capture = Capture(spool, CaptureLimits(), sync=False, on_new_spool=lambda: None)
        self.registry: CollectorRegistry = create_registry(self.stats, self.capture, self.upstreams, spool, lambda: 1)
        self.server: ControlServer | None = None

    def serve(self, host: str = "127.0.0.1", port: int = 0, loop: asyncio.AbstractEventLoop | None = None) -> int:
        """Serve the numbers; the port. The upstreams' event loop is the running one unless it is given."""
        listener = socket.create_server((host, port))
        app = create_control_app(
            upstreams=self.upstreams,
            traffic_loop=loop or asyncio.get_running_loop(),
            registry=self.registry,
            not_ready=lambda: None,
            security=Security(TOKENS),
        )
        self.server = ControlServer(app, listener)
        return int(listener.getsockname()[1])

    def close(self) -> None:
        """Stop serving and counting."""
        if self.server is not None:
            self.server.stop()
            self.server = None
        self.capture.close()


@pytest.fixture
def count(tmp_path: Path) -> Generator[Callable[[], Counted]]:
    """Makes sidecars that only count."""
    made: list[Counted] = []

    def make() -> Counted:
        made.append(Counted(tmp_path / f"counted-{len(made)}"))
        return made[-1]

    yield make
    for each in made:
        each.close()


@dataclass
class ConsoleProcess:
    """A running ``fieldrepair console``."""

    process: subprocess.Popen[bytes]
    client: httpx.Client
    log_file: Path

    def overview(self) -> str:
        """The overview page, as a person with the viewer token would see it."""
        return self.get("/").text

    def get(self, path: str, role: Role = Role.VIEWER) -> httpx.Response:
        """What a script gets."""
        return self.client.get(path, headers={"authorization": f"Bearer {TOKENS[role]}"})

    def stop(self) -> int:
        """End it as a kubelet does; its exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)


@pytest.fixture
def console(tmp_path: Path) -> Generator[Callable[..., ConsoleProcess]]:
    """Starts consoles on the stores that the fixture ``sidecar`` gives its sidecars; ready when it returns."""
    started: list[ConsoleProcess] = []
    processes: list[subprocess.Popen[bytes]] = []

    def start(*options: str) -> ConsoleProcess:
        state = tmp_path / f"console-{len(started)}"
        log_file = tmp_path / f"console-{len(started)}.log"
        given = [
            f"--state-dir={state}",
            f"--field-log={tmp_path / 'field_log'}",
            f"--case-book=sqlite:///{tmp_path / 'case_book.db'}",
            *("--control-port=0", "--sidecars-poll-seconds=0.1"),
            f"--control-token={TOKENS[Role.APPROVER]}",
            f"--labeller-token={TOKENS[Role.LABELLER]}",
            f"--viewer-token={TOKENS[Role.VIEWER]}",
            *options,
        ]
        with log_file.open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "fieldrepair_service.cli", "console", *given], stdout=log, stderr=log
            )
        processes.append(process)
        end = time.monotonic() + 60
        while not (state / "console.json").exists():
            assert process.poll() is None, log_file.read_text()
            assert time.monotonic() < end, log_file.read_text()
            time.sleep(0.02)
        found = json.loads((state / "console.json").read_text())
        assert found["pid"] == process.pid
        running = ConsoleProcess(process, httpx.Client(base_url=found["control_url"], timeout=30), log_file)
        started.append(running)
        eventually(lambda: running.client.get("/readyz").status_code == 200)
        return running

    yield start
    for running in started:
        running.client.close()
    for process in processes:
        if process.poll() is None:
            process.kill()
            process.wait(60)
