"""The sidecar as a process, a model server to stand behind it, and clients that remember what they were told."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from fieldrepair_service.field_log import FieldLog


def eventually(condition: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while True:
        with suppress(httpx.TransportError):
            if condition():
                return
        assert time.monotonic() < end, f"waited {seconds} s in vain"
        time.sleep(0.05)


class _ModelServer(ThreadingHTTPServer):
    daemon_threads = True
    version = "1"
    hold: threading.Event | None = None
    asked: threading.Event = threading.Event()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_POST(self) -> None:
        server = cast(_ModelServer, self.server)
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        server.asked.set()
        if server.hold is not None:
            assert server.hold.wait(60)
        try:
            count = len(json.loads(body)["inputs"])
        except (ValueError, KeyError, TypeError, RecursionError):
            count = 1
        answer = json.dumps({"predictions": [[0.25, 0.75]] * count}).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def model_server() -> Generator[_ModelServer]:
    """Answers every request with as many rows of scores as it has inputs."""
    server = _ModelServer(("127.0.0.1", 0), _Handler)
    server.asked = threading.Event()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    yield server
    if server.hold is not None:
        server.hold.set()
    server.shutdown()
    server.server_close()
    thread.join()


@dataclass
class SidecarProcess:
    """A running sidecar."""

    process: subprocess.Popen[bytes]
    state_dir: Path
    traffic_url: str
    control_url: str
    log_file: Path

    def ask(self, value: Any, timeout: float = 60) -> httpx.Response:
        body = value if isinstance(value, bytes) else json.dumps({"inputs": value}).encode()
        headers = {"content-type": "application/json"}
        return httpx.post(f"{self.traffic_url}/invocations", content=body, headers=headers, timeout=timeout)

    def metrics(self) -> dict[str, float]:
        """Samples by name, ``name{reason}`` where there is a reason."""
        text = httpx.get(f"{self.control_url}/metrics", timeout=60).text
        samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
        named: dict[str, float] = {}
        for sample in samples:
            reason = sample.labels.get("reason")
            name = sample.name.removeprefix("fieldrepair_")
            named[name if reason is None else f"{name}{{{reason}}}"] = sample.value
        return named

    def settled(self) -> bool:
        """Whether nothing waits between the clients and the field log."""
        numbers = self.metrics()
        return numbers["queue_depth"] == 0 and numbers["spool_exchanges"] == 0

    def check_sums(self) -> dict[str, float]:
        """Wait until nothing is under way; then every exchange and row must be accounted for, exactly."""
        eventually(self.settled)
        numbers = self.metrics()
        dropped = sum(value for name, value in numbers.items() if name.startswith("exchanges_dropped_total"))
        assert numbers["exchanges_accepted_total"] == numbers["exchanges_logged_total"] + dropped
        rows_dropped = sum(value for name, value in numbers.items() if name.startswith("rows_dropped_total"))
        assert numbers["rows_decoded_total"] == numbers["rows_logged_total"] + rows_dropped
        return numbers

    def shipper_pid(self) -> int | None:
        """The shipper that runs now; None while there is none, between two of them."""
        for task in Path(f"/proc/{self.process.pid}/task").iterdir():
            with suppress(OSError):  # threads and children come and go while we look
                for pid in (task / "children").read_text().split():
                    if b"fieldrepair_service.shipper" in Path(f"/proc/{pid}/cmdline").read_bytes():
                        return int(pid)
        return None

    def kill_shipper(self) -> None:
        """Kill the shipper that runs now, or the next one that does."""
        eventually(self._killed_a_shipper)

    def _killed_a_shipper(self) -> bool:
        pid = self.shipper_pid()
        if pid is None:
            return False
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
            return True
        return False

    def stop(self, seconds: float = 60) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(seconds)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(60)


@pytest.fixture
def sidecar(tmp_path: Path, model_server: _ModelServer) -> Generator[Callable[..., SidecarProcess]]:
    """Starts sidecars; options as keywords. They share a state folder, so only one runs at a time."""
    started: list[SidecarProcess] = []

    def start(state_dir: Path = tmp_path / "state", **options: object) -> SidecarProcess:
        settings = {
            "state_dir": state_dir,
            "upstream": f"http://127.0.0.1:{model_server.server_address[1]}",
            "field_log": tmp_path / "field_log",
            "case_book": f"sqlite:///{tmp_path / 'case_book.db'}",
            "traffic_port": 0,
            "control_port": 0,
            "control_auth": "off",
            "flush_seconds": 0.2,
            "model_name": "fashion",
            "model_version": "1",
            **options,
        }
        arguments = [f"--{name.replace('_', '-')}={value}" for name, value in settings.items() if value is not None]
        log_file = tmp_path / f"sidecar-{len(started)}.log"
        with log_file.open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "fieldrepair_service.cli", "sidecar", *arguments], stdout=log, stderr=log
            )
        addresses: list[str] = []

        def announced() -> bool:
            assert process.poll() is None, log_file.read_text()
            found = re.search(r"traffic on (\S+), control on (\S+)", log_file.read_text())
            if found is None:
                return False
            addresses[:] = found.groups()
            return httpx.get(f"{addresses[1]}/readyz", timeout=60).status_code == 200

        eventually(announced)
        running = SidecarProcess(process, state_dir, addresses[0], addresses[1], log_file)
        started.append(running)
        return running

    yield start
    for running in started:
        if running.process.poll() is None:
            running.kill()


@dataclass
class Load:
    """Clients that each ask about numbers nobody else asks about, and remember which were answered."""

    url: str
    clients: int = 4
    answered: list[int] = field(default_factory=list[int])
    failed: list[object] = field(default_factory=list[object])
    _stop: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list[threading.Thread])

    def __enter__(self) -> Load:
        for client in range(self.clients):
            thread = threading.Thread(target=self._run, args=(client,), daemon=True)
            thread.start()
            self._threads.append(thread)
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(60)

    def wait_for(self, count: int) -> None:
        eventually(lambda: len(self.answered) >= count)

    def _run(self, client: int) -> None:
        parts = urlsplit(self.url)
        connection = http.client.HTTPConnection(str(parts.hostname), parts.port, timeout=60)
        number = client
        with suppress(ConnectionRefusedError):  # the sidecar is gone
            while not self._stop.is_set():
                self._ask(connection, number)
                number += self.clients
        connection.close()

    def _ask(self, connection: http.client.HTTPConnection, number: int) -> None:
        try:
            headers = {"Content-Type": "application/json"}
            connection.request("POST", "/invocations", json.dumps({"inputs": [[number, 0.5]]}), headers)
            response = connection.getresponse()
            response.read()
            if response.status == 200:
                self.answered.append(number)
            else:
                self.failed.append(response.status)
        except ConnectionRefusedError:
            raise
        except (OSError, http.client.HTTPException) as error:
            self.failed.append(error)
            connection.close()


@pytest.fixture
def load() -> Callable[[SidecarProcess], Load]:
    """Makes the clients of a sidecar."""
    return lambda running: Load(running.traffic_url)


@pytest.fixture
def logged(tmp_path: Path) -> Callable[[], list[int]]:
    """Reads which numbers are in the field log, in order, repetitions included."""

    def read() -> list[int]:
        rows = FieldLog.open(tmp_path / "field_log").read_after({}, limit=1_000_000)
        return [int(each[0]) for each in rows.inputs(shape=(2,), dtype="float64")] if len(rows) else []

    return read


@pytest.fixture
def wait_until() -> Callable[[Callable[[], bool]], None]:
    """Waits for a condition; fails after a minute."""
    return eventually


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (ProcessLookupError, FileNotFoundError):
        return False


@pytest.fixture
def alive() -> Callable[[int], bool]:
    """Tells whether a process runs."""
    return is_alive
