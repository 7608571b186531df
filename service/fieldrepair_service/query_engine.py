"""The query engine that deltalake brings (DataFusion), and its errors as ours."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager

from fieldrepair_service.errors import FieldRepairError


@contextmanager
def raised_as(kind: Callable[[str], FieldRepairError]) -> Generator[None]:
    """Raise what the engine says about files it cannot read as an error of ours; those of ours stay what they are.

    It raises bare Exceptions, and panics, which Rust hands on as no Exception at all.

    Args:
        kind: makes the error, of the engine's words.
    """
    try:
        yield
    except FieldRepairError:
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise kind(str(error)) from error
