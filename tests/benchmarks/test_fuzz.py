"""The fuzzer finds what it is for, and a sample of its bodies finds nothing in the decoders."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.fuzz import TARGETS

ROOT = Path(__file__).parents[2]


def fuzz(folder: Path, *options: str) -> tuple[int, dict[str, Any]]:
    """In a process of its own: it forks, and this one may have threads."""
    command = [sys.executable, "-m", "benchmarks.fuzz", "--json", str(folder / "fuzz.json"), *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=150)
    assert (folder / "fuzz.json").exists(), done.stderr
    return done.returncode, json.loads((folder / "fuzz.json").read_text())


def test_a_sample_of_bodies_finds_nothing(tmp_path: Path) -> None:
    status, found = fuzz(tmp_path, "--bodies", "3500", "--seed", "7")
    assert (status, found["clean"]) == (0, True), found
    assert {name: sum(outcomes.values()) for name, outcomes in found["outcomes"].items()} == dict.fromkeys(TARGETS, 500)
    for name, outcomes in found["outcomes"].items():  # not everything may be turned away at the door
        assert outcomes["taken" if name == "cloudevent" else "decoded"] > 10
        assert len(outcomes) > 2


@pytest.mark.parametrize(
    ("target", "key"),
    [("crash", "crashes"), ("hang", "hangs"), ("eat", "memory"), ("fill", "memory"), ("raise", "wrong")],
)
def test_the_fuzzer_finds_what_must_not_happen(tmp_path: Path, target: str, key: str) -> None:
    seconds = "0.3" if target == "hang" else "10"
    options = f"--target cloudevent --target {target} --bodies 4 --memory-mb 500 --cpu-seconds {seconds}".split()
    status, found = fuzz(tmp_path, *options)
    assert (status, found["clean"]) == (1, False)
    assert [each["body"] for each in found[key]] == [1, 3]
    assert {each["target"] for each in found[key]} == {target}
    assert sum(len(found[other]) for other in ("crashes", "hangs", "memory", "wrong")) == 2
