"""Python values as Arrow columns, nested ones too, which nanoarrow makes of buffers only."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any

import nanoarrow as na
import numpy as np
from nanoarrow.c_array import CArray


def arrow_column(values: Sequence[Any], kind: na.Schema) -> CArray:
    """A column of a type.

    Args:
        values: one per row; None is null. In a list column sequences or arrays, in a map column sequences of pairs
            (key, value), in a struct column tuples, none of them None.
        kind: the column's type.

    Raises:
        ValueError: if a value is of another type.
    """
    if kind.type in (na.Type.LIST, na.Type.MAP):
        return _lists(values, kind)
    if kind.type is na.Type.STRUCT:
        fields = [arrow_column([value[at] for value in values], field) for at, field in enumerate(kind.fields)]
        return struct_column(fields, len(values), kind)
    return na.c_array(values, kind)


def struct_column(fields: Sequence[CArray], length: int, kind: na.Schema) -> CArray:
    """A column of structs without nulls, of the columns of its fields."""
    return na.c_array_from_buffers(kind, length, [None], children=fields, null_count=0)


def _lists(values: Sequence[Any], kind: na.Schema) -> CArray:
    there = np.fromiter((value is not None for value in values), dtype=np.bool_, count=len(values))
    nulls = len(values) - int(there.sum())
    offsets = np.zeros(len(values) + 1, dtype=np.int32)
    np.cumsum([0 if value is None else len(value) for value in values], out=offsets[1:])
    items = arrow_column(_joined([value for value in values if value is not None]), kind.field(0))
    valid = np.packbits(there, bitorder="little") if nulls else None
    return na.c_array_from_buffers(kind, len(values), [valid, offsets], children=[items], null_count=nulls)


def _joined(lists: list[Any]) -> Sequence[Any]:
    if lists and isinstance(lists[0], np.ndarray):
        return np.concatenate(lists)  # type: ignore[return-value] - as good as a sequence here, and made much sooner
    return list(chain.from_iterable(lists))
