"""Records of the benchmark of faulty trainings: what one holds, how a file of them is kept, what they add up to."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, cast

import numpy as np

from fieldrepair_plugin.training_repair.report import signed_ranks
from fieldrepair_service.errors import InputError

Key = tuple[str, str, int]


@dataclass(frozen=True)
class FaultRecord:
    """One search on one fault under one seed. Accuracies are shares of the sealed test part, in 0..1."""

    fault: str
    kind: str
    larger: bool
    strategy: str
    seed: int
    epochs: int
    """Spent by the search."""
    budget: int
    """That could be spent: 20 trainings of the correct version."""
    faulty: float
    repaired: float
    """Of the best trial by validation accuracy."""
    fixed: float
    """Of the correct version."""
    improvement_rate: float
    """(repaired - faulty) / (fixed - faulty), not clamped."""
    diagnosis: list[str]
    """What the doctor finds in the faulty version under this seed."""
    injected: str | None
    """What it should find; none where no problem of its list is meant."""
    healthy_diagnosis: list[str]
    """What it finds in the correct version: it should be nothing."""
    trials: int
    random_trials: int
    model_trials: int
    remedy_trials: int
    knobs: int
    effectively_random: bool
    seconds: float

    @property
    def key(self) -> Key:
        """What makes it this run and no other."""
        return self.fault, self.strategy, self.seed


def read_fault_records(path: Path) -> list[FaultRecord]:
    """Records of a file; none if there is no file.

    Raises:
        InputError: if it is not a file of such records.
    """
    if not path.exists():
        return []
    try:
        stored = cast("list[dict[str, Any]]", json.loads(path.read_text(encoding="utf-8")))
        return [FaultRecord(**each) for each in stored]
    except (ValueError, TypeError) as error:
        names = ", ".join(each.name for each in fields(FaultRecord))
        raise InputError(f"{path} is not a file of fault records ({names}): {error}") from error


def write_fault_records(path: Path, records: Sequence[FaultRecord]) -> None:
    """Write all; a reader sees the old file or the whole new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.part")
    draft.write_text(json.dumps([asdict(each) for each in records], indent=1) + "\n", encoding="utf-8")
    draft.replace(path)


@dataclass(frozen=True)
class Comparison:
    """One search against the random arm, on the runs that both have."""

    strategy: str
    runs: int
    """Pairs of fault and seed."""
    mean_rate: float
    random_rate: float
    p_runs: float | None
    """Wilcoxon's signed ranks, one-sided, over pairs; none where all are equal."""
    p_faults: float | None
    """The same over faults, each the mean of its seeds: more cautious, as seeds of one fault are not independent."""


def compare(records: Sequence[FaultRecord], strategy: str, arm: str = "random") -> Comparison | None:
    """Compare a search with an arm.

    Returns:
        None where they have no run in common.
    """
    own = {(each.fault, each.seed): each.improvement_rate for each in records if each.strategy == strategy}
    other = {(each.fault, each.seed): each.improvement_rate for each in records if each.strategy == arm}
    common = sorted(own.keys() & other.keys())
    if not common:
        return None
    gains = np.array([own[key] - other[key] for key in common])
    names = sorted({fault for fault, _ in common})
    means = np.array(
        [np.mean([gain for gain, key in zip(gains, common, strict=True) if key[0] == name]) for name in names]
    )
    return Comparison(
        strategy,
        len(common),
        float(np.mean([own[key] for key in common])),
        float(np.mean([other[key] for key in common])),
        signed_ranks(gains),
        signed_ranks(means),
    )


@dataclass(frozen=True)
class DoctorScore:
    """How often the doctor was right, over faults and seeds."""

    injected: int
    """Faulty versions with a problem that it should name."""
    named: int
    healthy: int
    """Correct versions."""
    false_alarms: int
    missed: tuple[str, ...]
    """``fault/seed: what it said``."""


def score_doctor(records: Sequence[FaultRecord]) -> DoctorScore:
    """Count each fault and seed once, whatever searches ran on it."""
    seen = {(each.fault, each.seed): each for each in records}
    meant = [each for each in seen.values() if each.injected is not None]
    missed = [each for each in meant if each.injected not in each.diagnosis]
    return DoctorScore(
        injected=len(meant),
        named=len(meant) - len(missed),
        healthy=len(seen),
        false_alarms=sum(bool(each.healthy_diagnosis) for each in seen.values()),
        missed=tuple(f"{each.fault}/{each.seed}: {', '.join(each.diagnosis) or 'nothing'}" for each in missed),
    )
