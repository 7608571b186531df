"""The console's benchmark end to end on a short queue: a real sidecar and browser, and numbers that fit together."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from benchmarks import console


@pytest.mark.skipif(
    not (os.environ.get("FIELDREPAIR_CHROMIUM") or shutil.which("chromium")), reason="needs chromium (Debian has it)"
)
def test_a_short_queue_is_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "made" / "console.json"
    options = ["--questions", "60", "--classes", "12", "--loads", "2", "--answers", "3"]
    assert console.main([*options, "--json", str(path)]) == 0
    (queue,) = json.loads(path.read_text())["queues"]
    assert (queue["questions"], queue["classes"], queue["loads"], queue["answers"]) == (60, 12, 2, 3)
    assert 0 < queue["response_ms"] <= queue["interactive_ms"] <= queue["script_ms"] <= queue["complete_ms"]
    assert queue["interactive_ms"] <= queue["interactive_slowest_ms"]
    assert 0 < queue["next_ms"] <= queue["next_slowest_ms"]
    assert queue["forty_seconds"] > 40 * 0.001
    assert "forty_seconds" in capsys.readouterr().out
