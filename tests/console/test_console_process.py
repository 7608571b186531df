"""``fieldrepair console`` beside real sidecars that have no pages: what a person sees and a script gets."""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from html import unescape
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from fieldrepair_service import console_process
from fieldrepair_service.case_book import Case, open_case_book
from fieldrepair_service.cli import main
from fieldrepair_service.console.security import Security
from fieldrepair_service.console.sidecar_traffic import PollTimes, SidecarTraffic
from fieldrepair_service.console_app import create_console_app
from fieldrepair_service.console_settings import ConsoleSettings
from fieldrepair_service.roles import Role
from fieldrepair_service.stores import Stores
from tests.console.conftest import TOKENS, ConsoleProcess, eventually
from tests.faults.conftest import SidecarProcess
from tests.service.conftest import make_event, make_window, open_case, plan, serve
from tests.service.test_mirror import ANSWER, REQUEST, Mirror

__all__ = ["make_event", "make_window", "open_case", "plan", "serve"]

StartSidecar = Callable[..., SidecarProcess]
StartConsole = Callable[..., ConsoleProcess]


def facts(page: str) -> dict[str, str]:
    """What the overview's traffic section says: term -> its words."""
    found = re.findall(r"<dt>(.*?)</dt><dd>(.*?)</dd>", page, re.DOTALL)
    return {term: unescape(" ".join(re.sub(r"<[^>]+>", " ", words).split())) for term, words in found}


def words_of(page: str) -> str:
    """The page's text."""
    return unescape(" ".join(re.sub(r"<[^>]+>", " ", page).split()))


def metric(url: str, name: str, **labels: str) -> float:
    """A sample of ``/metrics``."""
    families = text_string_to_metric_families(httpx.get(f"{url}/metrics", timeout=30).text)
    samples = [sample for family in families for sample in family.samples]
    return next(sample.value for sample in samples if sample.name == name and sample.labels == labels)


def test_the_overview_adds_up_what_sidecars_do(sidecar: StartSidecar, console: StartConsole, tmp_path: Path) -> None:
    first = sidecar(tmp_path / "first", console="off")
    second = sidecar(tmp_path / "second", console="off")
    running = console(f"--sidecars={first.control_url},{second.control_url}")
    for _ in range(3):
        assert first.ask([[0.0, 1.0], [2.0, 3.0]]).status_code == 200
    eventually(lambda: facts(running.overview()).get("Rows logged", "").startswith("6 "))
    page = running.overview()
    assert "2 of 2 sidecars answer." in page
    assert facts(page)["Sent to"] == "fashion 1 by 2 sidecars"
    assert facts(page)["Requests"] == "3 0 answered with an error"
    assert "version 1 is served" in page

    # The second adds up.
    assert second.ask([[4.0, 5.0]]).status_code == 200
    eventually(lambda: facts(running.overview()).get("Rows logged", "").startswith("7 "))

    # A rollout: each serves a version.
    spec = {"url": "http://127.0.0.1:9", "model_name": "fashion", "model_version": "2"}
    assert httpx.put(f"{second.control_url}/upstream", json=spec, timeout=30).status_code == 200
    eventually(lambda: "versions 1 and 2 are served" in running.overview())
    assert running.overview().count("<dt>Sent to</dt>") == 2

    # One stops: it is missed, by name, and nobody gets an error.
    assert second.stop() == 0
    eventually(lambda: "1 of 2 sidecars answer." in running.overview())
    page = running.overview()
    assert second.control_url in page
    assert "The numbers are those of the sidecars that answer." in page
    assert facts(page)["Sent to"] == "fashion 1 by 1 sidecar"
    url = str(running.client.base_url).rstrip("/")
    assert metric(url, "fieldrepair_console_sidecars", state="answers") == 1
    assert metric(url, "fieldrepair_console_sidecars", state="silent") == 1

    # Both stop.
    assert first.stop() == 0
    eventually(lambda: "0 of 2 sidecars answer." in running.overview())
    assert "Rows logged" not in facts(running.overview())
    assert running.stop() == 0
    assert "stopped" in running.log_file.read_text()


def test_pages_and_api_are_at_the_console_and_not_at_the_sidecar(
    sidecar: StartSidecar,
    console: StartConsole,
    tmp_path: Path,
    open_case: Callable[..., Case],
    plan: Callable[..., Case],
) -> None:
    bare = sidecar(console="off")
    for path in ("/", "/audit", "/api/cases", "/login"):
        answer = httpx.get(f"{bare.control_url}{path}", timeout=30)
        assert answer.status_code == 404
        assert "`fieldrepair console` serves both" in answer.json()["detail"]
    page = httpx.get(f"{bare.control_url}/", headers={"accept": "text/html"}, timeout=30)
    assert page.status_code == 404
    assert "there is no console and no case API on this control port" in words_of(page.text)
    assert not (tmp_path / "case_book.db").exists(), "a sidecar without pages opens no case book"

    running = console(f"--sidecars={bare.control_url}")
    with open_case_book(f"sqlite:///{tmp_path / 'case_book.db'}") as book:
        case = plan(book, open_case(book).id)
    assert running.client.get("/api/cases").status_code == 401
    assert running.get("/api/cases").json()[0]["id"] == case.id
    dismiss = f"/api/cases/{case.id}/dismiss"
    for role, status in ((Role.VIEWER, 403), (Role.LABELLER, 403), (Role.APPROVER, 200)):
        bearer = {"authorization": f"Bearer {TOKENS[role]}"}
        answer = running.client.post(dismiss, json={"reason": "seen enough"}, headers=bearer)
        assert answer.status_code == status, answer.text

    # Signing in, as people do.
    form = {"name": "Ann", "token": TOKENS[Role.APPROVER]}
    signed_in = running.client.post("/login", data=form, headers={"accept": "text/html"})
    assert (signed_in.status_code, signed_in.headers["location"]) == (303, "/")
    page = running.client.get(f"/cases/{case.id}", headers={"accept": "text/html"})
    assert page.status_code == 200
    assert "Ann" in page.text
    # Nobody waits for MLflow's events here.
    assert running.client.post("/mlflow/webhook", json={}).status_code == 404


