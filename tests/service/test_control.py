"""The control port: open where it must be, closed where it should be, and one answer form for every error."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from fieldrepair_service.capture import Capture, CaptureLimits
from fieldrepair_service.console.security import Security
from fieldrepair_service.control import create_control_app
from fieldrepair_service.control_server import ControlServer
from fieldrepair_service.drops import NOT_SAMPLED
from fieldrepair_service.errors import ConfigurationError
from fieldrepair_service.metrics import create_registry
from fieldrepair_service.roles import Role
from fieldrepair_service.traffic_stats import TrafficStats
from fieldrepair_service.upstream import UpstreamLimits, Upstreams, normalise_upstream

TOKEN = "a-token-of-some-length"
Start = Callable[..., httpx.Client]


def eventually(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end, "waited 30 s in vain"
        time.sleep(0.02)


@pytest.fixture
def traffic_loop() -> Generator[asyncio.AbstractEventLoop]:
    """An event loop on a thread of its own, as the traffic port has one."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    yield loop
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


@pytest.fixture
def start(traffic_loop: asyncio.AbstractEventLoop) -> Generator[Start]:
    """Starts a control server; gives a client without a token."""
    upstreams = Upstreams(UpstreamLimits())
    started: list[tuple[ControlServer, httpx.Client]] = []

    def make(**options: Any) -> httpx.Client:
        settings: dict[str, Any] = {
            "upstreams": upstreams,
            "traffic_loop": traffic_loop,
            "registry": CollectorRegistry(),
            "not_ready": lambda: None if upstreams.active else "no upstream has been named yet",
            "security": Security({Role.APPROVER: TOKEN}),
            **options,
        }
        app: FastAPI = create_control_app(**settings)
        listener = socket.create_server(("127.0.0.1", 0))
        server = ControlServer(app, listener)
        client = httpx.Client(base_url=f"http://127.0.0.1:{listener.getsockname()[1]}", timeout=30)
        started.append((server, client))
        return client

    yield make
    for server, client in started:
        client.close()
        server.stop()
    asyncio.run_coroutine_threadsafe(upstreams.close(), traffic_loop).result(30)


def bearer(token: str = TOKEN) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


SPEC = {"url": "http://127.0.0.1:5003/", "model_name": "fashion", "model_version": "7"}


def test_the_upstream_is_shown_and_changed(start: Start) -> None:
    client = start()
    assert client.get("/upstream", headers=bearer()).json() == {"active": None, "canary": None, "draining": []}
    assert client.get("/readyz").status_code == 503
    put = client.put("/upstream", json=SPEC, headers=bearer())
    assert put.status_code == 200
    expected = {**SPEC, "url": "http://127.0.0.1:5003", "generation": 1, "in_flight": 0}
    assert put.json() == expected
    assert client.get("/upstream", headers=bearer()).json() == {"active": expected, "canary": None, "draining": []}
    assert client.put("/upstream", json=SPEC, headers=bearer()).json()["generation"] == 2
    assert client.get("/readyz").status_code == 200


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        ({**SPEC, "url": "ftp://host"}, "must look like http://host:port, got 'ftp://host'"),
        ({**SPEC, "url": "http://host:port"}, "must look like"),
        ({**SPEC, "url": "http://user:secret@host"}, "must look like"),
        ({**SPEC, "model_name": ""}, "model_name"),
        ({"url": "http://host"}, "model_version"),
        ({**SPEC, "more": 1}, "more"),
    ],
)
def test_a_wrong_upstream_is_explained(start: Start, spec: dict[str, Any], told: str) -> None:
    client = start()
    answer = client.put("/upstream", json=spec, headers=bearer())
    assert answer.status_code == 422
    assert told in answer.json()["detail"]
    assert client.get("/upstream", headers=bearer()).json()["active"] is None


def test_urls_of_upstreams() -> None:
    assert normalise_upstream("https://host:8443/prefix/") == "https://host:8443/prefix"
    assert normalise_upstream("http://[::1]:80") == "http://[::1]:80"
    for wrong in ("", "host:80", "http://", "http://h?q", "http://h#f", "http://h:0x1", "http://[::1"):
        with pytest.raises(ConfigurationError, match="must look like"):
            normalise_upstream(wrong)


@pytest.mark.parametrize("headers", [{}, bearer("wrong"), bearer("ä"), {"authorization": f"Basic {TOKEN}"}])
def test_what_changes_things_needs_the_token(start: Start, headers: dict[str, str]) -> None:
    client = start()
    encoded = {name.encode(): value.encode() for name, value in headers.items()}
    for answer in (
        client.get("/upstream", headers=encoded),
        client.put("/upstream", json=SPEC, headers=encoded),
    ):
        assert answer.status_code == 401
        assert answer.json()["error"] == "Unauthorized"
        assert answer.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize("path", ["/healthz", "/metrics"])
