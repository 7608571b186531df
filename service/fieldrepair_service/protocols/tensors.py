"""Tensors of the Open Inference Protocol: a name, a datatype, a shape, and values in JSON or in binary.

In binary, values are little-endian and row-major without gaps. In JSON, they are nested or flat lists, row-major.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fieldrepair_service import drops
from fieldrepair_service.errors import DecodeError
from fieldrepair_service.protocols.bodies import as_list, is_list

BYTES = "BYTES"
"""Text or anything else, each element of its own length: never numbers."""
_BF16 = "BF16"  # NumPy has none: the upper half of a float32
_NUMPY: dict[str, np.dtype[np.generic]] = {
    name: np.dtype(code)
    for name, code in {
        "BOOL": "?",
        "UINT8": "u1",
        "UINT16": "<u2",
        "UINT32": "<u4",
        "UINT64": "<u8",
        "INT8": "i1",
        "INT16": "<i2",
        "INT32": "<i4",
        "INT64": "<i8",
        "FP16": "<f2",
        "FP32": "<f4",
        "FP64": "<f8",
        _BF16: "<u2",
    }.items()
}
DATATYPES = (*_NUMPY, BYTES)
"""Every datatype there is."""
_MOST_AXES = 32  # NumPy's own limit


@dataclass(frozen=True)
class Tensor:
    """One tensor, its values not read yet."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    values: list[object] | bytes
    """From JSON, or in binary."""
    reason: str
    """What to count it under if the values are not what the description says."""

    @property
    def size(self) -> int:
        """How many values there should be."""
        return math.prod(self.shape)

    @classmethod
    def described_by(cls, fields: dict[str, object], binary: bytes | None, reason: str) -> Tensor:
        """A tensor of a message.

        Args:
            fields: its description in the JSON.
            binary: its values, if they are in the binary part.
            reason: what to count it under if it makes no sense.

        Raises:
            DecodeError: if it makes no sense.
        """
        name, datatype = fields.get("name"), fields.get("datatype")
        if not isinstance(name, str) or not isinstance(datatype, str) or datatype not in DATATYPES:
            raise DecodeError(f"a tensor {str(name)[:40]!r} of datatype {str(datatype)[:40]!r}", reason=reason)
        axes = [axis for axis in as_list(fields.get("shape"), reason) if type(axis) is int and axis >= 0]
        if len(axes) != len(as_list(fields["shape"], reason)) or len(axes) > _MOST_AXES:
            raise DecodeError(f"tensor {name[:40]!r} has shape {str(fields['shape'])[:80]}", reason=reason)
        values = as_list(fields.get("data"), reason) if binary is None else binary
        return cls(name, datatype, tuple(axes), values, reason)

    def to_array(self) -> npt.NDArray[np.generic]:
        """The values, in the shape and datatype they have; BF16 as float32, which holds each of its values.

        Raises:
            DecodeError: for BYTES, and for values that do not fit the description.
        """
        if self.datatype == BYTES:
            raise DecodeError(f"tensor {self.name[:40]!r} is of datatype BYTES", reason=drops.NOT_NUMERIC)
        flat = self._from_binary(self.values) if isinstance(self.values, bytes) else self._from_json(self.values)
        if flat.size != self.size:
            raise DecodeError(f"{flat.size} values for a tensor of shape {self.shape}", reason=self.reason)
        return flat.reshape(self.shape)

    def _from_binary(self, binary: bytes) -> npt.NDArray[np.generic]:
        kind = _NUMPY[self.datatype]
        if len(binary) != self.size * kind.itemsize:
            raise DecodeError(
                f"{len(binary)} bytes for a tensor of shape {self.shape} and datatype {self.datatype}",
                reason=self.reason,
            )
        if self.datatype == "BOOL":
            return np.frombuffer(binary, np.uint8) != 0  # a byte other than 0 and 1 must not become a third truth
        flat = np.frombuffer(binary, kind)
        if self.datatype == _BF16:
            return (flat.astype("<u4") << 16).view("<f4")
        return flat

    def _from_json(self, nested: list[object]) -> npt.NDArray[np.generic]:
        try:
            flat = np.asarray(nested, dtype=np.object_).ravel()
        except ValueError as error:
            raise DecodeError(f"the values do not all have the same shape: {error}", reason=drops.RAGGED) from error
        kinds: set[type] = set(map(type, flat.tolist()))
        if any(is_list(value) for value in flat.tolist() if list in kinds):
            raise DecodeError("the values do not all have the same shape", reason=drops.RAGGED)
        if not kinds <= {bool, int, float, type(None)}:
            names = ", ".join(sorted(kind.__name__ for kind in kinds))
            raise DecodeError(f"values of {self.datatype} are numbers, got {names}", reason=drops.NOT_NUMERIC)
        kind = np.dtype("<f4") if self.datatype == _BF16 else _NUMPY[self.datatype]
        if kind.kind == "f":
            return self._floats(flat, kind)
        if not kinds <= {bool, int}:
            raise DecodeError(f"values of {self.datatype} are whole numbers", reason=self.reason)
        lowest, highest = _limits(kind)
        if flat.size and not lowest <= min(flat.tolist()) <= max(flat.tolist()) <= highest:
            raise DecodeError(f"values of {self.datatype} lie in {lowest}..{highest}", reason=self.reason)
        return flat.astype(kind)

    def _floats(self, flat: npt.NDArray[np.object_], kind: np.dtype[np.generic]) -> npt.NDArray[np.generic]:
        """A missing value (null) counts as NaN, and what does not fit becomes an infinity, to be counted as such."""
        try:
            with np.errstate(over="ignore"):
                return flat.astype(np.float64).astype(kind)
        except OverflowError as error:
            raise DecodeError(f"a value is out of range: {error}", reason=self.reason) from error


def _limits(kind: np.dtype[np.generic]) -> tuple[int, int]:
    bits = 1 if kind.kind == "b" else 8 * kind.itemsize
    return (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if kind.kind == "i" else (0, (1 << bits) - 1)
