"""A ``.npz`` file of arrays too large for memory: gathered piece by piece beside it, put together at the end."""

from __future__ import annotations

import shutil
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO

import numpy as np
import numpy.typing as npt
from typing_extensions import Self

from fieldrepair_service.errors import InputError

_COPY_BYTES = 1 << 20


@dataclass
class _Growing:
    stream: IO[bytes]
    dtype: np.dtype[np.generic]
    shape: tuple[int, ...]
    rows: int = 0


class ArrayFile:
    """Arrays by name, each the concatenation of what was added. Text is kept as UTF-8 and widened at the end."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._folder = tempfile.TemporaryDirectory(prefix=f".{path.name}-", dir=path.parent)
        self._arrays: dict[str, _Growing] = {}
        self._texts: dict[str, tuple[IO[str], list[int]]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._put_together()
        finally:
            for growing in self._arrays.values():
                growing.stream.close()
            for stream, _ in self._texts.values():
                stream.close()
            self._folder.cleanup()

    def add(self, name: str, values: npt.NDArray[np.generic]) -> None:
        """The next rows of an array.

        Raises:
            InputError: if they are not of the shape or dtype of those before.
        """
        growing = self._arrays.get(name)
        if growing is None:
            stream = (Path(self._folder.name) / name).open("w+b")
            growing = self._arrays[name] = _Growing(stream, values.dtype, values.shape[1:])
        if values.shape[1:] != growing.shape or values.dtype != growing.dtype:
            raise InputError(
                f"expected {name} of shape {growing.shape} and dtype {growing.dtype} in every row, "
                f"got {values.shape[1:]} and {values.dtype}"
            )
        growing.stream.write(np.ascontiguousarray(values).tobytes())
        growing.rows += len(values)

    def add_text(self, name: str, values: Sequence[str]) -> None:
        """The next rows of an array of text."""
        if name not in self._texts:
            path = Path(self._folder.name) / f"{name}.text"
            self._texts[name] = (path.open("w+", encoding="utf-8", newline="", errors="replace"), [0, 1])
        stream, size = self._texts[name]
        for value in values:
            line = value.replace("\r", " ").replace("\n", " ").replace("\0", " ")
            stream.write(line + "\n")
            size[0] += 1
            size[1] = max(size[1], len(line))

    def _put_together(self) -> None:
        with zipfile.ZipFile(self._path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
            for name, growing in self._arrays.items():
                growing.stream.seek(0)
                with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                    _begin(member, growing.dtype, (growing.rows, *growing.shape))
                    shutil.copyfileobj(growing.stream, member, _COPY_BYTES)
            for name, (stream, (rows, width)) in self._texts.items():
                stream.seek(0)
                dtype = np.dtype(f"<U{width}")
                with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                    _begin(member, dtype, (rows,))
                    for line in stream:
                        member.write(np.array([line.removesuffix("\n")], dtype=dtype).tobytes())


def _begin(member: IO[bytes], dtype: np.dtype[np.generic], shape: tuple[int, ...]) -> None:
    header: dict[str, object] = {"descr": dtype.str, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_2_0(member, header)
