"""What every test may rely on: no usage reports, few threads, and a folder of real data sets where there is one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# Set before any library is imported: tests run side by side on few cores, and report to nobody.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("DO_NOT_TRACK", "true")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "Agg")


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of benchmark cases; skips where the machine has none."""
    folder = os.environ.get("FIELDREPAIR_DATA", "")
    if not folder or not Path(folder).is_dir():
        pytest.skip("needs real data sets: set FIELDREPAIR_DATA to the folder of benchmark cases")
    return Path(folder)
