"""Step 4: which inputs a person labels, and whom else each label speaks for."""

from __future__ import annotations

import os
import secrets
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fieldrepair_plugin.regions import Regions
from fieldrepair_plugin.repairable import FloatArray, IntArray
from fieldrepair_plugin.threshold import unit_rows
from fieldrepair_service.errors import InputError

FloatVector = npt.NDArray[np.float64]
Oracle = Callable[[IntArray], IntArray]
"""Answers pool indices ``(b,)`` with their classes ``(b,)``, or :data:`NONE_OF_THESE`: a person, or in a benchmark the
sealed labels."""
NONE_OF_THESE = -1
"""The answer for an input of a class that the model does not have. It is reported, and never forced into a class."""


def _none() -> IntArray:
    return np.empty(0, dtype=np.int64)


@dataclass(frozen=True)
class Selection:
    """What to ask, and what the answers will stand for. People answer later, so it can be saved."""

    exemplars: IntArray
    """``(b,)`` distinct pool indices to ask about, the most important first."""
    regions: list[IntArray]
    """For each exemplar the pool indices it speaks for, itself included; no index is in two."""
    unsmoothness: FloatVector
    """``(n,)`` of every pool input, by the model before repair."""
    tau: float
    """Unsmoothness up to which an unlabelled input takes part in training."""
    known: IntArray = field(default_factory=_none)
    """``(k,)`` pool indices whose labels existed before; nobody is asked about them."""
    known_regions: list[IntArray] = field(default_factory=list[IntArray])
    """For each known input the pool indices it speaks for, itself included; empty where each speaks for itself only."""
    strategy: str = "hybridrepair"
    """Who chose; the same one trains."""
    recipe: str = "paper"
    """The strategy's recipe."""

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
                    known=self.known,
                    known_members=np.concatenate([_none(), *self.known_regions]),
                    known_sizes=np.array([len(region) for region in self.known_regions], dtype=np.int64),
                    strategy=np.str_(self.strategy),
                    recipe=np.str_(self.recipe),
                )
                stream.flush()
                os.fsync(stream.fileno())
            draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)

    @property
    def voices(self) -> list[tuple[int, IntArray]]:
        """Everyone whose label counts, and for whom: the exemplars, then the known."""
        alone = [self.known[at : at + 1] for at in range(len(self.known))]
        pairs = [*zip(self.exemplars, self.regions, strict=True)]
        pairs += zip(self.known, self.known_regions or alone, strict=True)
        return [(int(index), region) for index, region in pairs]

    @classmethod
    def load(cls, path: Path) -> Selection:
        """Read what :meth:`save` wrote.

        Raises:
            InputError: if there is no such file, or it is not a saved selection.
        """
        try:
            with path.open("rb") as stream, np.load(stream, allow_pickle=False) as stored:
                regions = _cut(stored["members"], stored["sizes"])
                selection = cls(stored["exemplars"], regions, stored["unsmoothness"], float(stored["tau"]))
                if "strategy" not in stored.files:  # written before there were strategies: a case that was open then
                    return selection
                return replace(
                    selection,
                    known=stored["known"],
                    known_regions=_cut(stored["known_members"], stored["known_sizes"]),
                    strategy=str(stored["strategy"]),
                    recipe=str(stored["recipe"]),
                )
        except FileNotFoundError as error:
            raise InputError(f"there is no selection at {path}") from error
        except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
            raise InputError(f"{path} is not a saved selection: {error}") from error


