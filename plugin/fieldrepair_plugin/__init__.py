"""The repair engine, and everything that plugs into MLflow.

``log_model`` and ``attach`` are imported at first use, so that importing the package does not load torch and mlflow.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fieldrepair_plugin.attach import attach
    from fieldrepair_plugin.log_model import log_model

__all__ = ["attach", "log_model"]


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    # `fieldrepair_plugin.log_model` is the function, also after the module of that name has been imported:
    # importing a submodule sets the attribute to the module, this sets it to the function.
    value = getattr(import_module(f"{__name__}.{name}"), name)
    globals()[name] = value
    return value
