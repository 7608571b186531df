"""The processes that :mod:`benchmarks.sidecar` measures: model servers, nginx, sidecars; and wrk, which asks them."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

_WORDS = "Debian's packages are nginx-light (or nginx) and wrk: apt-get install nginx-light wrk"

_PATIENCE_SECONDS = 180

_NGINX = """
worker_processes auto;
daemon off;
pid {folder}/nginx.pid;
error_log {folder}/nginx-error.log;
events {{ worker_connections 1024; }}
http {{
    access_log off;
    keepalive_requests 1000000000;
    client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
    upstream model {{ server 127.0.0.1:{model}; keepalive 64; keepalive_requests 1000000000; }}
    upstream copies {{ server 127.0.0.1:{copies}; keepalive 64; keepalive_requests 1000000000; }}
    server {{
        listen 127.0.0.1:{port};
        client_body_buffer_size 64k;
        location / {{
            mirror /mirror;
            proxy_pass http://model;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
        }}
        location = /mirror {{
            internal;
            proxy_pass http://copies$request_uri;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
        }}
    }}
}}
"""

_WRK = """
local values = {{}}
for i = 1, 784 do values[i] = tostring((i * 7919) % 256) end
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
wrk.body = '{{"inputs": [[' .. table.concat(values, ", ") .. ']]}}'
{delay}
done = function(summary, latency, requests)
    local errors = summary.errors
    io.write(string.format('\\nRESULT {{"requests": %d, "seconds": %f, "p50_us": %f, "p99_us": %f, "errors": %d}}\\n',
        summary.requests, summary.duration / 1e6, latency:percentile(50), latency:percentile(99),
        errors.connect + errors.read + errors.write + errors.status + errors.timeout))
end
"""


class MissingProgram(Exception):  # noqa: N818 - it says what is missing
    """nginx or wrk is not installed; the message says how to get them."""


@dataclass(frozen=True)
class Load:
    """What wrk saw."""

    requests: int
    seconds: float
    p50_us: float
    p99_us: float

    @property
    def rps(self) -> float:
        """Requests per second."""
        return self.requests / self.seconds


class Child:
    """A process that listens on a port, ended with :meth:`stop`."""

    def __init__(self, command: list[str], port: int, log: Path, *, also: Sequence[int] = ()) -> None:
        """Start it and wait until it listens, on this port and on those besides.

        Raises:
            RuntimeError: if it does not, with the end of what it said.
        """
        self.port = port
        self._log = log
        with log.open("wb") as stream:
            # MLflow starts programs that lie beside the interpreter.
            path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
            environment = {**os.environ, "OMP_NUM_THREADS": "1", "PATH": path}
            self.process = subprocess.Popen(command, stdout=stream, stderr=stream, env=environment)
        end = time.monotonic() + _PATIENCE_SECONDS
        while not all(map(_listens, (port, *also))):
            if self.process.poll() is not None or time.monotonic() > end:
                self.stop()
                raise RuntimeError(f"{command[0]} did not start: {log.read_text(errors='replace')[-2000:]}")
            time.sleep(0.05)

    @property
    def url(self) -> str:
        """Where it answers."""
        return f"http://127.0.0.1:{self.port}"

    def stop(self) -> None:
        """End it, as kindly as it lets us."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(60)
            except subprocess.TimeoutExpired:
                self.process.kill()
        self.process.wait()


class SidecarChild(Child):
    """A sidecar with its field log in a folder of its own."""

    def __init__(self, folder: Path, upstream: str, *options: str, name: str = "sidecar") -> None:
        """Start it.

        Args:
            folder: for its state and its field log.
            upstream: model server.
            options: further options of ``fieldrepair sidecar``.
            name: of its log file.
        """
        folder.mkdir(parents=True, exist_ok=True)
        traffic, control = free_ports(2)
        self.control = f"http://127.0.0.1:{control}"
        self.field_log = folder / "field_log"
        command = [
            sys.executable, "-m", "fieldrepair_service.cli", "sidecar", f"--upstream={upstream}",
            f"--traffic-port={traffic}", f"--control-port={control}", "--control-auth=off",
            f"--state-dir={folder / 'state'}", f"--field-log={self.field_log}", *options,
        ]  # fmt: skip
        super().__init__(command, traffic, folder / f"{name}.log", also=[control])

    def numbers(self) -> dict[str, float]:
        """Its metrics; dropped exchanges and rows summed over their reasons."""
        with urllib.request.urlopen(f"{self.control}/metrics", timeout=60) as answer:  # noqa: S310 - our own process
            text = answer.read().decode()
        numbers: dict[str, float] = {}
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                numbers[sample.name] = numbers.get(sample.name, 0) + sample.value
        return {name.removeprefix("fieldrepair_"): value for name, value in numbers.items()}

    def settle(self) -> dict[str, float]:
        """Wait until nothing is between the clients and the field log; then its metrics."""
        while True:
            numbers = self.numbers()
            if numbers["queue_depth"] == 0 and numbers["spool_exchanges"] == 0:
                return numbers
            time.sleep(0.1)

    def pids(self) -> list[int]:
        """The process and its shipper."""
        pid = self.process.pid
        children: list[int] = []
        for task in Path(f"/proc/{pid}/task").iterdir():
            with suppress(OSError):  # threads come and go
                children += map(int, (task / "children").read_text().split())
        return [pid, *children]

    def memory(self) -> int:
        """Resident bytes of both."""
        return sum(_resident(pid) for pid in self.pids())


