"""Who gets into the control port and what each may do there, over a real socket."""

from __future__ import annotations

import asyncio
import re
import socket
import threading
import time
from collections.abc import Callable, Generator
from pathlib import Path

import httpx
import pytest
from prometheus_client import CollectorRegistry

from fieldrepair_service.case_book import Case, CaseState, open_case_book
from fieldrepair_service.console.attempts import Attempts
from fieldrepair_service.console.headers import POLICY
from fieldrepair_service.console.security import CSRF, Security
from fieldrepair_service.console.sign_in import local_path
from fieldrepair_service.control import create_control_app
from fieldrepair_service.control_server import ControlServer
from fieldrepair_service.errors import ConfigurationError
from fieldrepair_service.field_log import FieldLog
from fieldrepair_service.roles import Role
from fieldrepair_service.sidecar_settings import SidecarSettings
from fieldrepair_service.upstream import UpstreamLimits, Upstreams

TOKENS = {role: f"a-token-for-the-{role}" for role in Role}
PAGE = {"accept": "text/html"}
Start = Callable[..., httpx.Client]


@pytest.fixture
def start(tmp_path: Path) -> Generator[Start]:
    """Starts a control port with stores; gives a client that follows no redirect."""
    FieldLog.open(str(tmp_path / "log"))
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    upstreams = Upstreams(UpstreamLimits())
    started: list[tuple[ControlServer, httpx.Client]] = []

    def make(security: Security | None = None) -> httpx.Client:
        app = create_control_app(
            upstreams=upstreams,
            traffic_loop=loop,
            registry=CollectorRegistry(),
            not_ready=lambda: None,
            security=security or Security(TOKENS),
            case_book_url=f"sqlite:///{tmp_path / 'book.db'}",
            field_log_uri=str(tmp_path / "log"),
        )
        listener = socket.create_server(("127.0.0.1", 0))
        server = ControlServer(app, listener)
        client = httpx.Client(base_url=f"http://127.0.0.1:{listener.getsockname()[1]}", timeout=30)
        started.append((server, client))
        end = time.monotonic() + 60
        headers = {"authorization": f"Bearer {TOKENS[Role.APPROVER]}"}
        while client.get("/api/cases", headers=headers).status_code == 503:
            assert time.monotonic() < end, "the stores did not open within a minute"
            time.sleep(0.02)
        return client

    yield make
    for server, client in started:
        client.close()
        server.stop()
    asyncio.run_coroutine_threadsafe(upstreams.close(), loop).result(30)
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


@pytest.fixture
def case(tmp_path: Path, open_case: Callable[..., Case], plan: Callable[..., Case]) -> Case:
    """A planned case in the book that ``start`` serves."""
    with open_case_book(f"sqlite:///{tmp_path / 'book.db'}") as book:
        return plan(book, open_case(book).id)


def sign_in(client: httpx.Client, role: Role | None = Role.APPROVER, name: str = "Ann", **more: str) -> httpx.Response:
    token = "nobody's token" if role is None else TOKENS[role]
    return client.post("/login", data={"name": name, "token": token, **more}, headers=PAGE)


def csrf_of(client: httpx.Client) -> str:
    found = re.search(rf'name="{CSRF}" value="([0-9a-f]+)"', client.get("/cases", headers=PAGE).text)
    assert found is not None
    return found[1]


def bearer(role: Role) -> dict[str, str]:
    return {"authorization": f"Bearer {TOKENS[role]}"}


def test_a_token_becomes_a_session_that_scripts_cannot_read(start: Start) -> None:
    client = start()
    answer = sign_in(client, Role.VIEWER)
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie
    assert "Secure" not in cookie  # over http a browser would throw it away
    assert TOKENS[Role.VIEWER] not in cookie
    page = client.get("/", headers=PAGE)
    assert page.status_code == 200
    assert "Ann" in page.text


def test_strangers_are_sent_to_the_sign_in_and_back(start: Start) -> None:
    client = start()
    answer = client.get("/cases?state=training", headers=PAGE)
    assert (answer.status_code, answer.headers["location"]) == (303, "/login?next=%2Fcases%3Fstate%3Dtraining")
    assert sign_in(client, next="/cases?state=training").headers["location"] == "/cases?state=training"
    assert client.get("/api/cases").status_code == 200  # the session opens the API as well


@pytest.mark.parametrize(
    ("target", "goes_to"),
    [
        ("/cases/3", "/cases/3"),
        ("https://elsewhere.example/", "/"),
        ("//elsewhere.example/", "/"),
        ("/\\elsewhere.example", "/"),
        ("/cases\r\nset-cookie: a=b", "/"),
        ("/logout", "/"),
        ("cases", "/"),
        ("", "/"),
    ],
)
def test_a_sign_in_leads_nowhere_else(target: str, goes_to: str) -> None:
    assert local_path(target) == goes_to


