"""``fieldrepair migrate`` and ``fieldrepair ping``, as a Job and a health check run them."""

from __future__ import annotations

import socket
from collections.abc import Callable

import httpx
import pytest
from fastapi import FastAPI, Response

from fieldrepair_service.case_book import open_case_book
from fieldrepair_service.cli import main
from fieldrepair_service.errors import SchemaMismatch


def test_migrate_makes_the_book_ready_for_those_that_may_not(
    case_book_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SchemaMismatch):
        open_case_book(case_book_url, migrate=False)
    for _ in range(2):  # the second finds the work done
        assert main(["migrate", "--case-book", case_book_url]) == 0
        assert "is up to date" in capsys.readouterr().out
    open_case_book(case_book_url, migrate=False).close()


def test_migrate_waits_for_a_database_and_then_says_what_it_waited_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    monkeypatch.setenv("FIELDREPAIR_CASE_BOOK", f"postgresql://book:very-secret@127.0.0.1:{port}/book")
    assert main(["migrate", "--wait-seconds", "1.5"]) == 1
    error = capsys.readouterr().err
    assert "trying again for" in error
    assert "fieldrepair migrate: the case book's database does not answer" in error
    assert "very-secret" not in error


def test_ping_is_content_with_200_alone(
    serve: Callable[[FastAPI], httpx.Client], capsys: pytest.CaptureFixture[str]
) -> None:
    app = FastAPI()
    states = iter([503, 200])

    @app.get("/well")
    def well() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/coming")
    def coming() -> Response:
        return Response("not yet", status_code=next(states))

    base = str(serve(app).base_url)
    assert main(["ping", f"{base}/well"]) == 0
    assert "is well" in capsys.readouterr().out
    assert main(["ping", f"{base}/well", f"{base}/coming"]) == 1
    assert f"{base}/coming answered 503, expected 200: not yet" in capsys.readouterr().err
    assert main(["ping", "--ping-attempts", "3", f"{base}/coming"]) == 0


def test_ping_names_whom_it_cannot_reach(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    assert main(["ping", f"http://127.0.0.1:{port}/healthz"]) == 1
    assert f"http://127.0.0.1:{port}/healthz does not answer" in capsys.readouterr().err
    assert main(["ping", "healthz"]) == 2
