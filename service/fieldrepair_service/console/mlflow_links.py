"""Addresses of runs and versions in the MLflow UI."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import quote


@dataclass(frozen=True)
class MlflowLinks:
    """Makes links where the UI's address is known.

    Args:
        ui: its address without a slash at the end; None makes no links.
    """

    ui: str | None

    def run(self, run_id: str | None) -> str | None:
        """The page of a run."""
        return f"{self.ui}/#/runs/{quote(run_id, safe='')}" if self.ui and run_id else None

    def version(self, model_name: str, version: str | None) -> str | None:
        """The page of a model version."""
        if not self.ui or not version:
            return None
        return f"{self.ui}/#/models/{quote(model_name, safe='')}/versions/{quote(version, safe='')}"
