"""The Dockerfile's steps carried out, and what comes out of them run as a container would be: see engine.py."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from fieldrepair_service.field_log import FieldLog
from tests.image.engine import Build, Stage, added_bytes, in_tree, tree_command

ROOT = Path(__file__).parents[2]
DOCKERFILE = ROOT / "Dockerfile"
VOLUME_PATHS = ("/var/lib/fieldrepair", "/tmp")  # noqa: S108 - paths in a container

SIDECAR_LIMIT = 250e6
"""Bytes of the files that the image adds to its base."""

OF_OTHER_PARTS = {"torch", "mlflow", "pandas", "alibi_detect", "scipy", "sklearn"}
OF_READERS = {"pyarrow", "sqlalchemy", "alembic", "psycopg", "PIL"}


def test_hadolint_has_nothing_to_say() -> None:
    program = Path(sys.executable).with_name("hadolint")
    # Steps that belong to different things stay apart: layers of a stage that is thrown away cost nothing.
    done = subprocess.run([program, "--ignore", "DL3059", str(DOCKERFILE)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_no_place_to_download_from_is_written_down() -> None:
    assert re.findall(r"https?://[^\s\"']+", DOCKERFILE.read_text()) == ["http://127.0.0.1:8081/healthz"] * 2


def test_both_images_are_alike() -> None:
    text = DOCKERFILE.read_text()
    assert text.count("FROM runtime AS ") == 2
    assert "USER 10001:10001" in text
    assert text.count("HEALTHCHECK") == 2
    assert "ARG SOURCE_DATE_EPOCH" in text


def test_their_version_is_the_packages() -> None:
    version = re.findall(r"^ARG VERSION=(.+)$", DOCKERFILE.read_text(), re.MULTILINE)
    assert f'version = "{version[0]}"' in (ROOT / "pyproject.toml").read_text()


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Build]:
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        pytest.skip("needs root and unshare: each step runs in a chroot with mounts of its own")
    if (
        subprocess.run([str(shutil.which("unshare")), "--mount", "true"], check=False, capture_output=True).returncode
        != 0
    ):
        pytest.skip("needs the right to mount: each step runs in a chroot with mounts of its own")
    folder = tmp_path_factory.mktemp("image")
    yield Build(ROOT, folder)
    shutil.rmtree(folder, ignore_errors=True)


def volume(image: Stage, path: str) -> Path:
    """The folder that stands for a volume of the image."""
    return image.root.parent / f"volume{path.replace('/', '-')}"


@contextmanager
def running(image: Stage, *arguments: str, **settings: str) -> Generator[subprocess.Popen[str]]:
    """A container: read-only root, a folder on each volume, the image's own user, entry point and environment."""
    folders: dict[str, Path] = {}
    for path in VOLUME_PATHS:
        folders[path] = volume(image, path)
        folders[path].mkdir(exist_ok=True)
        os.chown(folders[path], 10001, 10001)
    environment = {**image.env, **settings}
    command = tree_command(
        image, [*image.entrypoint, *(arguments or image.command)], environment, read_only=True, volumes=folders
    )
    process = subprocess.Popen(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
        finally:
            if process.stdout is not None:
                process.stdout.close()


def healthy(image: Stage, port: int) -> bool:
    """Run the image's own HEALTHCHECK, with the port that this test uses."""
    command = [word.replace("8081", str(port)) for word in image.healthcheck]
    return in_tree(image, command, image.env, read_only=True).returncode == 0


def test_the_sidecar_image(build: Build) -> None:
    image = build.target("sidecar")
    size = added_bytes(image)
    sys.stdout.write(f"the image sidecar adds {size / 1e6:.0f} MB to its base\n")
    assert size < SIDECAR_LIMIT
    packages = {path.name for path in (image.root / "opt/fieldrepair/lib/python3.11/site-packages").iterdir()}
    assert not packages & (OF_OTHER_PARTS | OF_READERS)
    assert image.user == "10001:10001"
    assert image.labels["org.opencontainers.image.licenses"] == "Apache-2.0"
    who = in_tree(image, ["sh", "-c", "id -u; touch /opt/fieldrepair/x"], image.env, read_only=True)
    assert who.stdout == "10001\n"
    assert who.returncode != 0

    traffic, control = free_ports(2)
    settings = {"FIELDREPAIR_TRAFFIC_PORT": str(traffic), "FIELDREPAIR_CONTROL_PORT": str(control)}
    with model_server() as upstream, running(image, **settings, FIELDREPAIR_UPSTREAM=upstream) as process:
        wait_until(lambda: healthy(image, control), process)
        url = f"http://127.0.0.1:{traffic}/invocations"
        for _ in range(3):
            answer = httpx.post(url, json={"inputs": [[1.0, 2.0]]}, trust_env=False)
            assert answer.json() == {"predictions": [[0.25, 0.75]]}
        wait_until(lambda: "fieldrepair_rows_logged_total 3.0" in metrics(control), process)
        page = httpx.get(f"http://127.0.0.1:{control}/", trust_env=False)
        assert (page.status_code, "fieldrepair console" in page.text) == (404, True)
    # The shipper, and the libraries that were made smaller, have written a field log. To read it takes another image.
    rows = FieldLog.open(volume(image, "/var/lib/fieldrepair") / "state" / "field_log", create=False)
    np.testing.assert_array_equal(rows.read_after({}, limit=9).inputs(), [[1, 2]] * 3)
    for command in (["log", "stats"], ["migrate"], ["console"], ["monitor", "--once"]):
        with running(image, *command) as process:
            output, _ = process.communicate(timeout=60)
        assert process.returncode == 1
        assert re.search("not installed.*; install the extra that brings", output)


@contextmanager
def model_server() -> Generator[str]:
    """A server that answers every request with one prediction."""
    script = """
import http.server, json
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        body = json.dumps({"predictions": [[0.25, 0.75]]}).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *_):
        pass
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
print(server.server_port, flush=True)
server.serve_forever()
"""
    process = subprocess.Popen([sys.executable, "-c", script], text=True, stdout=subprocess.PIPE)
    assert process.stdout is not None
    try:
        yield f"http://127.0.0.1:{int(process.stdout.readline())}"
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def metrics(port: int) -> str:
    return httpx.get(f"http://127.0.0.1:{port}/metrics", trust_env=False).text


def wait_until(asked: Any, process: subprocess.Popen[str], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not asked():
        assert process.poll() is None, process.stdout.read() if process.stdout else ""
        assert time.monotonic() < deadline, "in vain"
        time.sleep(0.2)


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    try:
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


def test_the_context_has_what_is_copied_and_no_more() -> None:
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    assert lines[0] == "*"
    copies = re.findall(r"^COPY (?!--from)(.+)$", DOCKERFILE.read_text(), re.MULTILINE)
    copied = {word for line in copies for word in line.split()[:-1]}
    assert {line.removeprefix("!") for line in lines if line.startswith("!")} == copied


# The last one: to take the trees away takes minutes too, and counts to it.
@pytest.mark.skipif(not os.environ.get("FIELDREPAIR_IMAGE_FULL"), reason="takes minutes: `make image-check` runs it")
@pytest.mark.timeout(1500)
def test_the_full_image(build: Build) -> None:
    image = build.target("full")
    sys.stdout.write(f"the image full adds {added_bytes(image) / 1e6:.0f} MB to its base\n")
    with running(image, "--help") as process:
        output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    assert "not available" not in output
    with running(image, "monitor", "--once", MLFLOW_TRACKING_URI="sqlite:////tmp/mlflow.db") as process:
        output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
