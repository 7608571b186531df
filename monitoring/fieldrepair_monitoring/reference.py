"""The reference set: a sample of the data a model version was trained and validated on, in served form."""

from __future__ import annotations

import zipfile
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from numpy.lib.npyio import NpzFile

from fieldrepair_monitoring.errors import ReferenceSetError

Inputs = npt.NDArray[np.generic]
IntArray = npt.NDArray[np.int64]

REQUIRED_ARRAYS = ("train_x", "train_y", "val_x", "val_y")
OPTIONAL_ARRAYS = ("train_world", "val_world", "normal_x", "normal_world")


def _no_ints() -> IntArray:
    return np.zeros(0, dtype=np.int64)


def _no_inputs() -> Inputs:
    return np.zeros(0, dtype=np.float32)


@dataclass(frozen=True)
class Reference:
    """What "normal" means for one model version, with labels.

    A **world** is one distribution the version was validated on. World 0 is the original one; a version that was
    repaired also knows the field data it was repaired for as world 1, and so on. The monitor stays calm as long as
    the field looks like any of them.

    Raises:
        ReferenceSetError: if the arrays do not fit together; the message says which, and what was expected.
    """

    train_x: Inputs
    """``(n, *served shape)``: what the version was trained on, as a client would send it."""
    train_y: IntArray
    """``(n,)`` class indices."""
    val_x: Inputs
    """``(v, *served shape)``: held-out inputs, never trained on."""
    val_y: IntArray
    """``(v,)`` class indices."""
    train_world: IntArray = field(default_factory=_no_ints)
    """``(n,)`` world of each training input. Left out: all of world 0."""
    val_world: IntArray = field(default_factory=_no_ints)
    """``(v,)`` world of each validation input. Left out: all of world 0."""
    normal_x: Inputs = field(default_factory=_no_inputs)
    """``(m, *served shape)`` unlabelled inputs of later worlds. Left out: there are none."""
    normal_world: IntArray = field(default_factory=_no_ints)
    """``(m,)`` world of each of them, all at least 1."""

    def __post_init__(self) -> None:
        train_x = _inputs("train_x", self.train_x)
        val_x = _inputs("val_x", self.val_x)
        shape = train_x.shape[1:]
        if val_x.shape[1:] != shape:
            raise ReferenceSetError(f"val_x holds instances of shape {val_x.shape[1:]}, train_x of shape {shape}")
        # An absent normal_x takes on the others' shape, so that the parts can always be put together.
        normal_x = _inputs("normal_x", self.normal_x) if len(self.normal_x) else np.zeros((0, *shape), train_x.dtype)
        if normal_x.shape[1:] != shape:
            raise ReferenceSetError(f"normal_x holds instances of shape {normal_x.shape[1:]}, train_x of shape {shape}")
        object.__setattr__(self, "train_x", train_x)
        object.__setattr__(self, "val_x", val_x)
        object.__setattr__(self, "normal_x", normal_x)
        for labels, inputs in (("train_y", "train_x"), ("val_y", "val_x")):
            checked = _whole_numbers(labels, getattr(self, labels), of=inputs, length=len(getattr(self, inputs)))
            object.__setattr__(self, labels, checked)
        for worlds, inputs in (("train_world", "train_x"), ("val_world", "val_x"), ("normal_world", "normal_x")):
            given: IntArray = getattr(self, worlds)
            length = len(getattr(self, inputs))
            if len(given) == 0 and worlds != "normal_world":
                given = np.zeros(length, dtype=np.int64)
            object.__setattr__(self, worlds, _whole_numbers(worlds, given, of=inputs, length=length))
        if len(self.normal_world) and int(self.normal_world.min()) < 1:
            raise ReferenceSetError(
                "normal_x is for inputs of later worlds, so normal_world must be at least 1, "
                f"got {int(self.normal_world.min())}"
            )
        self._check_worlds()

    def _check_worlds(self) -> None:
        known = self.worlds
        if known != tuple(range(len(known))):
            raise ReferenceSetError(f"worlds must be numbered 0, 1, 2, ... without gaps, got {list(known)}")

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one served instance."""
        return tuple(self.train_x.shape[1:])

    @property
    def worlds(self) -> tuple[int, ...]:
        """The worlds that have at least one input, ascending."""
        every = np.concatenate([self.train_world, self.val_world, self.normal_world])
        return tuple(int(world) for world in np.unique(every))

    def save_npz(self, path: Path) -> None:
        """Write all arrays to one compressed ``.npz`` file, which appears whole or not at all.

        Args:
            path: the file, ending in ``.npz``.
        """
        draft = path.with_name(f".{path.name}.part.npz")
        arrays: dict[str, Any] = {name: getattr(self, name) for name in (*REQUIRED_ARRAYS, *OPTIONAL_ARRAYS)}
        np.savez_compressed(draft, **arrays)
        draft.replace(path)

    @classmethod
    def load_npz(cls, path: Path) -> Reference:
        """Read a file written by :meth:`save_npz`, or one of your own with at least the four required arrays.

        Args:
            path: ``.npz`` with ``train_x, train_y, val_x, val_y``; the other arrays of this class are optional.

        Raises:
            ReferenceSetError: if the file is absent, is no ``.npz``, lacks an array, or the arrays do not fit.
        """
        arrays = read_arrays(path)
        try:
            return cls(**{name: arrays[name] for name in (*REQUIRED_ARRAYS, *OPTIONAL_ARRAYS) if name in arrays})
        except ReferenceSetError as error:
            raise ReferenceSetError(f"{path}: {error}") from error


def read_arrays(path: Path) -> dict[str, npt.NDArray[Any]]:
    """All arrays of a reference file, unchecked except that the required ones are there.

    Raises:
        ReferenceSetError: if the file is absent, is no ``.npz``, holds pickled objects, or lacks a required array.
    """
    try:
        # Opened here, so that it is closed also where NumPy finds it damaged.
        with path.open("rb") as stream:
            loaded: object = np.load(stream, allow_pickle=False)
            if not isinstance(loaded, NpzFile):
                raise ReferenceSetError(f"{path} is a single array (.npy); expected an .npz with {_listed()}")
            missing = [name for name in REQUIRED_ARRAYS if name not in loaded.files]
            if missing:
                raise ReferenceSetError(_missing(path, missing, list(loaded.files)))
            return {name: loaded[name] for name in loaded.files}
    except FileNotFoundError as error:
        raise ReferenceSetError(f"reference file {path} does not exist") from error
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ReferenceSetError(f"cannot read {path} as an .npz with {_listed()}: {error}") from error


def _missing(path: Path, missing: list[str], found: list[str]) -> str:
    labels = [name for name in missing if name.endswith("_y")]
    why = "; the reference set needs labels: the class index of each input" if labels else ""
    return f"{path} lacks {', '.join(missing)} (found: {', '.join(sorted(found)) or 'nothing'}){why}"


def _listed() -> str:
    return ", ".join(REQUIRED_ARRAYS)


def _inputs(name: str, values: npt.NDArray[Any]) -> Inputs:
    array = np.asarray(values)
    if array.ndim < 2 or array.size == 0:
        raise ReferenceSetError(f"{name} must be (n, *served shape) with n >= 1, got an array of shape {array.shape}")
    if array.dtype.kind not in "fiub":
        raise ReferenceSetError(f"{name} must hold numbers, got dtype {array.dtype}")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        bad = int(np.argmin(np.isfinite(array.reshape(len(array), -1)).all(axis=1)))
        raise ReferenceSetError(f"{name} must be finite, but instance {bad} holds NaN or infinity")
    return array


def _whole_numbers(name: str, values: npt.NDArray[Any], *, of: str, length: int) -> IntArray:
    array = np.asarray(values)
    if array.shape != (length,):
        raise ReferenceSetError(
            f"{name} must hold one whole number for each of the {length} instances of {of}, got shape {array.shape}"
        )
    if array.dtype.kind not in "iu" and length:
        raise ReferenceSetError(f"{name} must hold whole numbers, got dtype {array.dtype}")
    if length and int(array.min()) < 0:
        raise ReferenceSetError(f"{name} must not be negative, got {int(array.min())}")
    return array.astype(np.int64)
