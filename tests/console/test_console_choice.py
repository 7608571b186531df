"""Where pages and case API are served, where they are left out, and what whoever looks for them is told."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
from collections.abc import Callable, Generator
from importlib.abc import MetaPathFinder
from pathlib import Path

import httpx
import pytest
from prometheus_client import CollectorRegistry

from fieldrepair_service.cli import main
from fieldrepair_service.console.security import Security
from fieldrepair_service.console_choice import missing_packages, why_left_out
from fieldrepair_service.control import create_control_app
from fieldrepair_service.control_server import ControlServer
from fieldrepair_service.errors import ConfigurationError
from fieldrepair_service.upstream import UpstreamLimits, Upstreams
from tests.console.conftest import TOKENS

REASON = "there is no console and no case API on this control port (console=off); `fieldrepair console` serves both"
PAGE = {"accept": "text/html"}
PATHS = ("/", "/cases", "/cases/1", "/label/1", "/audit", "/login", "/api/cases", "/api/openapi.json")


class _Without(MetaPathFinder):
    """As in an environment that lacks a package."""

    def __init__(self, *modules: str) -> None:
        self._modules = modules

    def find_spec(self, fullname: str, path: object, target: object = None) -> None:
        if fullname in self._modules:
            raise ModuleNotFoundError(f"No module named {fullname!r}", name=fullname)


@pytest.fixture
def without(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Takes modules away."""

    def take(*modules: str) -> None:
        for name in modules:
            monkeypatch.delitem(sys.modules, name, raising=False)
        monkeypatch.setattr(sys, "meta_path", [_Without(*modules), *sys.meta_path])

    return take


def test_auto_serves_them_where_the_packages_are() -> None:
    assert missing_packages() == []
    assert why_left_out("auto") is None
    assert why_left_out("on") is None
    assert why_left_out("off") == REASON


def test_auto_leaves_them_out_and_says_so_once(without: Callable[..., None], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    without("PIL", "sqlalchemy")
    reason = why_left_out("auto")
    assert reason is not None
    assert (
        "not installed here (sqlalchemy, pillow); install fieldrepair[service], or run `fieldrepair console`" in reason
    )
    assert caplog.messages == [reason]


def test_on_must_be(without: Callable[..., None]) -> None:
    without("pyarrow")
    told = r"console=on needs packages that are not installed here: pyarrow; .* pip install 'fieldrepair\[service\]'"
    with pytest.raises(ConfigurationError, match=told):
        why_left_out("on")


@pytest.fixture
def left_out() -> Generator[httpx.Client]:
    """A sidecar's control port without pages, with tokens."""
    loop = asyncio.new_event_loop()
    app = create_control_app(
        upstreams=Upstreams(UpstreamLimits()),
        traffic_loop=loop,
        registry=CollectorRegistry(),
        not_ready=lambda: None,
        security=Security(TOKENS),
        case_book_url="sqlite:////nowhere/book.db",
        field_log_uri="/nowhere/log",
        left_out=REASON,
    )
    listener = socket.create_server(("127.0.0.1", 0))
    server = ControlServer(app, listener)
    with httpx.Client(base_url=f"http://127.0.0.1:{listener.getsockname()[1]}", timeout=30) as client:
        yield client
    server.stop()
    loop.close()


@pytest.mark.parametrize("path", PATHS)
def test_scripts_are_told_where_to_look(left_out: httpx.Client, path: str) -> None:
    for method in ("GET", "POST", "PUT"):
        answer = left_out.request(method, path)
        assert answer.status_code == 404
        assert answer.json() == {"error": "NotFound", "detail": REASON}


@pytest.mark.parametrize("path", [path for path in PATHS if not path.startswith("/api")])
def test_people_get_a_page_that_leads_nowhere_else(left_out: httpx.Client, path: str) -> None:
    answer = left_out.get(path, headers=PAGE)
    assert answer.status_code == 404
    assert answer.headers["content-type"].startswith("text/html")
    assert "no console and no case API on this control port" in answer.text
    assert "Go to the overview" not in answer.text
    style = answer.text.partition('stylesheet" href="')[2].partition('"')[0]
    assert left_out.get(style).status_code == 200
    assert "content-security-policy" in answer.headers


def test_the_rest_is_there_and_guarded(left_out: httpx.Client) -> None:
    assert left_out.get("/healthz").status_code == 200
    assert left_out.get("/metrics").status_code == 200
    assert left_out.get("/upstream").status_code == 401
    # There is nowhere to sign in, so a browser is not sent there.
    page = left_out.get("/upstream", headers=PAGE, follow_redirects=False)
    assert page.status_code == 401
    assert "bearer token" in page.text


BLOCKED = ("sqlalchemy", "alembic", "psycopg", "PIL", "pyarrow")


def _without(*modules: str) -> str:
    """The beginning of a program in an environment that lacks these modules."""
    return f"""
import sys
class Without:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {modules!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Without())
"""


_CONTROL = """
import asyncio, socket, httpx
from prometheus_client import CollectorRegistry
from fieldrepair_service import sidecar, sidecar_settings
from fieldrepair_service.console.security import Security
from fieldrepair_service.console_choice import why_left_out
from fieldrepair_service.control import create_control_app
from fieldrepair_service.control_server import ControlServer
from fieldrepair_service.deploy_commands import PingCommand
from fieldrepair_service.mirror import settings
from fieldrepair_service.upstream import UpstreamLimits, Upstreams

app = create_control_app(
    upstreams=Upstreams(UpstreamLimits()), traffic_loop=asyncio.new_event_loop(), registry=CollectorRegistry(),
    not_ready=lambda: None, security=Security(None), case_book_url="x", field_log_uri="x",
    left_out=why_left_out("auto"),
)
listener = socket.create_server(("127.0.0.1", 0))
server = ControlServer(app, listener)
PingCommand(_cli_parse_args=[f"http://127.0.0.1:{listener.getsockname()[1]}/healthz"]).cli_cmd()
answer = httpx.get(f"http://127.0.0.1:{listener.getsockname()[1]}/", timeout=30)
assert answer.status_code == 404, answer.text
assert "pyarrow" in answer.json()["detail"], answer.text
server.stop()
"""


@pytest.mark.parametrize(
    "program",
    [
        _CONTROL,
        "import fieldrepair_service.commands, fieldrepair_service.deploy_commands",
        "import fieldrepair_service.mirror.mirror",
    ],
    ids=["control app", "commands", "mirror"],
)
def test_without_the_packages_nothing_of_them_is_imported(program: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _without(*BLOCKED) + program], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr


def test_the_console_says_which_extra_it_needs(tmp_path: Path) -> None:
    program = f"{_without(*BLOCKED)}\nfrom fieldrepair_service.cli import main\nraise SystemExit(main(sys.argv[1:]))"
    arguments = [sys.executable, "-c", program, "console", f"--state-dir={tmp_path}", "--control-port=0"]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert "fieldrepair console needs packages that are not installed here: sqlalchemy, alembic, pyarrow, pillow" in (
        done.stderr
    )
    assert "fieldrepair[service]" in done.stderr


@pytest.mark.parametrize("command", ["sidecar", "mirror"])
def test_a_choice_that_is_none_is_refused(command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, f"--state-dir={tmp_path}", "--console=maybe"]) == 2
    assert "--console: Input should be 'auto', 'on' or 'off', got 'maybe'" in capsys.readouterr().err
