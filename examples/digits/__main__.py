"""``make demo``: tell the story, print the table, write ``build/demo/summary.json`` and the report."""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from examples.digits.platform import FieldRepair, Platform

FOLDER = Path("build") / "demo"


def main() -> int:
    """Run the demo. Exit status 0 when the whole story came true, 1 when it did not."""
    parser = argparse.ArgumentParser(prog="python -m examples.digits", description=__doc__)
    parser.add_argument("--keep", action="store_true", help="leave everything running and print the addresses")
    keep = parser.parse_args().keep
    # Reports to nobody, prints no progress bars of its own, and shares the cores with the processes it starts.
    os.environ |= {
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "DO_NOT_TRACK": "true",
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
        "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
        "MLFLOW_LOGGING_LEVEL": "ERROR",
    }
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True)
    console = Console()
    try:
        shortfalls = _run(console, keep=keep)
    except KeyboardInterrupt:
        console.print("\nStopped.")
        return 130
    except Exception as error:
        # Imported late, here too: see _run.
        from examples.digits.platform import DemoError

        if not isinstance(error, DemoError):
            raise
        console.print(f"\n[bold red]The demo failed:[/bold red] {error}\nLogs: {FOLDER / 'logs'}, {FOLDER / 'state'}")
        return 1
    if shortfalls:
        console.print("[bold red]The story ran, but not all of it came true:[/bold red]")
        for sentence in shortfalls:
            console.print(f"  {sentence}")
        return 1
    console.print("[bold green]Done: the whole story came true.[/bold green]")
    return 0


def _run(console: Console, *, keep: bool) -> list[str]:
    """Tell the story and write what it left; every process is stopped at the end, or at the first failure.

    Returns:
        What did not come true.
    """
    console.print("[bold]fieldrepair, the whole loop on 1,797 real scans of handwritten digits[/bold]")
    # Imported late: torch and mlflow take seconds, and whoever waits should know what for.
    from examples.digits.report import write_report
    from examples.digits.story import Story

    story = Story(FOLDER.absolute())
    with ExitStack() as processes:
        platform = story.begin()
        processes.callback(platform.stop)
        story.train_and_register(platform)
        running, client = story.serve(platform)
        processes.callback(running.stop)
        evidence = story.tell(running, client)

        story.summary.write(FOLDER / "summary.json")
        write_report(FOLDER / "report.html", story.summary, evidence)
        _print_result(console, story.summary.rows(), story.summary.facts(), story.summary.seconds)
        console.print(f"\nReport:  {FOLDER / 'report.html'}\nNumbers: {FOLDER / 'summary.json'}")
        if keep:
            processes.pop_all()
            _leave_running(console, running, platform)
    return story.summary.shortfalls()


def _print_result(
    console: Console, rows: list[tuple[str, str, str]], facts: list[tuple[str, str]], seconds: dict[str, float]
) -> None:
    table = Table("", "before", "after", title="\nRepaired", title_justify="left")
    for row in rows:
        table.add_row(*row)
    console.print(table)
    for what, value in facts:
        console.print(f"  {what:<34} {value}")
    console.print(f"  {'seconds in all':<34} {sum(seconds.values()):.0f}")


def _leave_running(console: Console, running: FieldRepair, platform: Platform) -> None:
    console.print(
        f"\nEverything is still running:\n"
        f"  traffic  {running.traffic_url}/invocations\n"
        f"  control  {running.control_url}   (token in {FOLDER / 'state' / 'control-token'})\n"
        f"  MLflow   {platform.mlflow_url}\n"
        f"Stop it with: kill -INT {running.process.handle.pid} {platform.mlflow.handle.pid}"
    )


if __name__ == "__main__":
    sys.exit(main())