def test_a_wrong_token_is_refused_and_guessing_is_slowed_down(start: Start) -> None:
    client = start(Security(TOKENS, attempts=Attempts(each=2)))
    for _ in range(2):
        answer = sign_in(client, None)
        assert answer.status_code == 403
        assert "set-cookie" not in answer.headers
        assert "This token is not known" in answer.text
    answer = sign_in(client)  # also with the right one: a guesser must not learn it
    assert answer.status_code == 429
    assert 0 < int(answer.headers["retry-after"]) <= 60
    assert client.get("/api/cases", headers=bearer(Role.VIEWER)).status_code == 200  # scripts are not held up


def test_attempts_are_counted_by_client_and_together_for_a_minute() -> None:
    now = 1000.0
    attempts = Attempts(each=2, together=3, clock=lambda: now)
    attempts.failed("a")
    assert attempts.wait_seconds("a") == 0
    now += 20
    attempts.failed("a")
    assert attempts.wait_seconds("a") == 40
    assert attempts.wait_seconds("b") == 0
    attempts.failed("b")
    assert attempts.wait_seconds("c") == 40
    now += 41
    assert attempts.wait_seconds("a") == attempts.wait_seconds("c") == 0


@pytest.mark.parametrize("name", ["", "   ", "a\nb", "x" * 101, "zero\u200bwidth"])
def test_a_name_is_needed_for_the_audit_trail(start: Start, name: str) -> None:
    answer = sign_in(start(), name=name)
    assert answer.status_code == 422
    assert "goes into the audit trail" in answer.text


def test_what_changes_something_needs_the_sessions_csrf_token(start: Start, case: Case) -> None:
    client = start()
    sign_in(client)
    path, body = f"/api/cases/{case.id}/dismiss", {"reason": "test", "actor": "Somebody Else"}
    for headers in ({}, {CSRF: "wrong"}, {CSRF: ""}):
        answer = client.post(path, json=body, headers=headers)
        assert answer.status_code == 403
        assert CSRF in answer.json()["detail"]
    form = client.post(f"/cases/{case.id}/dismiss", data={"reason": "x", "place": "annotating/1/"}, headers=PAGE)
    assert form.status_code == 403
    assert client.get(f"/api/cases/{case.id}").json()["state"] == "annotating"
    assert client.post(path, json=body, headers={CSRF: csrf_of(client)}).status_code == 200


def test_signing_out_ends_the_session_also_for_a_copied_cookie(start: Start) -> None:
    client = start()
    sign_in(client)
    copied = dict(client.cookies)
    answer = client.post("/logout", data={CSRF: csrf_of(client)}, headers=PAGE)
    assert (answer.status_code, answer.headers["location"]) == (303, "/login")
    client.cookies.update(copied)
    assert client.get("/api/cases").status_code == 401


def test_a_session_expires_and_a_forged_one_is_refused(start: Start) -> None:
    expired = start(Security(TOKENS, session_seconds=-1))
    sign_in(expired)
    assert expired.get("/api/cases").status_code == 401
    security = Security(TOKENS)
    client = start(security)
    for forged in ("", "a.b.c", Security({Role.APPROVER: "x" * 20}).sessions.begin("Eve", Role.APPROVER)):
        client.cookies.set(security.sessions.cookie_name, forged)
        assert client.get("/api/cases").status_code == 401


def test_a_session_outlives_a_restart_but_not_a_new_token() -> None:
    cookie = Security(TOKENS).sessions.begin("Ann", Role.LABELLER)
    again = Security(TOKENS).sessions.read(cookie)
    assert again is not None
    assert (again.name, again.role) == ("Ann", Role.LABELLER)
    assert Security({**TOKENS, Role.VIEWER: "another token here"}).sessions.read(cookie) is None


def test_each_role_may_do_its_own_things(start: Start, case: Case, tmp_path: Path) -> None:
    client = start()
    with open_case_book(f"sqlite:///{tmp_path / 'book.db'}") as book:
        task = book.tasks(case.id)[0].id
    label = {"label": 0, "labeller": "Bo"}
    dismiss = {"reason": "test"}
    upstream = {"url": "http://127.0.0.1:1", "model_name": "m", "model_version": "1"}
    for role, may_label in ((Role.VIEWER, False), (Role.LABELLER, True)):
        assert client.get(f"/api/cases/{case.id}", headers=bearer(role)).status_code == 200
        labelled = client.post(f"/api/tasks/{task}/label", json=label, headers=bearer(role))
        assert labelled.status_code == (200 if may_label else 403)
        for answer in (
            client.post(f"/api/cases/{case.id}/dismiss", json=dismiss, headers=bearer(role)),
            client.put("/upstream", json=upstream, headers=bearer(role)),
        ):
            assert answer.status_code == 403
            assert f"this needs the role approver, and {role} token has the role {role}" in answer.json()["detail"]
    assert client.post(f"/api/cases/{case.id}/dismiss", json=dismiss, headers=bearer(Role.APPROVER)).status_code == 200


