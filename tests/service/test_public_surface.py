"""The package's public names: this list and no other, each where it says it is."""

from __future__ import annotations

import fieldrepair_service


def test_public_names() -> None:
    assert fieldrepair_service.__all__ == [
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
    for name in fieldrepair_service.__all__:
        assert getattr(fieldrepair_service, name) is not None
        assert name in dir(fieldrepair_service)
    assert not hasattr(fieldrepair_service, "no_such_name")
