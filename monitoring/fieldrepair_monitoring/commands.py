"""Commands of the monitoring package. Light on purpose: torch, mlflow and alibi-detect load when a command runs."""

from __future__ import annotations

import logging

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
