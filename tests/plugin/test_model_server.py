"""Model servers are real ``mlflow models serve`` processes here."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import numpy as np
import pytest

from fieldrepair_monitoring.errors import ModelVersionMissingError
from fieldrepair_plugin.errors import PartError
from fieldrepair_plugin.model_server import ModelServer, ServerOptions, WarmUp, start_warm_server
from fieldrepair_plugin.processes import ManagedProcess, ProcessTable, child_environment, group_members

if TYPE_CHECKING:
    from tests.plugin.conftest import Registry

OPTIONS = ServerOptions(start_seconds=120, stop_seconds=20)


async def test_serves_warm_and_stops_whole(registry: Registry, tmp_path: Path) -> None:
    processes = ProcessTable(tmp_path)
    server, warm_up = await start_warm_server(
        registry.name, "1", processes=processes, tracking_uri=registry.tracking_uri, options=OPTIONS
    )
    assert warm_up.rows == (1, 1, 1, 32)
    assert warm_up.skipped == ""
    async with httpx.AsyncClient(trust_env=False) as client:
        image = np.zeros((2, 1, 8, 8), dtype=np.float32).tolist()
        answer = await client.post(f"{server.url}/invocations", json={"inputs": image})
    assert np.asarray(answer.json()["predictions"]).shape == (2, 4)
    log = server.process.log.read_text()
    assert "POST /invocations" not in log  # one line per request would fill the disk

    assert len(group_members(server.process.pid)) == 2  # mlflow's command and the server it started
    assert await server.stop()
    assert processes.alive() == []
    assert list((tmp_path / "tmp").iterdir()) == []  # and its copy of the model is gone


async def test_a_version_that_is_not_there_is_an_error_at_once(registry: Registry, tmp_path: Path) -> None:
    processes = ProcessTable(tmp_path)
    with pytest.raises(ModelVersionMissingError, match="models:/quadrants/99"):
        await start_warm_server(
            registry.name, "99", processes=processes, tracking_uri=registry.tracking_uri, options=OPTIONS
        )
    assert processes.alive() == []


async def test_a_server_that_ends_early_shows_the_end_of_its_log(registry: Registry, tmp_path: Path) -> None:
    processes = ProcessTable(tmp_path)
    server = await ModelServer.start(
        "digits",
        "1",
        tmp_path / "no-such-model",
        processes=processes,
        tracking_uri=registry.tracking_uri,
        options=OPTIONS,
    )
    with pytest.raises(PartError, match=r"before it was ready; end of .*model-server-v1.log:\n(.|\n)*no-such-model"):
        await server.wait_until_ready()
    await server.stop()


async def test_a_server_that_is_too_slow_is_an_error(registry: Registry, tmp_path: Path) -> None:
    processes = ProcessTable(tmp_path)
    options = ServerOptions(start_seconds=0.2, stop_seconds=5)
    with pytest.raises(PartError, match=r"did not answer /ping within 0.2 s"):
        await start_warm_server(
            registry.name, "1", processes=processes, tracking_uri=registry.tracking_uri, options=options
        )
    assert processes.alive() == []


async def test_a_server_with_wrong_answers_gets_no_traffic(tmp_path: Path) -> None:
    """Warming is also the check that the version answers its own reference inputs."""
    script = (
        "import http.server, json\n"
        "class H(http.server.BaseHTTPRequestHandler):\n"
        "    def do_POST(self):\n"
        "        body = json.dumps({'predictions': [[0.5, 0.5]]}).encode()\n"
        "        self.send_response(200); self.send_header('content-length', str(len(body))); self.end_headers()\n"
        "        self.wfile.write(body)\n"
        "    def do_GET(self):\n"
        "        self.send_response(200); self.send_header('content-length', '0'); self.end_headers()\n"
        "s = http.server.HTTPServer(('127.0.0.1', 0), H); print(s.server_address[1], flush=True); s.serve_forever()\n"
    )
    process = await ManagedProcess.start(
        "fake", [sys.executable, "-c", script], env=child_environment(), log=tmp_path / "fake.log"
    )
    try:
        while not process.log.read_text().strip():
            time.sleep(0.02)
        url = f"http://127.0.0.1:{process.log.read_text().strip()}"
        server = ModelServer("fake", "1", url, process, OPTIONS, model=tmp_path, scratch=tmp_path / "scratch")
        await server.wait_until_ready()
        await server.warm(WarmUp((b"{}",), (1,)))
        with pytest.raises(PartError, match="answered 32 reference inputs with 1 predictions"):
            await server.warm(WarmUp((b"{}",), (32,)))
    finally:
        assert await process.stop(5)


async def test_stop_kills_what_does_not_listen(tmp_path: Path) -> None:
    script = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(600)"
    )
    process = await ManagedProcess.start(
        "deaf", [sys.executable, "-c", script], env=child_environment(), log=tmp_path / "deaf.log"
    )
    while "deaf" not in process.log.read_text():
        time.sleep(0.02)
    assert not await process.stop(0.3)
    assert process.returncode == -signal.SIGKILL
    assert group_members(process.pid) == []


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the kernel ends orphans on Linux only")
def test_parts_end_when_the_supervisor_is_killed(tmp_path: Path) -> None:
    script = (
        "import asyncio, sys\nfrom pathlib import Path\n"
        "from fieldrepair_plugin.processes import ManagedProcess, child_environment\n"
        "async def main():\n"
        "    p = await ManagedProcess.start('sleeper', [sys.executable, '-c', 'import time; time.sleep(600)'],\n"
        "        env=child_environment(), log=Path(sys.argv[1]))\n"
        "    print(p.pid, flush=True)\n"
        "    await asyncio.sleep(600)\n"
        "asyncio.run(main())\n"
    )
    supervisor = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path / "sleeper.log")], stdout=subprocess.PIPE, text=True
    )
    assert supervisor.stdout is not None
    pid = int(supervisor.stdout.readline())
    assert group_members(pid) == [pid]
    os.kill(supervisor.pid, signal.SIGKILL)
    supervisor.wait()
    supervisor.stdout.close()
    deadline = time.monotonic() + 10
    while group_members(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert group_members(pid) == []