def test_a_mirror_is_shown_as_one(console: StartConsole, tmp_path: Path) -> None:
    mirror = Mirror(tmp_path / "mirror", "--console=off", f"--field-log={tmp_path / 'field_log'}")
    try:
        assert mirror.control.get("/").status_code == 404
        running = console(f"--sidecars={mirror.control.base_url}")
        mirror.send("request", 1, REQUEST)
        mirror.send("response", 1, ANSWER)
        eventually(lambda: facts(running.overview()).get("Rows logged", "").startswith("2 "))
        assert facts(running.overview())["Comes from"] == "Copies of KServe's inference logger"
        assert facts(running.overview())["Requests"].startswith("1 ")
        assert "No model server is named" not in running.overview()
    finally:
        mirror.stop()


def test_without_sidecars_the_overview_says_so(console: StartConsole) -> None:
    running = console()
    assert "No sidecar is named, so nothing is known of the traffic." in running.overview()
    assert running.get("/readyz").json() == {"status": "ready"}


def test_the_overview_does_not_wait_for_a_sidecar_that_hangs(sidecar: StartSidecar, console: StartConsole) -> None:
    well = sidecar(console="off")
    with socket.create_server(("127.0.0.1", 0)) as hanging:
        taken: list[socket.socket] = []
        threading.Thread(target=lambda: taken.append(hanging.accept()[0]), daemon=True).start()
        address = f"http://127.0.0.1:{hanging.getsockname()[1]}"
        running = console(f"--sidecars={well.control_url},{address}", "--sidecars-answer-seconds=0.5")
        eventually(lambda: "1 of 2 sidecars answer." in running.overview())
        assert f"{address} : does not answer" in words_of(running.overview())
        for one in taken:
            one.close()


def test_not_ready_until_the_stores_are_open(tmp_path: Path, serve: Callable[[FastAPI], httpx.Client]) -> None:
    """Without its lifespan nothing opens them, so that the moment before can be looked at."""
    stores = Stores(f"sqlite:///{tmp_path / 'book.db'}", str(tmp_path / "log"))
    client = serve(
        create_console_app(
            security=Security(TOKENS),
            stores=stores,
            traffic=SidecarTraffic([], PollTimes()),
            registry=CollectorRegistry(),
        )
    )
    answer = client.get("/readyz")
    assert answer.status_code == 503
    assert "the case book and the field log are not open yet" in answer.json()["detail"]
    assert client.get("/healthz").status_code == 200


@pytest.mark.parametrize(
    ("given", "read"),
    [
        ("http://a:1", ("http://a:1",)),
        ("http://a:1, https://b/x/,", ("http://a:1", "https://b/x")),
        ('["http://a:1", "http://b:2"]', ("http://a:1", "http://b:2")),
        ("http://a:1,http://a:1/", ("http://a:1",)),
        ("", ()),
    ],
)
def test_sidecars_in_a_variable(given: str, read: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FIELDREPAIR_SIDECARS", given)
    assert ConsoleSettings().sidecars == read


@pytest.mark.parametrize(
    ("option", "told"),
    [
        ("--sidecars=host:1", "--sidecars: Value error, expected control URLs like http://host:port; 'host:1' is none"),
        ("--sidecars=[http://a", "--sidecars: Value error, expected control URLs separated by commas, or a JSON list"),
        ("--sidecars-poll-seconds=0", "--sidecars-poll-seconds: Input should be greater than 0, got '0'"),
        ("--control-host=0.0.0.0 --control-auth=off", "control_auth=off needs a loopback control_host, got 0.0.0.0"),
    ],
)
def test_wrong_settings_are_explained(option: str, told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["console", *option.split()]) == 2
    assert told in capsys.readouterr().err


def test_a_port_that_is_taken_is_explained(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["console", f"--state-dir={tmp_path}", f"--control-port={port}"]) == 1
    assert f"cannot listen on 127.0.0.1:{port}" in capsys.readouterr().err


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # uvicorn ends its thread so
def test_a_server_that_cannot_go_on_ends_the_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    @asynccontextmanager
    async def broken(_: FastAPI) -> AsyncGenerator[None]:
        raise OSError("no threads are left")
        yield

    def unfit(**_: object) -> FastAPI:
        return FastAPI(lifespan=broken)

    monkeypatch.setattr(console_process, "create_console_app", unfit)
    assert main(["console", f"--state-dir={tmp_path}", "--control-port=0"]) == 1
    assert "the console's server has ended by itself" in capsys.readouterr().err
