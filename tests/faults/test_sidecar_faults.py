"""What goes wrong around the sidecar, done to a real one: serving goes on, and the log has everything exactly once."""

from __future__ import annotations

import resource
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Generator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

StartSidecar = Callable[..., Any]  # gives a SidecarProcess of conftest.py
MakeLoad = Callable[[Any], Any]
Logged = Callable[[], list[int]]
WaitUntil = Callable[[Callable[[], bool]], None]


def test_everything_answered_is_logged_once(sidecar: StartSidecar, load: MakeLoad, logged: Logged) -> None:
    running = sidecar()
    with load(running) as clients:
        clients.wait_for(300)
    assert not clients.failed
    numbers = running.check_sums()
    assert numbers["rows_logged_total"] == len(clients.answered)
    assert sorted(logged()) == sorted(clients.answered)


def test_a_killed_sidecar_in_sync_mode_loses_nothing_it_answered(
    sidecar: StartSidecar, load: MakeLoad, logged: Logged
) -> None:
    answered: set[int] = set()
    for _ in range(3):
        running = sidecar(durability="sync")
        with load(running) as clients:
            clients.wait_for(60)
            running.kill()
        answered |= set(clients.answered)
    sidecar(durability="sync").check_sums()
    log = logged()
    assert answered <= set(log)
    # Each run asks the same numbers, so a number may be there once per run, and no row twice.
    assert max(log.count(number) for number in answered) <= 3


def test_a_killed_sidecar_leaves_no_row_twice(
    sidecar: StartSidecar, load: MakeLoad, logged: Logged, wait_until: WaitUntil, alive: Callable[[int], bool]
) -> None:
    running = sidecar()
    shipper = running.shipper_pid()
    with load(running) as clients:
        clients.wait_for(200)
        running.kill()
    assert shipper is not None
    wait_until(lambda: not alive(shipper))  # it ends with its parent
    sidecar().check_sums()
    log = logged()
    assert len(log) == len(set(log))
    # Only what was answered in the last moment may be missing: it had not reached the spool.
    missing = set(clients.answered) - set(log)
    assert missing <= set(sorted(clients.answered)[-len(missing) - 8 * len(clients.failed) - 400 :])


def test_killed_shippers_cost_nothing(sidecar: StartSidecar, load: MakeLoad, logged: Logged) -> None:
    running = sidecar()
    with load(running) as clients:
        for round_ in range(4):
            clients.wait_for(80 * (round_ + 1))
            running.kill_shipper()
    assert not clients.failed
    numbers = running.check_sums()
    assert numbers["shipper_starts_total"] >= 2
    assert sorted(logged()) == sorted(clients.answered)


def test_sigterm_drains(
    sidecar: StartSidecar, load: MakeLoad, logged: Logged, wait_until: WaitUntil, model_server: Any
) -> None:
    running = sidecar(flush_seconds=3600)  # nothing is shipped before the end
    with load(running) as clients:
        clients.wait_for(100)
    model_server.hold = threading.Event()
    model_server.asked.clear()
    slow: list[httpx.Response] = []
    client = threading.Thread(target=lambda: slow.append(running.ask([[1e6, 0.5]])))
    client.start()
    assert model_server.asked.wait(60)
    running.process.send_signal(signal.SIGTERM)
    wait_until(lambda: _refuses_connections(running.traffic_url))
    assert httpx.get(f"{running.control_url}/readyz").json()["detail"] == "draining"
    model_server.hold.set()
    client.join(60)
    assert slow[0].status_code == 200
    assert running.process.wait(60) == 0
    assert sorted(logged()) == [*sorted(clients.answered), 1_000_000]


def test_what_cannot_be_shipped_at_the_end_is_shipped_later(
    sidecar: StartSidecar, tmp_path: Path, logged: Logged
) -> None:
    (tmp_path / "field_log").write_text("in the way")
    running = sidecar(ship_seconds=0.5)
    for number in range(5):
        assert running.ask([[number, 0.5]]).status_code == 200
    assert running.stop() == 0
    (tmp_path / "field_log").unlink()
    numbers = sidecar().check_sums()
    assert numbers["exchanges_accepted_total"] == numbers["rows_logged_total"] == 5
    assert sorted(logged()) == list(range(5))


# -- disks -------------------------------------------------------------------------------------------------------


