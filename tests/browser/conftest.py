"""A control port with real stores, and Debian's chromium looking at it."""

from __future__ import annotations

import asyncio
import itertools
import os
import shutil
import socket
import threading
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright
from prometheus_client import CollectorRegistry

from fieldrepair_service.case_book import Case, CaseBook, NewDriftEvent, NewTask, WindowRecord, open_case_book
from fieldrepair_service.console.security import Security
from fieldrepair_service.control import create_control_app
from fieldrepair_service.control_server import ControlServer
from fieldrepair_service.field_log import FIELD_LOG_SCHEMA, FieldLog
from fieldrepair_service.inputs import ImageInput
from fieldrepair_service.roles import Role
from fieldrepair_service.upstream import UpstreamLimits, Upstreams

TOKENS = {role: f"the-{role}s-secret-token" for role in Role}
_SPEC = ImageInput(height=28, width=28)


@pytest.fixture(scope="module")
def chromium() -> Generator[Browser]:
    """Debian's chromium, without a window.

    One per file and no longer: while it is open, Playwright's event loop counts as running in this thread, and every
    asynchronous test that came after in the same process would fail.
    """
    program = os.environ.get("FIELDREPAIR_CHROMIUM") or shutil.which("chromium")
    if program is None:
        pytest.skip("needs Debian's chromium; install the package chromium, or name one in FIELDREPAIR_CHROMIUM")
    with sync_playwright() as playwright:
        # Without a sandbox: tests often run as root, and only our own pages are opened.
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield browser
        browser.close()


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


@dataclass
class ConsoleServer:
    """A control port that can be stopped and started again at the same address, and its stores."""

    book: CaseBook
    log: FieldLog
    upstreams: Upstreams
    traffic_loop: asyncio.AbstractEventLoop
    case_book_url: str
    field_log_uri: str
    security: Security
    port: int = 0
    server: ControlServer | None = None

    @property
    def url(self) -> str:
        """Where it answers."""
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Serve, and wait until the stores are open."""
        listener = socket.create_server(("127.0.0.1", self.port))
        self.port = int(listener.getsockname()[1])
        app = create_control_app(
            upstreams=self.upstreams,
            traffic_loop=self.traffic_loop,
            registry=CollectorRegistry(),
            not_ready=lambda: None,
            security=self.security,
            case_book_url=self.case_book_url,
            field_log_uri=self.field_log_uri,
        )
        self.server = ControlServer(app, listener)
        headers = {"authorization": f"Bearer {TOKENS[Role.APPROVER]}"}
        end = time.monotonic() + 60
        while httpx.get(f"{self.url}/api/streams", headers=headers, timeout=30).status_code != 200:
            assert time.monotonic() < end, "the stores did not open within a minute"
            time.sleep(0.05)

    def stop(self) -> None:
        """Stop serving; the stores stay."""
        if self.server is not None:
            self.server.stop()
            self.server = None


@pytest.fixture
def console(tmp_path: Path, traffic_loop: asyncio.AbstractEventLoop) -> Generator[ConsoleServer]:
    """A control port on an empty case book and an empty field log."""
    case_book_url, field_log_uri = f"sqlite:///{tmp_path / 'case_book.db'}", str(tmp_path / "field_log")
    upstreams = Upstreams(UpstreamLimits())
    with open_case_book(case_book_url) as book:
        server = ConsoleServer(
            book,
            FieldLog.open(field_log_uri),
            upstreams,
            traffic_loop,
            case_book_url,
            field_log_uri,
            Security(TOKENS),
        )
        server.start()
        yield server
        server.stop()
    asyncio.run_coroutine_threadsafe(upstreams.close(), traffic_loop).result(30)


SignIn = Callable[..., Page]


@pytest.fixture
def sign_in(chromium: Browser, console: ConsoleServer) -> Generator[SignIn]:
    """Signs somebody in, in a browser of their own; gives a page. Fails the test if a page's script failed."""
    contexts: list[BrowserContext] = []
    problems: list[str] = []

    def make(name: str = "Ann", role: Role = Role.APPROVER, **options: object) -> Page:
        context = chromium.new_context(base_url=console.url, **options)  # pyright: ignore[reportArgumentType]
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on(
            "console",
            lambda message: problems.append(message.text) if "Content Security Policy" in message.text else None,
        )
        page.goto("/login")
        page.get_by_label("Your name").fill(name)
        page.get_by_label("Token").fill(TOKENS[role])
        page.get_by_role("button", name="Sign in").click()
        page.wait_for_url(lambda url: "/login" not in url)
        return page

    yield make
    for context in contexts:
        context.close()
    assert problems == []


