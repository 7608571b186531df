"""The overview of a console that asks sidecars elsewhere, in a browser: what it says of those that answer or do not."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable, Generator
from pathlib import Path

import httpx
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect
from prometheus_client import CollectorRegistry

from fieldrepair_service.console.security import Security
from fieldrepair_service.console.sidecar_addresses import parse_sidecar
from fieldrepair_service.console.sidecar_traffic import PollTimes, SidecarTraffic
from fieldrepair_service.console_app import create_console_app
from fieldrepair_service.control_server import ControlServer
from fieldrepair_service.roles import Role
from fieldrepair_service.stores import Stores
from tests.browser.conftest import TOKENS
from tests.browser.test_console_pages import sign_in_at
from tests.console.conftest import Counted, count

__all__ = ["count"]

Open = Callable[..., Page]


@pytest.fixture
def overview(chromium: Browser, tmp_path: Path) -> Generator[Open]:
    """Opens the overview of a console that asks these ports of this machine."""
    servers: list[ControlServer] = []
    pages: list[Page] = []

    def make(*ports: int, scheme: str = "light", width: int = 1280) -> Page:
        app = create_console_app(
            security=Security(TOKENS),
            stores=Stores(f"sqlite:///{tmp_path / 'book.db'}", str(tmp_path / "log")),
            traffic=SidecarTraffic([parse_sidecar(f"http://127.0.0.1:{port}") for port in ports], PollTimes(pause=0.1)),
            registry=CollectorRegistry(),
        )
        listener = socket.create_server(("127.0.0.1", 0))
        servers.append(ControlServer(app, listener))
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        end = time.monotonic() + 60
        while httpx.get(f"{url}/readyz", timeout=30).status_code != 200:
            assert time.monotonic() < end, "the stores did not open within a minute"
            time.sleep(0.05)
        context = chromium.new_context(
            base_url=url,
            color_scheme="dark" if scheme == "dark" else "light",
            viewport={"width": width, "height": 700},
        )
        pages.append(context.new_page())
        sign_in_at(pages[-1], "Ann", Role.VIEWER)
        return pages[-1]

    yield make
    for page in pages:
        page.context.close()
    for server in servers:
        server.stop()


def closed_port() -> int:
    """A port where nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_versions_in_a_rollout_and_a_sidecar_that_does_not_answer(
    overview: Open, count: Callable[[], Counted], traffic_loop: asyncio.AbstractEventLoop, scheme: str, tmp_path: Path
) -> None:
    ports: list[int] = []
    for version in ("3", "4"):
        counted = count()
        ports.append(counted.serve(loop=traffic_loop))
        switching = counted.upstreams.switch("http://127.0.0.1:5001", "digits", version)
        asyncio.run_coroutine_threadsafe(switching, traffic_loop).result(30)
        counted.stats.observe(200, 0.01, 0.005)
    ports.append(closed_port())
    page = overview(*ports, scheme=scheme)
    traffic = page.get_by_role("region", name="Traffic")
    expect(traffic).to_contain_text("2 of 3 sidecars answer. The numbers are those of the sidecars that answer.")
    expect(traffic.locator("dl")).to_contain_text("digits 3by 1 sidecar")
    expect(traffic.locator("dl")).to_contain_text("digits 4by 1 sidecar")
    expect(page.get_by_role("region", name="digits")).to_contain_text("versions 3 and 4 are served")
    traffic.get_by_text("Which do not").click()
    expect(traffic.get_by_role("listitem")).to_contain_text(f"http://127.0.0.1:{ports[-1]}: does not answer")
    violations = Axe().run(page).response["violations"]
    assert [(each["id"], each["nodes"][0]["html"][:200]) for each in violations] == []
    page.screenshot(path=tmp_path / f"overview-{scheme}.png", full_page=True)


def test_without_sidecars_and_in_a_narrow_window(overview: Open) -> None:
    page = overview(width=320)
    expect(page.get_by_role("region", name="Traffic")).to_contain_text("No sidecar is named")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    violations = Axe().run(page).response["violations"]
    assert [(each["id"], each["nodes"][0]["html"][:200]) for each in violations] == []


def test_when_no_sidecar_answers_the_page_is_there(overview: Open) -> None:
    page = overview(closed_port())
    expect(page.get_by_role("region", name="Traffic")).to_contain_text("0 of 1 sidecar answers.")
    expect(page.get_by_role("main")).not_to_contain_text("Rows logged")
