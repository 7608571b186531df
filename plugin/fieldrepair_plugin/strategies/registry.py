"""Finds strategies by name. They are entry points, so that other packages can bring their own."""

from __future__ import annotations

from importlib.metadata import entry_points

from fieldrepair_plugin.strategies.base import Strategy
from fieldrepair_service.errors import InputError

GROUP = "fieldrepair.strategies"
DEFAULT = "hybridrepair"


def strategy_names() -> list[str]:
    """Every installed strategy, sorted."""
    return sorted(entry.name for entry in entry_points(group=GROUP))


def strategy_named(name: str) -> Strategy:
    """An installed strategy.

    Raises:
        InputError: if there is none of that name; the message lists those there are.
    """
    found = [entry for entry in entry_points(group=GROUP) if entry.name == name]
    if not found:
        raise InputError(f"expected a strategy out of {', '.join(strategy_names())}; got {name!r}")
    strategy: Strategy = found[0].load()()
    return strategy
