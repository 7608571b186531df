"""Sidecars that are asked over the network: names with many addresses, silence, nonsense, and certificates."""

from __future__ import annotations

import asyncio
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI, Response
from hypothesis import given
from hypothesis import strategies as st

from fieldrepair_service.console.sidecar_addresses import addresses_of, parse_sidecar
from fieldrepair_service.console.sidecar_metrics import MOST_BYTES, UnusableAnswer, read_metrics
from fieldrepair_service.console.sidecar_traffic import PollTimes, SidecarTraffic
from fieldrepair_service.console.traffic import SidecarReport
from fieldrepair_service.control_server import ControlServer
from fieldrepair_service.errors import ConfigurationError
from tests.console.conftest import Counted
from tests.console.test_traffic_sources import seen

TIMES = PollTimes(pause=0.05, answer=20.0)


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    """Host names and their addresses, in place of a name server's; others are resolved as ever."""
    known: dict[str, list[str]] = {}
    real = socket.getaddrinfo

    def getaddrinfo(host: Any, port: Any, *arguments: Any, **options: Any) -> list[Any]:
        if host not in known:
            return real(host, port, *arguments, **options)
        found: list[Any] = []
        for address in known[host]:
            found += real(address, port, *arguments, **options)
        return found

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return known


async def test_a_name_stands_for_all_its_addresses_resolved_anew(
    count: Callable[[], Counted], names: dict[str, list[str]]
) -> None:
    first, second = count(), count()
    await first.upstreams.switch("http://127.0.0.1:5003", "digits", "3")
    await second.upstreams.switch("http://127.0.0.1:5003", "digits", "4")
    port = first.serve("127.0.0.2")
    second.serve("127.0.0.3", port)
    first.stats.observe(200, 0.01, 0.005)
    for _ in range(2):
        second.stats.observe(200, 0.01, 0.005)
    names["sidecars.test"] = ["127.0.0.2"]
    source = SidecarTraffic([parse_sidecar(f"http://sidecars.test:{port}")], TIMES)
    async with source.running():
        view = await seen(source, lambda view: len(view.reports) == 1)
        assert view.numbers.requests == 1
        names["sidecars.test"] = ["127.0.0.2", "127.0.0.3", "127.0.0.2"]
        view = await seen(source, lambda view: len(view.reports) == 2)
        assert view.numbers.requests == 3
        assert [share.served.model_version for share in view.served] == ["3", "4"]
        names["sidecars.test"] = ["127.0.0.3", "127.0.0.4"]
        view = await seen(source, lambda view: len(view.silent) == 1)
        assert view.numbers.requests == 2
        [silent] = view.silent
        assert silent.name == f"http://127.0.0.4:{port}"
        assert "does not answer" in silent.problem
        [states] = list(source.collect())
        assert {sample.labels["state"]: sample.value for sample in states.samples} == {"answers": 1, "silent": 1}


async def test_hosts_with_addresses_of_both_families_count_once(names: dict[str, list[str]]) -> None:
    names["both.test"] = ["::1", "127.0.0.2"]
    names["six.test"] = ["::1"]
    assert [one.url for one in await addresses_of(parse_sidecar("https://both.test/x"))] == ["https://127.0.0.2:443/x"]
    assert [one.url for one in await addresses_of(parse_sidecar("http://six.test:8081"))] == ["http://[::1]:8081"]


async def test_two_names_of_one_sidecar_count_once(count: Callable[[], Counted], names: dict[str, list[str]]) -> None:
    names["sidecar.test"] = ["127.0.0.1"]
    port = count().serve()
    named = [parse_sidecar(f"http://{host}:{port}") for host in ("sidecar.test", "127.0.0.1")]
    source = SidecarTraffic(named, TIMES)
    async with source.running():
        assert (await seen(source, lambda view: bool(view.reports))).known == 1


