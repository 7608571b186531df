"""The data of the benchmark of faulty trainings: each set cut into training, validation and sealed test part.

Sets of scikit-learn are always there; the others are read from the folder ``FIELDREPAIR_DATA``, from the parts of a
case that its model was built on (``train_*``, ``val_*``): nothing here is shifted.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from sklearn import datasets
from torch import Tensor

from fieldrepair_plugin.training_repair.data import TrialData

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class FaultData:
    """One set of data. The test part is looked at once per record, by the last measurement."""

    name: str
    trial: TrialData
    test_x: Tensor
    test_y: Tensor


def available(name: str) -> bool:
    """Whether the set's data is on this machine."""
    return name.split("_")[0] in _SKLEARN or _file(name) is not None


@lru_cache(maxsize=4)
def fault_data(name: str) -> FaultData:
    """A set by name.

    ``NAME_raw`` is the set unscaled, ``NAME_fractions`` the set with training labels divided by the highest class.
    """
    base, _, variant = name.partition("_")
    x, y, sizes = _images(base) if base in _CASES else _table(base)
    if variant == "raw":
        x = x.astype(np.float32)
    elif base in _CASES or base == "digits":
        x = (x / (255 if base in _CASES else 16)).astype(np.float32)
    elif base != "circles":
        train = x[: sizes[0]]
        x = ((x - train.mean(axis=0)) / train.std(axis=0)).astype(np.float32)
    if base in _CASES and variant != "raw":
        x = (x - 0.5) / 0.25 if base == "cifar10" else x
    tensor = torch.from_numpy(x.astype(np.float32))
    first, second = sizes[0], sizes[0] + sizes[1]
    classes = int(y.max()) + 1
    labels: Array = y[:first] / (classes - 1) if variant == "fractions" else y[:first]
    trial = TrialData(tensor[:first], labels, tensor[first:second], y[first:second], classes)
    return FaultData(name, trial, tensor[second:], torch.from_numpy(y[second:]))


_SKLEARN = ("digits", "wine", "cancer", "circles", "moons")
_CASES = {"mnist": "mnist_writers", "fashion": "fashion_rotated", "cifar10": "cifar10_lowcontrast"}
_SIZES = {"mnist": (320, 300, 2000), "fashion": (320, 300, 3000), "cifar10": (640, 300, 1000)}


def sealed_inputs(case: str) -> int:
    """Inputs of the sealed part of a set that is made from a benchmark case."""
    return _SIZES[case][2]


def _file(name: str) -> Path | None:
    folder = os.environ.get("FIELDREPAIR_DATA", "")
    base = name.split("_")[0]
    path = Path(folder) / f"{_CASES[base]}.npz" if folder and base in _CASES else None
    return path if path is not None and path.exists() else None


def _images(base: str) -> tuple[Array, Array, tuple[int, int]]:
    """Training and validation inputs from the case's ``train_*``, test inputs from its ``val_*``."""
    path = _file(base)
    if path is None:
        raise FileNotFoundError(f"{_CASES[base]}.npz: set FIELDREPAIR_DATA to the folder of benchmark cases")
    train, val, test = _SIZES[base]
    with np.load(path, allow_pickle=False) as file:
        order = np.random.default_rng(0).permutation(len(file["train_x"]))[: train + val]
        x = np.concatenate([file["train_x"][order], file["val_x"][:test]])
        y = np.concatenate([file["train_y"][order], file["val_y"][:test]]).astype(np.int64)
    if x.ndim == 4:
        return x.transpose(0, 3, 1, 2), y, (train, val)
    # 28x28 pixels averaged to 14x14: trainings of a fraction of a second are what this benchmark can afford.
    return x.reshape(len(x), 1, 14, 2, 14, 2).mean(axis=(3, 5)), y, (train, val)


def _table(base: str) -> tuple[Array, Array, tuple[int, int]]:
    library = cast(Any, datasets)  # typed in part only
    if base == "circles":
        x, y = cast("tuple[Array, Array]", library.make_circles(1600, noise=0.1, factor=0.5, random_state=0))
        return x, y.astype(np.int64), (300, 300)
    if base == "moons":
        x, y = cast("tuple[Array, Array]", library.make_moons(1600, noise=0.15, random_state=0))
        return x, y.astype(np.int64), (400, 300)
    load = {"digits": library.load_digits, "wine": library.load_wine, "cancer": library.load_breast_cancer}[base]
    x, y = cast("tuple[Array, Array]", load(return_X_y=True))
    order = np.random.default_rng(0).permutation(len(x))
    sizes = {"digits": (320, 300), "wine": (80, 40), "cancer": (250, 120)}[base]
    return x[order], y[order].astype(np.int64), sizes
