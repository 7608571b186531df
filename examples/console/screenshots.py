"""``python -m examples.console.screenshots``: pictures of every page for the documentation, into ``docs/images``."""

from __future__ import annotations

import argparse
import io
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, sync_playwright

from examples.console.serving import Served, serve_console

WIDE, NARROW = (1180, 820), (400, 800)
_TALLEST = {"case-accepted": 2600, "case-annotating": 2200}
"""Pixels of a picture's height at most; 1400 where nothing is said."""
_COLOURS = 240
BROWSER_OPTIONS = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--hide-scrollbars")


def main() -> None:
    """Serve the story, visit every page, save what is seen."""
    parser = argparse.ArgumentParser(prog="python -m examples.console.screenshots", description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?", default=Path("docs/images"))
    parser.add_argument("--only", default="", help="only pictures whose name has this in it")
    arguments = parser.parse_args()
    folder: Path = arguments.folder
    folder.mkdir(parents=True, exist_ok=True)
    program = os.environ.get("FIELDREPAIR_CHROMIUM") or shutil.which("chromium")
    if program is None:
        parser.error("needs chromium; install it, or name it in FIELDREPAIR_CHROMIUM")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=list(BROWSER_OPTIONS))
        with serve_console(empty=True) as served:
            _take(
                browser,
                served,
                {"overview-empty": "/", "cases-empty": "/cases"},
                folder,
                arguments.only,
                kinds=("light",),
            )
        with serve_console() as served:
            _take(browser, served, _pages(served), folder, arguments.only)
        browser.close()


def _pages(served: Served) -> dict[str, str]:
    story = served.story
    assert story is not None  # noqa: S101  (served with its story)
    return {
        "sign-in": "/login",
        "overview": "/",
        "cases": "/cases",
        "case-annotating": f"/cases/{story.annotating}",
        "case-training": f"/cases/{story.training}",
        "case-accepted": f"/cases/{story.accepted}",
        "case-rejected": f"/cases/{story.rejected}",
        "case-promoted": f"/cases/{story.promoted}",
        "promote": f"/cases/{story.accepted}/promote",
        "dismiss": f"/cases/{story.training}/dismiss",
        "label": f"/label/{story.annotating}",
        "audit": "/audit",
    }


def _take(
    browser: Browser,
    served: Served,
    pages: Mapping[str, str],
    folder: Path,
    only: str,
    kinds: Sequence[str] = ("light", "dark", "narrow"),
) -> None:
    for kind in kinds:
        width, height = NARROW if kind == "narrow" else WIDE
        context = browser.new_context(
            base_url=served.url,
            viewport={"width": width, "height": height},
            color_scheme="dark" if kind == "dark" else "light",
            reduced_motion="reduce",
        )
        page = context.new_page()
        page.set_default_timeout(60_000)
        for name, path in pages.items():
            if path != "/login" and not context.cookies():
                page.goto("/login")
                page.get_by_label("Your name").fill("Ann Meyer")
                page.get_by_role("button", name="Sign in").click()
                page.wait_for_url("**/")
            if only not in f"{name}-{kind}":
                continue
            page.goto(path)
            for picture in page.locator("img[loading=lazy]").all():
                picture.scroll_into_view_if_needed()
            page.evaluate("window.scrollTo(0, 0)")
            tall: int = page.evaluate("document.documentElement.scrollHeight")
            shown = min(max(tall, height), _TALLEST.get(name, 1400))
            shot = page.screenshot(full_page=True, clip={"x": 0, "y": 0, "width": width, "height": shown})
            (folder / f"{name}-{kind}.png").write_bytes(_smaller(shot))
        context.close()


def _smaller(png: bytes) -> bytes:
    """The same picture with few colours: documentation is cloned by everybody."""
    picture = Image.open(io.BytesIO(png)).convert("RGB").quantize(_COLOURS, dither=Image.Dither.NONE)
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


if __name__ == "__main__":
    main()