async def test_a_name_that_cannot_be_resolved_is_a_silent_sidecar(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    source = SidecarTraffic([parse_sidecar("http://no-such-host.invalid:8081")], TIMES)
    async with source.running():
        view = await seen(source, lambda view: bool(view.silent))
        assert view.known == 1
        assert view.silent[0].problem.startswith("cannot be resolved: ")
        await asyncio.sleep(0.3)
    told = [line for line in caplog.messages if "no-such-host" in line]
    assert len(told) == 1, "said once, not in every round"


@pytest.mark.parametrize("host", ["x" * 70, "a..b"])
async def test_a_name_that_no_host_can_have_is_one_too(host: str) -> None:
    source = SidecarTraffic([parse_sidecar(f"http://{host}:8081")], TIMES)
    async with source.running():
        view = await seen(source, lambda view: bool(view.silent) and "asked yet" not in view.silent[0].problem)
    assert view.silent[0].problem.startswith("cannot be resolved: ")


async def test_a_name_server_that_hangs_is_asked_once_at_a_time(
    count: Callable[[], Counted], monkeypatch: pytest.MonkeyPatch
) -> None:
    port = count().serve()
    real, answered, asked = socket.getaddrinfo, threading.Event(), list[str]()

    def getaddrinfo(host: Any, *arguments: Any, **options: Any) -> list[Any]:
        if host != "slow.test":
            return real(host, *arguments, **options)
        asked.append(host)
        answered.wait(60)
        return real("127.0.0.1", *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    named = [parse_sidecar(f"http://slow.test:{port}"), parse_sidecar(f"http://localhost:{port}")]
    source = SidecarTraffic(named, PollTimes(pause=0.01, answer=0.1))
    try:
        async with source.running():
            view = await seen(source, lambda view: len(view.reports) == 1 and len(view.silent) == 1)
            assert view.silent[0].problem == "is not resolved within 0.1 s"
            await asyncio.sleep(1)
            assert asked == ["slow.test"]
            answered.set()
            # Both names lead to one control port.
            await seen(source, lambda view: view.known == 1 and len(view.reports) == 1)
    finally:
        answered.set()


async def test_silence_and_return_are_logged_once_each(
    count: Callable[[], Counted], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    counted = count()
    port = counted.serve()
    source = SidecarTraffic([parse_sidecar(f"http://127.0.0.1:{port}")], TIMES)
    async with source.running():
        await seen(source, lambda view: bool(view.reports))
        assert counted.server is not None
        counted.server.stop()
        await seen(source, lambda view: bool(view.silent))
        counted.serve(port=port)
        await seen(source, lambda view: bool(view.reports))
    assert sum("does not answer" in line for line in caplog.messages) == 1
    assert sum("answers again" in line for line in caplog.messages) == 1


async def test_without_sidecars_there_is_nothing_to_wait_for() -> None:
    source = SidecarTraffic([], TIMES)
    async with source.running():
        assert (await source.view()).known == 0


class _Strange(ThreadingHTTPServer):
    daemon_threads = True
    status = 200
    body = b""
    hold: threading.Event | None = None


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        assert isinstance(self.server, _Strange)
        if self.server.hold is not None:
            self.server.hold.wait(60)
        self.send_response(self.server.status)
        self.end_headers()
        with suppress(OSError):  # it has read enough
            self.wfile.write(self.server.body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def strange(status: int = 200, body: bytes = b"", hold: threading.Event | None = None) -> Generator[str]:
    """Something that answers in place of a sidecar."""
    server = _Strange(("127.0.0.1", 0), _Handler)
    server.status, server.body, server.hold = status, body, hold
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        if hold is not None:
            hold.set()
        server.shutdown()
        server.server_close()
        thread.join()


LOGGED = b"# TYPE fieldrepair_rows_logged_total counter\nfieldrepair_rows_logged_total "


@pytest.mark.parametrize(
    ("status", "body", "told"),
    [
        (503, b"", "answers 503 to GET /metrics, expected 200"),
        (302, b"", "answers 302"),
        (200, b"x" * (MOST_BYTES + 1), f"more than {MOST_BYTES} bytes"),
        (200, b"<html>", "cannot be read as metrics"),
        (200, b"", "not with the metrics of a sidecar"),
        (200, b"process_open_fds 3\n", "not with the metrics of a sidecar"),
        (200, LOGGED + b"NaN\n", "cannot be read as metrics"),
        (200, LOGGED + b"+Inf\n", "cannot be read as metrics"),
        (200, b"\xff\xfe", "cannot be read as metrics"),
    ],
)
async def test_what_is_no_sidecar_is_counted_and_explained(status: int, body: bytes, told: str) -> None:
    with strange(status, body) as url:
        source = SidecarTraffic([parse_sidecar(url)], TIMES)
        async with source.running():
            view = await seen(source, lambda view: bool(view.silent))
    assert told in view.silent[0].problem


async def test_who_takes_too_long_is_silent_and_holds_up_nobody(count: Callable[[], Counted]) -> None:
    port = count().serve()
    with strange(hold=threading.Event()) as url:
        named = [parse_sidecar(url), parse_sidecar(f"http://127.0.0.1:{port}")]
        source = SidecarTraffic(named, PollTimes(pause=0.05, answer=0.5))
        async with source.running():
            view = await seen(source, lambda view: len(view.reports) == 1)
    assert [each.problem for each in view.silent] == ["does not answer within 0.5 s"]


async def test_certificates_are_checked_against_the_name(tmp_path: Path, names: dict[str, list[str]]) -> None:
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    made = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 1 -subj /CN=sidecars"
    named = ["-addext", "subjectAltName=DNS:sidecars.test", "-keyout", str(key), "-out", str(cert)]
    subprocess.run(["openssl", *made.split(), *named], check=True, capture_output=True)  # noqa: S607
    names["sidecars.test"] = names["others.test"] = ["127.0.0.1"]
    app = FastAPI()
    app.get("/metrics")(lambda: Response(LOGGED + b"5\n"))
    listener = socket.create_server(("127.0.0.1", 0))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    server = ControlServer(app, listener, context)
    port = listener.getsockname()[1]
    trusting = ssl.create_default_context(cafile=str(cert))
    try:
        for host, tls, answers in (
            ("sidecars.test", trusting, True),
            ("others.test", trusting, False),
            ("sidecars.test", None, False),
        ):
            source = SidecarTraffic([parse_sidecar(f"https://{host}:{port}")], TIMES, tls)
            async with source.running():
                view = await seen(source, lambda view: view.silent == () or "asked yet" not in view.silent[0].problem)
            assert bool(view.reports) is answers, view
            if not answers:
                assert "certificate" in view.silent[0].problem
    finally:
        server.stop()


@pytest.mark.parametrize(
    "url", ["", "host:8081", "ftp://host", "http://", "http://user:secret@host", "http://host?x", "http://host:port"]
)
def test_urls_that_are_none(url: str) -> None:
    with pytest.raises(ConfigurationError, match="a sidecar's control URL must look like http://host:port, got"):
        parse_sidecar(url)


@given(st.text(alphabet=st.sampled_from('abz_{}="\\\n ,#01.+-eNaInfTYPEHLP counter'), max_size=60))
def test_whatever_comes_is_read_or_explained(text: str) -> None:
    read: list[SidecarReport] = []
    for answer in (text, LOGGED.decode() + "1\n" + text):
        with suppress(UnusableAnswer):
            read.append(read_metrics(answer, "http://a"))
    assert all(report.name == "http://a" for report in read)