class Bench:
    """Every part of one measurement, each started when first asked for."""

    def __init__(self, folder: Path) -> None:
        """Nothing is started yet.

        Raises:
            MissingProgram: if nginx or wrk is not there.
        """
        self._nginx_program = _program("nginx")
        wrk_program()
        self._folder = folder
        self._running = ExitStack()
        self._model: Child | None = None
        self._sidecars: list[SidecarChild] = []

    def __enter__(self) -> Bench:
        return self

    def __exit__(self, *_: object) -> None:
        self._running.close()

    def direct(self) -> str:
        """The trivial model server itself."""
        return self._trivial().url

    def nginx_mirror(self) -> str:
        """nginx that mirrors to a second trivial server."""
        model = self._trivial()
        copies = self._keep(trivial_server(self._folder, "copies"))
        folder = self._folder / "nginx"
        folder.mkdir()
        (port,) = free_ports(1)
        config = folder / "nginx.conf"
        config.write_text(_NGINX.format(folder=folder, model=model.port, copies=copies.port, port=port))
        return self._keep(Child([self._nginx_program, "-c", str(config)], port, folder / "log")).url

    def sidecar(self) -> str:
        """The sidecar, in front of the trivial server, logging everything."""
        return self._logging(SidecarChild(self._folder / "sidecar", self.direct())).url

    def mlflow(self) -> str:
        """MLflow's scoring server with a small CNN."""
        model = self._folder / "cnn"
        subprocess.run([sys.executable, "-m", "benchmarks.sidecar_model", str(model)], check=True)
        (port,) = free_ports(1)
        command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", str(model), "-p", str(port)]
        server = self._keep(Child([*command, "--env-manager", "local"], port, self._folder / "mlflow.log"))
        return server.url

    def mlflow_sidecar(self, name: str, mlflow: str, *options: str) -> str:
        """A sidecar in front of that, with its options and a folder of its own."""
        return self._logging(SidecarChild(self._folder / name, mlflow, *options)).url

    def wrk(self, url: str, connections: int, seconds: float) -> Load:
        """Ask for so long, and then let sidecars finish what they have to do, so that the next one has the machine."""
        load = wrk(self._folder, url, connections, seconds)
        for sidecar in self._sidecars:
            if sidecar.url == url:
                sidecar.settle()
        return load

    def accounts(self) -> dict[str, int]:
        """What became of every request that reached a sidecar."""
        accounts = {"requests": 0, "rows_logged": 0, "rows_dropped": 0}
        for sidecar in self._sidecars:
            numbers = sidecar.settle()
            accounts["requests"] += int(numbers["exchanges_accepted_total"])
            accounts["rows_logged"] += int(numbers["rows_logged_total"])
            accounts["rows_dropped"] += int(numbers["exchanges_dropped_total"])  # a request is one row here
        return accounts

    def _trivial(self) -> Child:
        if self._model is None:
            self._model = self._keep(trivial_server(self._folder))
        return self._model

    def _logging(self, sidecar: SidecarChild) -> SidecarChild:
        self._running.callback(sidecar.stop)
        self._sidecars.append(sidecar)
        return sidecar

    def _keep(self, child: Child) -> Child:
        self._running.callback(child.stop)
        return child


def trivial_server(folder: Path, name: str = "model") -> Child:
    """A model server that answers ten scores at once, whatever it is asked."""
    (port,) = free_ports(1)
    folder.mkdir(parents=True, exist_ok=True)
    options = ["--http", "httptools", "--loop", "uvloop", "--ws", "none", "--lifespan", "off", "--no-access-log"]
    command = [
        sys.executable,
        "-m",
        "uvicorn",
        "benchmarks.sidecar_model:answer_at_once",
        "--port",
        str(port),
        *options,
    ]
    return Child([*command, "--log-level", "critical"], port, folder / f"{name}.log")


def wrk(folder: Path, url: str, connections: int, seconds: float, *, pause_ms: float = 0) -> Load:
    """Ask with one thread of wrk.

    Args:
        folder: for its script.
        url: whom.
        connections: how many at a time.
        seconds: for how long.
        pause_ms: pause of each connection between two requests.
    """
    script = folder / "ask.lua"
    delay = f"function delay() return {max(1, round(pause_ms))} end" if pause_ms else ""
    script.write_text(_WRK.format(delay=delay))
    command = [
        wrk_program(),
        "-t1",
        f"-c{connections}",
        f"-d{max(1, round(seconds))}s",
        "--timeout",
        "60s",
        "-s",
        script,
    ]
    done = subprocess.run([*map(str, command), f"{url}/invocations"], capture_output=True, text=True, check=False)
    lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    if done.returncode or not lines:
        raise RuntimeError(f"wrk failed: {done.stdout}{done.stderr}")
    seen = json.loads(lines[0].removeprefix("RESULT "))
    if seen["errors"]:
        raise RuntimeError(f"{seen['errors']} of {seen['requests']} requests to {url} failed")
    return Load(int(seen["requests"]), seen["seconds"], seen["p50_us"], seen["p99_us"])


def wrk_program() -> str:
    """Where wrk is.

    Raises:
        MissingProgram: if it is not there.
    """
    return _program("wrk")


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [int(each.getsockname()[1]) for each in sockets]
    for each in sockets:
        each.close()
    return ports


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def _program(name: str) -> str:
    found = shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/bin")
    if found is None:
        raise MissingProgram(f"this measurement needs {name}, which is not installed. {_WORDS}")
    return found


def _resident(pid: int) -> int:
    try:
        fields = Path(f"/proc/{pid}/statm").read_text().split()
    except OSError:
        return 0
    return int(fields[1]) * os.sysconf("SC_PAGE_SIZE")
