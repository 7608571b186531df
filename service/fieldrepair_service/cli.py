"""``fieldrepair``: one command per part. A command is a settings class, so its options document themselves."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.metadata import EntryPoint, entry_points, version
from typing import Protocol, cast

from pydantic import ValidationError
from pydantic_settings import BaseSettings, CliApp
from pydantic_settings.exceptions import SettingsError

from fieldrepair_service.errors import FieldRepairError

COMMANDS_GROUP = "fieldrepair.commands"


class _Command(Protocol):
    """What the CLI needs of a command: pydantic-settings calls ``cli_cmd`` once the options are read."""

    __doc__: str | None

    def cli_cmd(self) -> None: ...


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: command line without the program's name; default ``sys.argv[1:]``.

    Returns:
        Exit status: 0 done, 1 the command failed with an explained error, 2 the command line is wrong,
        130 stopped by Ctrl-C.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    commands = {entry.name: entry for entry in entry_points(group=COMMANDS_GROUP)}
    if not words or words[0] in ("-h", "--help", "help"):
        sys.stdout.write(_overview(commands))
        return 0
    if words[0] in ("-V", "--version"):
        sys.stdout.write(f"fieldrepair {version('fieldrepair')}\n")
        return 0
    name, *options = words
    if name not in commands:
        sys.stderr.write(f"fieldrepair: unknown command {name!r}, expected one of: {', '.join(sorted(commands))}\n")
        return 2
    return _run(name, commands[name], options)


def _run(name: str, entry: EntryPoint, options: list[str]) -> int:
    try:
        command = cast(type[BaseSettings], entry.load())
    except ModuleNotFoundError as error:
        return _not_installed(name, error)
    command.model_config["cli_prog_name"] = f"fieldrepair {name}"
    try:
        CliApp.run(command, cli_args=options)
    except (ValidationError, SettingsError) as error:
        sys.stderr.write(f"fieldrepair {name}: {_explain(error)}\n")
        return 2
    except FieldRepairError as error:
        sys.stderr.write(f"fieldrepair {name}: {error}\n")
        return 1
    except ModuleNotFoundError as error:  # commands import what is heavy when they run
        if (error.name or "").startswith("fieldrepair"):
            raise
        return _not_installed(name, error)
    except KeyboardInterrupt:
        return 130
    return 0


def _not_installed(name: str, error: ModuleNotFoundError) -> int:
    sys.stderr.write(
        f"fieldrepair {name}: the package {error.name!r} is not installed; install the extra that brings it: "
        f"pip install 'fieldrepair[all]'\n"
    )
    return 1


def _explain(error: ValidationError | SettingsError) -> str:
    """A wrong option in the words of the command line: what was expected and what came."""
    if isinstance(error, SettingsError):
        return str(error)
    lines: list[str] = []
    for problem in error.errors(include_url=False):
        option = "--" + ".".join(str(part) for part in problem["loc"]).replace("_", "-")
        came = "" if problem["type"] == "missing" else f", got {problem['input']!r}"
        lines.append(f"{option}: {problem['msg']}{came}")
    return "\n".join(lines)


def _overview(commands: dict[str, EntryPoint]) -> str:
    lines = ["usage: fieldrepair COMMAND [OPTIONS]    (fieldrepair COMMAND --help explains one)", ""]
    lines += [f"  {name:<10} {_summary(commands[name])}" for name in sorted(commands)]
    lines += ["", "Every option is also an environment variable: --state-dir is FIELDREPAIR_STATE_DIR.", ""]
    return "\n".join(lines)


def _summary(entry: EntryPoint) -> str:
    try:
        command = cast(type[_Command], entry.load())
    except ModuleNotFoundError as error:
        return f"(not available: {error.name} is not installed)"
    return (command.__doc__ or "").strip().splitlines()[0]


if __name__ == "__main__":
    raise SystemExit(main())
