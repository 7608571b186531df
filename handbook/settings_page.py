"""The page of all settings, made from the settings classes: ``python -m handbook`` writes it."""

from __future__ import annotations

import inspect
import types
from collections.abc import Iterator
from copy import copy
from datetime import datetime
from importlib.metadata import entry_points
from pathlib import Path
from typing import Annotated, Any, Literal, Union, cast, get_args, get_origin

import annotated_types
from pydantic import BaseModel, HttpUrl, SecretStr
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings
from pydantic_settings.sources.types import (
    _CliPositionalArg,  # pyright: ignore[reportPrivateUsage] - how a field says that it is an argument and no option
    _CliSubCommand,  # pyright: ignore[reportPrivateUsage]
)

from fieldrepair_service.cli import COMMANDS_GROUP

PREFIX = "FIELDREPAIR_"

_INTRODUCTION = """\
# Settings

This page is made from the program itself by `python -m handbook`; a test holds it up to date.

A setting is an option of a command (`--window-size 200`) and an environment variable (`FIELDREPAIR_WINDOW_SIZE=200`).
The option wins. [`fieldrepair up`](up.md) and deployments hand their environment on to the parts they start, so every
setting of sidecar, monitor and worker can be given to them as a variable. For a list, repeat the option, or write JSON
into the variable: `FIELDREPAIR_LOG_HEADERS='["x-tenant"]'`. What is yes or no is `--once` or `--no-once`, and `true` or
`false` in a variable. A value that cannot be is refused at the start, with what was expected and what came.

| command | its settings |
|---|---|
"""


def settings_page() -> str:
    """The whole page, Markdown."""
    commands = {entry.name: entry.load() for entry in sorted(entry_points(group=COMMANDS_GROUP), key=lambda e: e.name)}
    sections = _sections(commands)
    lines = [_INTRODUCTION.rstrip("\n")]
    for name, command in commands.items():
        links = [f"[{_title(each)}](#{_slug(_title(each))})" for each in sections if issubclass(command, each)]
        links += [f"[{title}](#{_slug(title)})" for title, _ in _subcommands(name, command)]
        lines.append(f"| `fieldrepair {name}` | {', '.join(links)} |")
    for section, users in sections.items():
        lines += ["", f"## {_title(section)}", "", f"{_first_line(section)} Used by {_join(users)}.", ""]
        lines += _table(_own_fields(section), with_variables=True)
    for name, command in commands.items():
        for title, model in _subcommands(name, command):
            lines += ["", f"## {title}", "", f"{_first_line(model)} Options only; there are no variables for them.", ""]
            lines += _table(model.model_fields, with_variables=False)
    return "\n".join(lines) + "\n"


def _sections(commands: dict[str, type[BaseSettings]]) -> dict[type[BaseSettings], list[str]]:
    """Each class that declares settings, the most general first, with the commands that have them."""
    found: dict[type[BaseSettings], list[str]] = {}
    for name, command in commands.items():
        for each in reversed(command.__mro__):
            if issubclass(each, BaseSettings) and each is not BaseSettings and _own_fields(each):
                found.setdefault(each, []).append(name)
    order = list(found)
    return {each: found[each] for each in sorted(found, key=lambda one: (-len(found[one]), order.index(one)))}


def _own_fields(section: type[BaseSettings]) -> dict[str, FieldInfo]:
    own = inspect.get_annotations(section)
    return {
        name: field
        for name, field in section.model_fields.items()
        if name in own and _CliSubCommand not in field.metadata
    }


def _subcommands(name: str, command: type[BaseSettings]) -> Iterator[tuple[str, type[BaseModel]]]:
    for word, field in command.model_fields.items():
        if _CliSubCommand in field.metadata:
            model = next(each for each in get_args(field.annotation) if each is not type(None))
            yield f"fieldrepair {name} {word}", model


def _title(section: type[BaseSettings]) -> str:
    titles = {
        "StoreSettings": "Every part",
        "RegistrySettings": "The MLflow registry",
        "ControlSettings": "The control port",
        "LoggingSettings": "Logging",
        "ModelServerSettings": "Model servers",
    }
    name = section.__name__
    return titles.get(name, name.removesuffix("Settings").removesuffix("Command"))