def test_a_disk_that_takes_no_writes(sidecar: StartSidecar, wait_until: WaitUntil) -> None:
    running = sidecar(queue_exchanges=10)
    assert running.ask([[1, 0.5]]).status_code == 200
    wait_until(running.settled)
    unlimited = resource.prlimit(running.process.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(running.process.pid, resource.RLIMIT_FSIZE, (0, unlimited[1]))
    for number in range(40):
        assert running.ask([[number, 0.5]]).status_code == 200
    wait_until(lambda: running.metrics()["exchanges_dropped_total{spool_error}"] >= 20)
    resource.prlimit(running.process.pid, resource.RLIMIT_FSIZE, unlimited)
    numbers = running.check_sums()
    assert numbers["exchanges_accepted_total"] == 41
    assert 1 < numbers["exchanges_logged_total"] <= 21
    assert running.ask([[1, 0.5]]).status_code == 200
    assert running.check_sums()["exchanges_logged_total"] == numbers["exchanges_logged_total"] + 1


@pytest.fixture
def small_disk(tmp_path: Path) -> Generator[Path]:
    folder = tmp_path / "small"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", folder], check=False).returncode:  # noqa: S607
        pytest.skip("may not mount a file system here")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)  # noqa: S607


@pytest.mark.parametrize("durability", ["async", "sync"])
def test_a_full_disk(sidecar: StartSidecar, small_disk: Path, wait_until: WaitUntil, durability: str) -> None:
    running = sidecar(small_disk, queue_exchanges=5, durability=durability)
    assert running.ask([[1, 0.5]]).status_code == 200
    wait_until(running.settled)
    filler = _fill(small_disk)
    for number in range(60):
        assert running.ask([[number] * 100]).status_code == 200
    wait_until(lambda: running.metrics()["exchanges_dropped_total{disk_full}"] > 0)
    filler.unlink()
    numbers = running.check_sums()
    assert numbers["exchanges_accepted_total"] == 61
    assert "takes exchanges again" in running.log_file.read_text()
    logged_before = numbers["exchanges_logged_total"]
    assert running.ask([[1, 0.5]]).status_code == 200
    assert running.check_sums()["exchanges_logged_total"] == logged_before + 1


def test_a_sidecar_starts_on_a_full_disk(sidecar: StartSidecar, small_disk: Path) -> None:
    filler = _fill(small_disk)
    running = sidecar(small_disk)
    assert running.ask([[1, 0.5]]).status_code == 200
    filler.unlink()
    assert running.check_sums()["exchanges_logged_total"] == 1


def test_a_broken_spool_file_is_set_aside_at_the_start(sidecar: StartSidecar, tmp_path: Path) -> None:
    state_dir = tmp_path / "state"
    state_dir.mkdir()
    (state_dir / "spool.db").write_bytes(b"nothing that was ever a database" * 500)
    running = sidecar()
    assert running.ask([[1, 0.5]]).status_code == 200
    assert running.check_sums()["exchanges_logged_total"] == 1
    assert len(list(state_dir.glob("spool.db.damaged-*"))) == 1
    assert "is damaged" in running.log_file.read_text()


def test_a_spool_file_that_breaks_in_use_is_replaced(
    sidecar: StartSidecar, tmp_path: Path, wait_until: WaitUntil
) -> None:
    (tmp_path / "field_log").write_text("in the way, so that exchanges stay in the spool")
    running = sidecar()
    for number in range(50):
        assert running.ask([[number] * 500]).status_code == 200
    wait_until(lambda: running.metrics()["spool_exchanges"] == 50)
    spool = tmp_path / "state" / "spool.db"
    raw = sqlite3.connect(spool)
    raw.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    raw.close()
    content = bytearray(spool.read_bytes())
    content[6 * 4096 : 40 * 4096] = b"\xff" * (34 * 4096)
    spool.write_bytes(content)
    (tmp_path / "field_log").unlink()
    wait_until(lambda: running.metrics()["exchanges_dropped_total{spool_damaged}"] > 0)
    assert running.ask([[1, 0.5]]).status_code == 200
    numbers = running.check_sums()
    assert numbers["exchanges_accepted_total"] == 51
    assert numbers["exchanges_logged_total"] >= 1


# -- inputs ------------------------------------------------------------------------------------------------------


