"""Cells under a microscope: scikit-learn's breast cancer data, 569 real rows of 30 measurements, and a wrong scale."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from sklearn.datasets import load_breast_cancer

Rows = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]

SCALE = 0.65
"""What the new microscope reports for a length of 1."""


@dataclass(frozen=True)
class Part:
    """Some of the rows."""

    rows: Rows
    """``(n, 30)``."""
    labels: Labels
    """``(n,)`` 0 = malignant, 1 = benign."""


def feature_names() -> tuple[str, ...]:
    """Names of the measurements, in order."""
    return tuple(map(str, load_breast_cancer().feature_names))


def split_rows() -> dict[str, Part]:
    """Four parts that share no row: ``train`` 200, ``validation`` 129, ``before`` 60 and ``after`` 180."""
    found = load_breast_cancer()
    order = np.random.default_rng(0).permutation(len(found.target))
    rows, labels = np.asarray(found.data, np.float32)[order], np.asarray(found.target, np.int64)[order]
    ends = np.cumsum([200, 129, 60, 180])
    names = ("train", "validation", "before", "after")
    return {
        name: Part(rows[start:end], labels[start:end])
        for name, start, end in zip(names, [0, *ends[:-1]], ends, strict=True)
    }


def rescaled(rows: Rows) -> Rows:
    """What a microscope reports whose scale is set a third too small: lengths shrink by it, areas by its square."""
    changed = rows.copy()
    for column, name in enumerate(feature_names()):
        if "radius" in name or "perimeter" in name:
            changed[:, column] *= SCALE
        elif "area" in name:
            changed[:, column] *= SCALE**2
    return changed
