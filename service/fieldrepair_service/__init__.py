"""What runs beside the model server: sidecar, field log, case book and the control port's API.

The names below are the package's public surface. Each is imported when it is first used, so that importing the
package costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fieldrepair_service.case_book import CaseBook, CaseState, open_case_book
    from fieldrepair_service.errors import FieldRepairError
    from fieldrepair_service.field_log import FIELD_LOG_SCHEMA, Cursor, FieldLog, FieldRows
    from fieldrepair_service.inputs import ImageInput

__all__ = [
    "FIELD_LOG_SCHEMA",
    "CaseBook",
    "CaseState",
    "Cursor",
    "FieldLog",
    "FieldRepairError",
    "FieldRows",
    "ImageInput",
    "open_case_book",
]

_HOMES = {
    "FIELD_LOG_SCHEMA": "field_log",
    "CaseBook": "case_book",
    "CaseState": "case_book",
    "Cursor": "field_log",
    "FieldLog": "field_log",
    "FieldRepairError": "errors",
    "FieldRows": "field_log",
    "ImageInput": "inputs",
    "open_case_book": "case_book",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