def test_strange_inputs_are_served_and_counted(sidecar: StartSidecar) -> None:
    running = sidecar(max_logged_body=2000)
    strange = {
        b"not json": "malformed_request",
        b'{"inputs": [[1, 2], [3]]}': "ragged",
        b'{"inputs": [["a"]]}': "not_numeric",
        b'{"inputs": []}': "empty",
        b'{"inputs": [[NaN]]}': "not_finite",
        b'{"inputs": {"a": [[1]], "b": [[2]]}}': "several_tensors",
        b'{"inputs": {"a": [1], "b": [2]}}': "outputs_mismatch",  # one row of two columns, and two answers
        b'{"instances": [[1], [2]]}': "outputs_mismatch",
        b"[" * 1999: "malformed_request",
        b" " * 3000: "body_too_large",
    }
    for body in strange:
        assert running.ask(body).status_code == 200
    assert running.ask([[1, 0.5], [2, 0.5]]).status_code == 200
    numbers = running.check_sums()
    assert numbers["exchanges_accepted_total"] == len(strange) + 1
    assert numbers["exchanges_logged_total"] == 1
    assert numbers["rows_logged_total"] == 2
    for reason in set(strange.values()):
        assert numbers[f"exchanges_dropped_total{{{reason}}}"] == list(strange.values()).count(reason)


def test_huge_bodies_are_not_held(sidecar: StartSidecar, wait_until: WaitUntil) -> None:
    running = sidecar()
    running.ask([[1, 0.5]])
    wait_until(lambda: httpx.get(f"{running.control_url}/api/cases").status_code == 200)  # all parts are loaded

    def peak() -> int:
        status = Path(f"/proc/{running.process.pid}/status").read_text()
        return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) * 1024

    before = peak()

    def pieces() -> Generator[bytes]:
        for _ in range(100):
            yield bytes(1 << 20)

    length = {"content-length": str(100 << 20)}
    answer = httpx.post(f"{running.traffic_url}/invocations", content=pieces(), headers=length, timeout=60)
    assert answer.status_code == 200
    assert peak() - before < 40 << 20
    assert running.check_sums()["exchanges_dropped_total{body_too_large}"] == 1


# -- the process -------------------------------------------------------------------------------------------------


def test_a_second_sidecar_on_the_same_state_is_refused(sidecar: StartSidecar) -> None:
    running = sidecar()
    other = _run_sidecar(f"--state-dir={running.state_dir}", "--traffic-port=0", "--control-port=0")
    assert other.returncode == 1
    assert "another sidecar uses the state folder" in other.stderr


def test_a_port_that_is_taken_is_explained(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        other = _run_sidecar(f"--state-dir={tmp_path / 'x'}", f"--traffic-port={port}")
    assert other.returncode == 1
    assert other.stderr.strip().endswith(f"cannot listen on 127.0.0.1:{port}: [Errno 98] Address already in use")


def test_a_wrong_option_is_explained(tmp_path: Path) -> None:
    wrong = _run_sidecar(f"--state-dir={tmp_path}", "--control-auth=off", "--control-host=0.0.0.0")
    assert wrong.returncode == 2
    assert "control_auth=off needs a loopback control_host" in wrong.stderr
    wrong = _run_sidecar(f"--state-dir={tmp_path}", "--upstream=localhost:5000")
    assert wrong.returncode == 1
    assert "must look like http://host:port" in wrong.stderr


def test_the_sidecar_stays_small(sidecar: StartSidecar, wait_until: WaitUntil) -> None:
    """Also where torch, mlflow and pandas are installed; and importing the package loads none of its parts."""
    running = sidecar()
    assert running.ask([[1, 0.5]]).status_code == 200
    running.check_sums()
    wait_until(lambda: httpx.get(f"{running.control_url}/api/cases").status_code == 200)
    of_readers = ("pyarrow", "sqlalchemy", "psycopg_binary", "PIL")
    # The console on its control port reads the field log; what writes it does not.
    for pid, at_work, absent in (
        (running.process.pid, "pyarrow", ()),
        (running.shipper_pid(), "deltalake", of_readers),
    ):
        loaded = Path(f"/proc/{pid}/maps").read_text()
        assert f"/{at_work}/" in loaded
        for package in ("torch", "mlflow", "pandas", "sklearn", "scipy", "faiss", *absent):
            assert f"/{package}/" not in loaded
    program = "import sys, fieldrepair_service; assert not {'numpy', 'pyarrow', 'fastapi'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)


def _fill(disk: Path) -> Path:
    filler = disk / "filler"
    with suppress(OSError), filler.open("wb", buffering=0) as stream:
        while True:
            stream.write(bytes(4096))
    return filler


def _refuses_connections(url: str) -> bool:
    try:
        httpx.get(url, timeout=1)
    except httpx.TransportError:
        return True
    return False


def _run_sidecar(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "fieldrepair_service.cli", "sidecar", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
