"""``python -m benchmarks.console --json FILE``: how quickly the labelling page is there, and the next question.

A real sidecar in a process of its own, a field log with every picture, and Chromium without a window. The queue is long
(10,000 questions, a part of them answered, a part asked of two people), with ten classes and with a thousand. Times are
taken inside the page: how long people think, and what it costs to drive the browser, is not in them.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import sys
import tempfile
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

from benchmarks.console_queue import ConsoleQueue, make_queue
from benchmarks.sidecar_parts import Child, free_ports

_TOKEN = "the-benchmarks-own-labeller-token"  # noqa: S105 - of a server on loopback that lives for a minute
_FORTY = 40

# Chromium's own clock: from the key to the frame in which the next question and its picture are drawn.
_WATCH = """() => {
  window.waits = [];
  let pressed = null;
  document.addEventListener("keydown", () => { pressed = performance.now(); }, true);
  new MutationObserver(() => {
    if (pressed === null) return;
    const from = pressed, picture = document.getElementById("subject");
    pressed = null;
    const shown = () => requestAnimationFrame(() => window.waits.push(performance.now() - from));
    if (picture && !picture.complete) picture.addEventListener("load", shown, { once: true }); else shown();
  }).observe(document.getElementById("task-place"), { childList: true });
}"""
_LOADED = """() => {
  const found = performance.getEntriesByType("navigation")[0];
  return [found.responseStart, found.domInteractive, found.domContentLoadedEventEnd, found.loadEventEnd];
}"""


@dataclass(frozen=True)
class ConsoleRecord:
    """What one queue costs, in milliseconds; medians."""

    questions: int
    classes: int
    loads: int
    answers: int
    response_ms: float
    """Until the first byte of the page: the server's part."""
    interactive_ms: float
    """Until the page is read and can be used: ``domInteractive``."""
    interactive_slowest_ms: float
    script_ms: float
    """Until the keys work: the end of ``DOMContentLoaded``."""
    complete_ms: float
    """Until the picture is there, and everything else: the end of ``load``."""
    next_ms: float
    """From the key that answers to the next question with its picture."""
    next_slowest_ms: float
    forty_seconds: float
    """One load and 40 answers with the keyboard, of the page's own time (people's comes on top)."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and print a table; the exit status."""
    given = _parse(arguments)
    program = os.environ.get("FIELDREPAIR_CHROMIUM") or shutil.which("chromium")
    if program is None:
        print("needs chromium; install it, or name a program in FIELDREPAIR_CHROMIUM", file=sys.stderr)
        return 1
    if given.json is not None:
        given.json.parent.mkdir(parents=True, exist_ok=True)
    records: list[ConsoleRecord] = []
    for classes in given.classes:
        with tempfile.TemporaryDirectory(prefix="fieldrepair-bench-") as folder:
            queue = make_queue(Path(folder), given.questions, classes)
            with _console(queue, Path(folder)) as url, _browser(program, url) as page:
                records.append(measure(page, queue, loads=given.loads, answers=given.answers))
    _print(records)
    if given.json is not None:
        machine = {"cores": os.cpu_count(), "load": os.getloadavg()[0], "python": platform.python_version()}
        given.json.write_text(json.dumps({**machine, "queues": [asdict(r) for r in records]}, indent=2) + "\n")
    return 0


def measure(page: Page, queue: ConsoleQueue, *, loads: int, answers: int) -> ConsoleRecord:
    """Load the page so many times, then answer so many questions with keys.

    Args:
        page: signed in as a labeller.
        queue: the case's queue; has at least ``answers`` open questions.
        loads: at least 1.
        answers: at least 1.
    """
    path = f"/label/{queue.case_id}"
    times: list[list[float]] = []
    for _ in range(loads):
        page.goto(path, wait_until="load")
        times.append(page.evaluate(_LOADED))
    page.evaluate(_WATCH)
    for number in range(answers):
        for key in queue.keys(number):
            page.keyboard.press(key)
        page.wait_for_function("count => window.waits.length === count", arg=number + 1)
    waits: list[float] = page.evaluate("window.waits")
    response, interactive, script, complete = (statistics.median(column) for column in zip(*times, strict=True))
    return ConsoleRecord(
        questions=queue.questions,
        classes=queue.classes,
        loads=loads,
        answers=answers,
        response_ms=response,
        interactive_ms=interactive,
        interactive_slowest_ms=max(each[1] for each in times),
        script_ms=script,
        complete_ms=complete,
        next_ms=statistics.median(waits),
        next_slowest_ms=max(waits),
        forty_seconds=(complete + _FORTY * statistics.fmean(waits)) / 1000,
    )


@contextmanager
def _console(queue: ConsoleQueue, folder: Path) -> Generator[str]:
    """A sidecar on the queue's stores; gives the control port's address."""
    traffic, control = free_ports(2)
    command = [
        sys.executable, "-m", "fieldrepair_service.cli", "sidecar", f"--traffic-port={traffic}",
        f"--control-port={control}", f"--state-dir={folder / 'state'}", f"--field-log={queue.field_log}",
        f"--case-book={queue.case_book}", f"--labeller-token={_TOKEN}",
    ]  # fmt: skip
    child = Child(command, traffic, folder / "sidecar.log", also=[control])
    try:
        yield f"http://127.0.0.1:{control}"
    finally:
        child.stop()


@contextmanager
def _browser(program: str, url: str) -> Generator[Page]:
    """A page of somebody who is signed in."""
    with sync_playwright() as playwright:
        # Without a sandbox: benchmarks often run as root, and only our own pages are opened.
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        page = browser.new_context(base_url=url).new_page()
        page.goto("/login")
        page.get_by_label("Your name").fill("Ann")
        page.get_by_label("Token").fill(_TOKEN)
        page.get_by_role("button", name="Sign in").click()
        page.wait_for_url(lambda at: "/login" not in at)
        yield page
        browser.close()


def _print(records: Sequence[ConsoleRecord]) -> None:
    names = ("questions", "classes", "response_ms", "interactive_ms", "interactive_slowest_ms", "script_ms",
             "complete_ms", "next_ms", "next_slowest_ms", "forty_seconds")  # fmt: skip
    print(" ".join(f"{name:>{max(len(name), 9)}}" for name in names))
    for record in records:
        values = asdict(record)
        print(" ".join(f"{values[name]:{max(len(name), 9)}.{1 if '_' in name else 0}f}" for name in names))


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.console", description=__doc__)
    parser.add_argument("--json", type=Path, help="write the numbers here")
    parser.add_argument("--questions", type=int, default=10_000, help="how long the queue is")
    parser.add_argument("--classes", type=int, nargs="+", default=[10, 1000], help="one queue for each number")
    parser.add_argument("--loads", type=int, default=15, help="how often the page is loaded")
    parser.add_argument("--answers", type=int, default=_FORTY, help="how many questions are answered")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