def test_health_and_metrics_are_open(start: Start, path: str) -> None:
    assert start().get(path).status_code == 200


def test_without_a_token_nothing_is_asked(start: Start) -> None:
    assert start(security=Security(None)).get("/upstream").status_code == 200


def test_the_case_api_comes_as_soon_as_its_stores_open(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fieldrepair_service.stores._RETRY_SECONDS", 0.1)
    (tmp_path / "later").write_text("")  # a file where a folder is needed
    client = start(
        case_book_url=f"sqlite:///{tmp_path / 'later' / 'book.db'}", field_log_uri=str(tmp_path / "later" / "log")
    )
    assert client.get("/api/cases").status_code == 401
    waiting = client.get("/api/cases", headers=bearer())
    assert waiting.status_code == 503
    assert waiting.json()["error"] == "StoreUnavailable"
    assert client.get("/healthz").status_code == 200
    (tmp_path / "later").unlink()
    (tmp_path / "later").mkdir()
    eventually(lambda: client.get("/api/cases", headers=bearer()).status_code == 200)
    assert client.get("/api/cases", headers=bearer()).json() == []
    assert client.get("/api/cases").status_code == 401
    assert client.get("/api/cases/1", headers=bearer()).status_code == 404


def test_metrics_tell_what_became_of_every_exchange(start: Start, tmp_path: Path) -> None:
    stats, spool = TrafficStats(), tmp_path / "spool.db"
    capture = Capture(spool, CaptureLimits(), sync=False, on_new_spool=lambda: None)
    upstreams = Upstreams(UpstreamLimits())
    client = start(registry=create_registry(stats, capture, upstreams, spool, lambda: 2))
    capture.drop(NOT_SAMPLED)
    stats.observe(200, 0.004, 0.003)
    stats.observe(502, 0.2, None)
    families = {family.name: family for family in text_string_to_metric_families(client.get("/metrics").text)}

    def value(name: str, **labels: str) -> float:
        samples = [each for family in families.values() for each in family.samples]
        return next(each.value for each in samples if each.name == name and each.labels == labels)

    assert value("fieldrepair_requests_total", code="200") == 1
    assert value("fieldrepair_requests_total", code="502") == 1
    assert value("fieldrepair_request_seconds_count") == 2
    assert value("fieldrepair_upstream_seconds_sum") == 0.003
    assert value("fieldrepair_overhead_seconds_bucket", le="0.0005") == 0
    assert value("fieldrepair_overhead_seconds_bucket", le="0.0025") == 1
    assert value("fieldrepair_exchanges_accepted_total") == 1
    assert value("fieldrepair_exchanges_dropped_total", reason=NOT_SAMPLED) == 1
    assert value("fieldrepair_exchanges_logged_total") == 0
    assert value("fieldrepair_rows_logged_total") == 0
    assert value("fieldrepair_spool_exchanges") == 0
    assert value("fieldrepair_shipper_starts_total") == 2
    assert value("process_open_fds") > 0
    labels = {name for family in families.values() for each in family.samples for name in each.labels}
    described = {"model_name", "model_version", "version", "python_version"}
    assert labels <= {"code", "reason", "state", "le", "outcome", *described}
    capture.close()


def test_a_canary_is_begun_shown_and_ended(start: Start) -> None:
    client = start()
    spec = {**SPEC, "url": "http://127.0.0.1:5004", "model_version": "8", "percent": 5}
    refused = client.put("/canary", json=spec, headers=bearer())
    assert (refused.status_code, refused.json()["detail"]) == (
        422,
        "there is no upstream yet that a canary could stand beside",
    )
    client.put("/upstream", json=SPEC, headers=bearer())
    begun = client.put("/canary", json=spec, headers=bearer()).json()
    assert begun["percent"] == 5
    assert begun["upstream"] == {
        "generation": 2,
        "url": "http://127.0.0.1:5004",
        "model_name": "fashion",
        "model_version": "8",
        "in_flight": 0,
    }
    assert client.get("/upstream", headers=bearer()).json()["canary"] == begun
    assert client.put("/canary", json={**spec, "percent": 0}, headers=bearer()).status_code == 422
    assert client.put("/canary", json=spec).status_code == 401
    assert client.delete("/canary").status_code == 401
    assert client.delete("/canary", headers=bearer()).json()["former"]["model_version"] == "8"
    assert client.delete("/canary", headers=bearer()).json() == {"former": None}
    assert client.get("/upstream", headers=bearer()).json()["canary"] is None