@pytest.fixture
def make_case() -> Callable[..., Case]:
    """Opens a case the way the monitor does, and plans it with so many questions, whose inputs are in the log."""
    numbers = itertools.count()

    def make(
        console: ConsoleServer,
        questions: int = 40,
        *,
        class_names: Sequence[str] = ("zero", "one", "two"),
        spec: Mapping[str, object] | None = None,
        instance: Callable[[int], npt.NDArray[np.generic]] | None = None,
        double: int = 0,
        logged: int | None = None,
        model_name: str | None = None,
    ) -> Case:
        number = next(numbers)
        name = model_name or f"model-{number}"
        event = NewDriftEvent(
            model_name=name,
            model_version="3",
            detector="mmd",
            statistic=0.25,
            p_value=0.001,
            threshold=0.1,
            window_index=0,
            cursor_start={},
            field_inputs_until_alert=200,
            estimated_accuracy=0.75,
            reference_accuracy=0.98,
            summary="2 of the last 3 windows differ",
            class_names=list(class_names),
            input_spec=spec or _SPEC.model_dump(mode="json"),
        )
        window = WindowRecord(0, 1, 2, 100, "mmd", 0.25, 0.1, 0.001, drifted=True, estimated_accuracy=0.75)
        opened = console.book.record_windows(name, "3", {"w1": (20, 0)}, [window], event)
        assert opened is not None
        draw = instance or _stroke
        _log(console.log, f"{name}-", [draw(index) for index in range(min(questions, logged or questions))], number)
        tasks = [
            NewTask(
                f"{name}-{index}",
                0,
                "repair" if index % 2 else "acceptance",
                rank=index,
                answers_wanted=2 if index < double else 1,
            )
            for index in range(questions)
        ]
        return console.book.plan_case(opened.case_id, tasks, questions, questions // 2, {}, "waiting for labels")

    return make


def _stroke(index: int) -> npt.NDArray[np.float32]:
    """A picture that tells its number apart from others: a bar that wanders."""
    picture = np.zeros(_SPEC.shape, dtype=np.float32)
    picture[0, 4:24, 4 + index % 20 : 8 + index % 20] = 0.9
    picture[0, 12:15, 3:25] = 0.5
    return picture


def _log(log: FieldLog, prefix: str, instances: Sequence[npt.NDArray[np.generic]], number: int) -> None:
    rows = [
        {
            "writer": f"w{number}",
            "seq": seq,
            "row": 0,
            "request_id": f"{prefix}{seq}",
            "client_request_id": f"client-{prefix}{seq}",
            "headers": [("user-agent", "<script>window.pwned=1</script>")],
            "timestamp_ms": seq,
            "date": "1970-01-01",
            "model_name": "digits",
            "model_version": "3",
            "protocol": "mlflow",
            "status_code": 200,
            "execution_time_ms": 1.0,
            "sampling_fraction": 1.0,
            "input": instance.astype(instance.dtype.newbyteorder("<")).tobytes(),
            "dtype": instance.dtype.name,
            "shape": list(instance.shape),
            "predicted_class": seq % 3,
            "confidence": 0.875,
        }
        for seq, instance in enumerate(instances)
    ]
    log.append(pa.Table.from_pylist(rows, schema=FIELD_LOG_SCHEMA), writer=f"w{number}", last_seq=len(rows))
