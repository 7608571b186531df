"""Commands of the monitoring package. Light on purpose: torch, mlflow and alibi-detect load when a command runs."""

from __future__ import annotations

import json
import logging
import sys
from datetime import datetime
from pathlib import Path

from pydantic import Field

from fieldrepair_monitoring.settings import MonitorSettings


class MonitorCommand(MonitorSettings):
    """Watch the field log for drift, and open a repair case when a shift is likely to hurt the model.

    Every model version with a hand-over is watched (see `fieldrepair attach`). Restarting at any time is safe: no
    window is judged twice and no alert is lost or repeated. Ctrl-C stops after the window at hand.
    """

    def cli_cmd(self) -> None:
        """Run until SIGTERM or SIGINT; with ``--once``, until everything that is there is judged."""
        from fieldrepair_monitoring.monitor import run_monitor

        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
        # One line per request of the webhook client would only repeat what the monitor says itself.
        logging.getLogger("httpx").setLevel(logging.WARNING)
        run_monitor(self)


class BacktestCommand(MonitorSettings):
    """Replay a stored field log or a benchmark case, and print when each detector would have fired.

    Takes the monitor's settings for windows, detectors, confirmation and harm, so that they can be tried on the past.
    Nothing is written: neither the field log nor the case book changes.
    """

    backtest_version: str | None = None
    """Version of --model-name whose field inputs are replayed."""
    backtest_since: datetime | None = None
    """Leave out windows that begin before this time, for example 2026-03-01T00:00 (UTC without a zone)."""
    backtest_until: datetime | None = None
    """Stop at this time."""
    backtest_shift_at: datetime | None = None
    """When the shift began, if you know it: delays and false alarms are counted from there."""
    backtest_case: Path | None = None
    """Replay this benchmark case instead: NAME.npz, with the model NAME.pt beside it."""
    backtest_calm_windows: int = Field(default=20, ge=0)
    """Windows of unchanged inputs before the shift, for a benchmark case."""
    backtest_windows: int | None = Field(default=None, ge=1)
    """Replay at most so many windows. Default: all."""
    backtest_json: bool = False
    """Print JSON instead of a table: every alarm of every detector."""

    def cli_cmd(self) -> None:
        """Print a table, or JSON."""
        from fieldrepair_monitoring.backtest import table
        from fieldrepair_monitoring.backtest_run import run_backtest

        logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
        replays = run_backtest(self)
        if self.backtest_json:
            sys.stdout.write(json.dumps([each.to_json() for each in replays], indent=2) + "\n")
        else:
            sys.stdout.write(table(replays) + "\n")
