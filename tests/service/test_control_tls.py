"""The control port with a certificate: HTTPS, and nothing else."""

from __future__ import annotations

import socket
import ssl
import subprocess
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI

from fieldrepair_service.control_server import ControlServer
from fieldrepair_service.tls import server_context


def test_the_control_port_speaks_https(tmp_path: Path) -> None:
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    made = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 1 -subj /CN=control"
    named = ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(cert)]
    subprocess.run(["openssl", *made.split(), *named], check=True, capture_output=True)  # noqa: S607
    app = FastAPI()
    app.get("/healthz")(lambda: {"status": "ok"})
    listener = socket.create_server(("127.0.0.1", 0))
    server = ControlServer(app, listener, server_context("control", cert, key))
    address = f"127.0.0.1:{listener.getsockname()[1]}"
    try:
        trusting = ssl.create_default_context(cafile=str(cert))
        assert httpx.get(f"https://{address}/healthz", verify=trusting, timeout=30).json() == {"status": "ok"}
        with pytest.raises(httpx.TransportError):
            httpx.get(f"http://{address}/healthz", timeout=30)
    finally:
        server.stop()
