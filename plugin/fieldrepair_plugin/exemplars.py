"""Step 4: which inputs a person labels, and whom else each label speaks for."""

from __future__ import annotations

import os
import secrets
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fieldrepair_plugin.regions import Regions
from fieldrepair_plugin.repairable import FloatArray, IntArray
from fieldrepair_plugin.threshold import unit_rows
from fieldrepair_service.errors import InputError

FloatVector = npt.NDArray[np.float64]
Oracle = Callable[[IntArray], IntArray]
"""Answers pool indices ``(b,)`` with their classes ``(b,)``: a person, or in a benchmark the sealed labels."""


@dataclass(frozen=True)
class Selection:
    """What to ask, and what the answers will stand for. People answer later, so it can be saved."""

    exemplars: IntArray
    """``(b,)`` distinct pool indices, the most unsmooth region first."""
    regions: list[IntArray]
    """For each exemplar the pool indices of its region, itself included; no index is in two."""
    unsmoothness: FloatVector
    """``(n,)`` of every pool input, by the model before repair."""
    tau: float
    """Unsmoothness up to which an unlabelled input takes part in training."""

    def save(self, path: Path) -> None:
        """Write as ``.npz``; a reader sees the old file or the whole new one."""
        draft = path.with_name(f".{path.name}-{secrets.token_hex(4)}")
        try:
            with draft.open("wb") as stream:
                np.savez_compressed(
                    stream,
                    exemplars=self.exemplars,
                    members=np.concatenate([np.empty(0, dtype=np.int64), *self.regions]),
                    sizes=np.array([len(region) for region in self.regions], dtype=np.int64),
                    unsmoothness=self.unsmoothness,
                    tau=np.float64(self.tau),
                )
                stream.flush()
                os.fsync(stream.fileno())
            draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)

    @classmethod
    def load(cls, path: Path) -> Selection:
        """Read what :meth:`save` wrote.

        Raises:
            InputError: if there is no such file, or it is not a saved selection.
        """
        try:
            with path.open("rb") as stream, np.load(stream, allow_pickle=False) as stored:
                cuts = np.cumsum(stored["sizes"])[:-1]
                regions = np.split(stored["members"], cuts) if len(stored["sizes"]) else []
                return cls(stored["exemplars"], list(regions), stored["unsmoothness"], float(stored["tau"]))
        except FileNotFoundError as error:
            raise InputError(f"there is no selection at {path}") from error
        except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
            raise InputError(f"{path} is not a saved selection: {error}") from error


def choose_exemplars(
    regions: Regions, embeddings: FloatArray, unsmoothness: FloatVector, budget: int
) -> tuple[IntArray, list[IntArray]]:
    """One exemplar for each of the ``budget`` regions with the largest total unsmoothness.

    Where there are fewer regions than labels, the rest of the budget goes one by one to the most unsmooth inputs that
    are nobody's exemplar, noise first; each becomes a region of its own, so its label is not propagated.

    Args:
        regions: from :func:`fieldrepair_plugin.regions.find_regions`.
        embeddings: ``(n, dimensions)``, the ones the regions were found in.
        unsmoothness: ``(n,)``.
        budget: 1..n.

    Returns:
        ``(budget,)`` distinct pool indices and their regions.

    Raises:
        InputError: if the budget is not in 1..n.
    """
    check_budget(budget, len(unsmoothness))
    unit = unit_rows(embeddings)
    totals = np.array([unsmoothness[part].sum() for part in regions.members], dtype=np.float64)
    ranked = np.argsort(-totals, kind="stable")[:budget]
    chosen: list[IntArray] = [regions.members[int(rank)] for rank in ranked]
    exemplars = [
        int(part[np.argmin(np.linalg.norm(unit[part] - regions.centres[rank], axis=1))])
        for rank, part in zip(ranked, chosen, strict=True)
    ]
    missing = budget - len(exemplars)
    if missing > 0:
        grouped = np.setdiff1d(np.arange(len(unsmoothness)), np.concatenate([regions.noise, exemplars]))
        singles = [*_most_unsmooth(regions.noise, unsmoothness), *_most_unsmooth(grouped, unsmoothness)][:missing]
        chosen = [np.setdiff1d(part, singles) for part in chosen] + [np.array([single]) for single in singles]
        exemplars += singles
    return np.array(exemplars, dtype=np.int64), [part.astype(np.int64) for part in chosen]


def propagate(selection: Selection, labels: Mapping[int, int]) -> tuple[IntArray, IntArray]:
    """Give every member of a region its exemplar's label. A region whose exemplar has no label gets none.

    Args:
        selection: exemplars and regions.
        labels: exemplar's pool index -> class.

    Returns:
        Pool indices ``(m,)`` and their classes ``(m,)``, in the order of the exemplars.

    Raises:
        InputError: for a label of something that is not an exemplar, a class below 0, or no labels at all.
    """
    strangers = sorted(set(labels) - {int(index) for index in selection.exemplars})
    if strangers:
        raise InputError(f"expected labels for exemplars only, got labels for pool inputs {strangers[:5]}")
    if not labels:
        raise InputError(f"need at least 1 label to repair, got 0 for {len(selection.exemplars)} exemplars")
    indices: list[IntArray] = []
    classes: list[IntArray] = []
    for exemplar, region in zip(selection.exemplars, selection.regions, strict=True):
        label = labels.get(int(exemplar))
        if label is None:
            continue
        if label < 0:
            raise InputError(f"expected class numbers from 0, got {label} for pool input {int(exemplar)}")
        indices.append(region)
        classes.append(np.full(len(region), label, dtype=np.int64))
    return np.concatenate(indices), np.concatenate(classes)


@dataclass
class BudgetedOracle:
    """Known labels that are given out at most ``budget`` times, and counted: the benchmarks' stand-in for a person."""

    labels: IntArray
    """``(n,)`` class of every pool input."""
    budget: int
    asked: int = 0
    """Labels given so far."""

    def __call__(self, indices: IntArray) -> IntArray:
        """Classes of ``indices``.

        Raises:
            InputError: if that would exceed the budget; nothing is counted then.
        """
        if self.asked + len(indices) > self.budget:
            raise InputError(
                f"the budget is {self.budget} labels, {self.asked} were given, {len(indices)} more were asked for"
            )
        self.asked += len(indices)
        return self.labels[indices].astype(np.int64)


def check_budget(budget: int, pool_size: int) -> None:
    """Refuse a budget that cannot be spent.

    Raises:
        InputError: if it is not in 1..pool_size.
    """
    if not 1 <= budget <= pool_size:
        raise InputError(f"expected a budget of 1..{pool_size} labels (the pool's size), got {budget}")


def _most_unsmooth(indices: IntArray, unsmoothness: FloatVector) -> list[int]:
    return [int(index) for index in indices[np.argsort(-unsmoothness[indices], kind="stable")]]
