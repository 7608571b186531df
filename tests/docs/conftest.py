"""A sidecar to back up, and a PostgreSQL to dump."""

from __future__ import annotations

from tests.faults.conftest import load, model_server, sidecar, wait_until
from tests.service.conftest import make_event, make_window, open_case, plan, postgresql_server

__all__ = [
    "load",
    "make_event",
    "make_window",
    "model_server",
    "open_case",
    "plan",
    "postgresql_server",
    "sidecar",
    "wait_until",
]
