"""Settings that contradict each other are refused with both values, and commands explain themselves without torch."""

from __future__ import annotations

import subprocess
import sys

import pytest
from pydantic import ValidationError

from fieldrepair_plugin.settings import UpSettings, WorkerSettings


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"pool_minimum": 150}, r"pool_minimum \(150\) must be at least twice acceptance_size \(100\)"),
        ({"pool_maximum": 400}, r"pool_maximum \(400\) must not be below pool_minimum \(500\)"),
        ({"acceptance_minimum": 101}, r"acceptance_minimum \(101\) must not be above acceptance_size \(100\)"),
        ({"repair_strategy": "magic"}, "repair_strategy must be one of badge, .*; got 'magic'"),
        ({"repair_strategy": "full"}, "got 'full'"),
    ],
)
def test_contradictions_are_refused(settings: dict[str, int | str], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        WorkerSettings(**settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("settings", [UpSettings, WorkerSettings])
def test_every_setting_explains_itself(settings: type[UpSettings] | type[WorkerSettings]) -> None:
    unexplained = [name for name, field in settings.model_fields.items() if not field.description]
    assert unexplained == []


def test_commands_load_without_torch_and_mlflow() -> None:
    script = (
        "import sys, fieldrepair_plugin.commands as commands\n"
        "assert commands.UpCommand and commands.WorkerCommand and commands.AttachCommand\n"
        "print([name for name in ('torch', 'mlflow', 'alibi_detect', 'matplotlib') if name in sys.modules])\n"
    )
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert found == "[]\n"
