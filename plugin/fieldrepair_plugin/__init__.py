"""The repair engine, and everything that plugs into MLflow.

``log_model`` and ``attach`` are imported at first use, so that importing the package does not load torch and mlflow.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fieldrepair_plugin.attachment import attach
    from fieldrepair_plugin.model_logging import log_model

__all__ = ["attach", "log_model"]

# No module is named like its function: importing a module `attach` would put itself in the function's place here.
_HOMES = {"attach": "fieldrepair_plugin.attachment", "log_model": "fieldrepair_plugin.model_logging"}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