def _first_line(model: type[BaseModel]) -> str:
    return (model.__doc__ or "").strip().splitlines()[0]


def _slug(title: str) -> str:
    return title.lower().replace(" ", "-")


def _join(words: list[str]) -> str:
    return ", ".join(f"`{word}`" for word in words)


def _table(fields: dict[str, FieldInfo], *, with_variables: bool) -> list[str]:
    lines = ["| setting | value | default | meaning |", "|---|---|---|---|"]
    for name, field in fields.items():
        for option, one in _flat(name, field):
            argument = _CliPositionalArg in one.metadata
            shown = f"`{option.upper()}`" if argument else f"`--{option.replace('_', '-')}`"
            if with_variables:
                shown += f" `{PREFIX}{name.upper()}`" if "." not in option else " (no variable of its own)"
            meaning = (
                " ".join((one.description or "Which of them it is.").split()).replace("``", "`").replace("|", "\\|")
            )
            lines.append(f"| {shown} | {_value(one)} | {_default(one)} | {_as_text(meaning)} |")
    return lines


def _flat(name: str, field: FieldInfo) -> Iterator[tuple[str, FieldInfo]]:
    """A setting, and after it the parts it has, each an option of its own."""
    yield name, field
    parts: dict[str, FieldInfo] = {}
    for model in _models(field.annotation):
        for part, inner in model.model_fields.items():
            known = parts.setdefault(f"{name}.{part}", copy(inner))
            if get_origin(inner.annotation) is Literal:  # each model has a kind of its own
                values = (*get_args(known.annotation), *get_args(inner.annotation))
                known.annotation = Literal[tuple(dict.fromkeys(values))]  # type: ignore[assignment]
    yield from parts.items()


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    """The models that a value may be, in order."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    elif get_origin(annotation) in (Annotated, Union, types.UnionType):
        for each in get_args(annotation):
            yield from _models(each)


def _as_text(meaning: str) -> str:
    """A docstring's words in Markdown: what looks like a tag, ``<state-dir>``, is meant as it stands."""
    return meaning.replace("<", "&lt;").replace(">", "&gt;")


def _value(field: FieldInfo) -> str:
    return ", ".join([_kind(field.annotation), *_range(field)])


def _kind(annotation: Any) -> str:
    origin = get_origin(annotation)
    if origin is Annotated:
        return _kind(get_args(annotation)[0])
    if origin in (Union, types.UnionType):
        kinds = [_kind(each) for each in get_args(annotation) if each is not type(None)]
        return " or ".join(dict.fromkeys(kinds))
    if origin is Literal:
        return ", ".join(f"`{each}`" for each in get_args(annotation))
    if origin is dict:
        return "JSON object"
    if origin in (list, tuple):
        return f"list of {_kind(get_args(annotation)[0])}"
    words: dict[Any, str] = {
        bool: "yes or no",
        int: "whole number",
        float: "number",
        str: "text",
        Path: "path",
        SecretStr: "secret",
        HttpUrl: "URL",
        datetime: "time",
    }
    if annotation in words:
        return words[annotation]
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "JSON"
    raise TypeError(f"no words for the type {annotation!r} of a setting; add some to handbook/settings_page.py")


def _range(field: FieldInfo) -> list[str]:
    signs = {annotated_types.Ge: "≥", annotated_types.Gt: ">", annotated_types.Le: "≤", annotated_types.Lt: "<"}
    found: list[str] = []
    for each in field.metadata:
        if isinstance(each, annotated_types.MinLen):
            found.append(f"at least {each.min_length} characters")
        for kind, sign in signs.items():
            if isinstance(each, kind):
                found.append(f"{sign} {_number(getattr(each, kind.__name__.lower()))}")
    return found


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if value is None or value == () or value == []:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float):
        return _number(value)
    if isinstance(value, tuple | list):
        return ", ".join(f"`{each}`" for each in cast("list[object]", value))
    return f"`{value}`"


def _number(value: Any) -> str:
    if isinstance(value, int) and value >= 1024 and value % 1024 == 0:
        for size, unit in ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")):
            if value % size == 0:
                return f"{value} ({value // size} {unit})"
    return f"{value:g}" if isinstance(value, float) else str(value)
