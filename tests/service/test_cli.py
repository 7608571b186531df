from __future__ import annotations

import subprocess
import sys
from importlib.metadata import entry_points, version

import pytest
from pydantic_settings import BaseSettings

from fieldrepair_service.cli import COMMANDS_GROUP, main

HEAVY = ("torch", "mlflow", "alibi_detect", "pandas", "sklearn", "scipy", "faiss", "torchvision")


def modules_after(code: str) -> set[str]:
    """The heavy modules that a fresh interpreter has loaded after running ``code``."""
    script = f"{code}\nimport sys\nprint('loaded:', *sorted(set(sys.modules) & set({HEAVY!r})))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines()[-1].removeprefix("loaded:").split())


@pytest.mark.parametrize("package", ["fieldrepair_service", "fieldrepair_monitoring", "fieldrepair_plugin"])
def test_importing_a_package_loads_nothing_heavy(package: str) -> None:
    assert modules_after(f"import {package}") == set()


def test_help_loads_nothing_heavy() -> None:
    assert modules_after("from fieldrepair_service.cli import main\nmain(['--help'])") == set()


@pytest.mark.parametrize("command", sorted(entry.name for entry in entry_points(group=COMMANDS_GROUP)))
def test_every_command_explains_itself_and_every_option(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    assert f"usage: fieldrepair {command}" in text
    settings: type[BaseSettings] = next(iter(entry_points(group=COMMANDS_GROUP, name=command))).load()
    for name, field in settings.model_fields.items():
        assert field.description, f"option {name} of {command} is not documented"


def test_the_overview_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    text = capsys.readouterr().out
    for entry in entry_points(group=COMMANDS_GROUP):
        assert f"  {entry.name} " in text
    assert "not available" not in text


def test_the_version_is_the_installed_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"fieldrepair {version('fieldrepair')}\n"


def test_an_unknown_command_is_answered_with_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["repair-everything"]) == 2
    assert "unknown command 'repair-everything', expected one of: attach, " in capsys.readouterr().err


def test_a_wrong_value_names_the_option_and_what_came(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["monitor", "--window-size", "few"]) == 2
    error = capsys.readouterr().err
    assert "--window-size" in error
    assert "'few'" in error
    assert "Traceback" not in error


def test_a_missing_value_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["up"])
    assert ended.value.code == 2
    assert "model" in capsys.readouterr().err.lower()