def test_roles_need_tokens_of_their_own() -> None:
    with pytest.raises(ConfigurationError, match="the tokens of viewer, approver must differ"):
        Security({Role.VIEWER: "the same token here", Role.APPROVER: "the same token here"})


def test_tokens_of_roles_are_given_or_made_once(tmp_path: Path) -> None:
    settings = SidecarSettings(state_dir=tmp_path, labeller_token="given-by-somebody")  # pyright: ignore[reportArgumentType]
    tokens = settings.resolve_tokens()
    assert tokens is not None
    assert tokens[Role.LABELLER] == "given-by-somebody"
    assert tokens == settings.resolve_tokens()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["control-token", "viewer-token"]
    assert SidecarSettings(state_dir=tmp_path, control_auth="off").resolve_tokens() is None


def test_without_tokens_a_page_asks_for_a_name_and_other_sites_stay_out(start: Start, case: Case) -> None:
    client = start(Security(None))
    assert client.get("/", headers=PAGE).status_code == 303
    assert 'name="token"' not in client.get("/login", headers=PAGE).text
    assert client.post("/login", data={"name": "Ann"}, headers=PAGE).status_code == 303
    client.cookies.clear()
    path = f"/api/cases/{case.id}/dismiss"
    for headers in (
        {"origin": "https://elsewhere.example"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {"host": "rebound.example"},
    ):
        assert client.post(path, json={"reason": "test"}, headers=headers).status_code == 403
    assert client.get("/api/cases", headers={"host": "rebound.example"}).status_code == 403
    assert client.post(path, json={"reason": "test"}).status_code == 200


def test_another_site_cannot_sign_anybody_in(start: Start) -> None:
    client = start()
    data = {"name": "Eve", "token": TOKENS[Role.APPROVER]}
    assert client.post("/login", data=data, headers={"sec-fetch-site": "cross-site"}).status_code == 403


@pytest.mark.parametrize(
    "path", ["/login", "/", "/nothing", "/healthz", "/metrics", "/api/cases", "/static/console.css"]
)
def test_every_answer_carries_the_strict_headers(start: Start, path: str) -> None:
    answer = start().get(path)
    assert answer.headers["content-security-policy"] == POLICY
    assert "unsafe" not in POLICY
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["x-frame-options"] == "DENY"
    assert answer.headers["cache-control"] == ("no-cache" if path.startswith("/static/") else "no-store")


def test_static_files_are_cached_for_good_under_their_version(start: Start) -> None:
    client = start()
    addresses = re.findall(r'"(/static/[^"]+)"', client.get("/login", headers=PAGE).text)
    assert addresses
    for address in addresses:
        answer = client.get(address)
        assert answer.headers["cache-control"] == "public, max-age=31536000, immutable"
        assert client.get(address, headers={"if-none-match": answer.headers["etag"]}).status_code == 304
    assert client.get("/static/..%2f__init__.py").status_code == 404


def test_a_decision_on_a_page_that_is_out_of_date_is_refused(start: Start, case: Case, tmp_path: Path) -> None:
    client = start()
    sign_in(client)
    token = csrf_of(client)
    with open_case_book(f"sqlite:///{tmp_path / 'book.db'}") as book:
        book.transition(case.id, CaseState.TRAINING)
        form = {CSRF: token, "place": "annotating/1/", "reason": "seen while it was annotating"}
        answer = client.post(f"/cases/{case.id}/dismiss", data=form, headers=PAGE)
        assert answer.status_code == 409
        assert "has moved on since this page was loaded" in answer.text
        assert client.post(f"/cases/{case.id}/promote", data=form, headers=PAGE).status_code == 409
        assert book.case(case.id).state is CaseState.TRAINING
        form["place"] = "training/1/"
        assert client.post(f"/cases/{case.id}/dismiss", data={**form, "reason": " "}, headers=PAGE).status_code == 422
        assert client.post(f"/cases/{case.id}/dismiss", data=form, headers=PAGE).status_code == 303
        assert book.history(case.id)[-1].actor == "Ann"
        entry = book.audit_trail(1)[0]
        assert (entry.actor, entry.role, entry.action, entry.target) == (
            "Ann",
            "approver",
            "dismiss",
            f"case {case.id}",
        )