def choose_exemplars(
    regions: Regions,
    embeddings: FloatArray,
    unsmoothness: FloatVector,
    budget: int,
    known: IntArray | None = None,
) -> tuple[IntArray, list[IntArray]]:
    """One exemplar for each of the ``budget`` regions with the largest total unsmoothness.

    Where there are fewer regions than labels, the rest of the budget goes one by one to the most unsmooth inputs that
    are nobody's exemplar, noise first; each becomes a region of its own, so its label is not propagated.

    Args:
        regions: from :func:`fieldrepair_plugin.regions.find_regions`.
        embeddings: ``(n, dimensions)``, the ones the regions were found in.
        unsmoothness: ``(n,)``.
        budget: 1..n, less the known.
        known: pool indices nobody is asked about; in no region.

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
        taken = np.concatenate([regions.noise, exemplars, _none() if known is None else known])
        grouped = np.setdiff1d(np.arange(len(unsmoothness)), taken)
        singles = [*_most_unsmooth(regions.noise, unsmoothness), *_most_unsmooth(grouped, unsmoothness)][:missing]
        chosen = [np.setdiff1d(part, singles) for part in chosen] + [np.array([single]) for single in singles]
        exemplars += singles
    return np.array(exemplars, dtype=np.int64), [part.astype(np.int64) for part in chosen]


def propagate(selection: Selection, labels: Mapping[int, int]) -> tuple[IntArray, IntArray]:
    """Give every member of a region its exemplar's label. A region whose exemplar has no label gets none.

    Args:
        selection: exemplars, regions, and what was known before.
        labels: pool index of an exemplar, or of a known input -> class or :data:`NONE_OF_THESE`. An input with a label
            keeps it, in whosever region it lies.

    Returns:
        Pool indices ``(m,)`` and their classes ``(m,)``, in the order of the exemplars, then the known. None of them
        has the class :data:`NONE_OF_THESE`.

    Raises:
        InputError: for a label of something that is neither, a class below 0, or no class at all.
    """
    known = {int(index) for index in selection.known}
    strangers = sorted(set(labels) - {int(index) for index in selection.exemplars} - known)
    if strangers:
        raise InputError(f"expected labels for exemplars only, got labels for pool inputs {strangers[:5]}")
    for index, label in labels.items():
        if label < NONE_OF_THESE:
            raise InputError(f"expected class numbers from 0, got {label} for pool input {index}")
    if not any(label >= 0 for label in labels.values()):
        raise InputError(
            f"need at least 1 label to repair, got 0 for {len(selection.exemplars)} exemplars "
            f"({len(labels)} of them answered with none of the model's classes)"
        )
    propagated: dict[int, int] = {}
    for index, region in selection.voices:
        label = labels.get(index, NONE_OF_THESE)
        if label != NONE_OF_THESE:
            propagated.update((int(member), label) for member in region if int(member) not in labels)
            propagated[index] = label
    return np.array(list(propagated), dtype=np.int64), np.array(list(propagated.values()), dtype=np.int64)


def outside_classes(selection: Selection, labels: Mapping[int, int]) -> tuple[IntArray, IntArray]:
    """Inputs of a class the model does not have.

    Returns:
        Pool indices people answered :data:`NONE_OF_THESE` for, and all that those answers speak for (themselves
        included): nothing is to be learned from the model's own answers there.
    """
    answered = sorted(index for index, label in labels.items() if label == NONE_OF_THESE)
    regions = [region for index, region in selection.voices if labels.get(index) == NONE_OF_THESE]
    covered = np.unique(np.concatenate([np.array(answered, dtype=np.int64), *regions])).astype(np.int64)
    classed = np.array([index for index, label in labels.items() if label >= 0], dtype=np.int64)
    return np.array(answered, dtype=np.int64), np.setdiff1d(covered, classed)


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


def check_budget(budget: int, askable: int) -> None:
    """Refuse a budget that cannot be spent.

    Raises:
        InputError: if it is not in 1..askable, the inputs of the pool without a known label.
    """
    if not 1 <= budget <= askable:
        raise InputError(f"expected a budget of 1..{askable} labels (the pool's size, less known labels), got {budget}")


def _cut(members: IntArray, sizes: IntArray) -> list[IntArray]:
    return list(np.split(members, np.cumsum(sizes)[:-1])) if len(sizes) else []


def _most_unsmooth(indices: IntArray, unsmoothness: FloatVector) -> list[int]:
    return [int(index) for index in indices[np.argsort(-unsmoothness[indices], kind="stable")]]
