"""Records of measured repairs: what one holds, how a file of them is kept, and how much of the gap each closed."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, cast

from fieldrepair_service.errors import InputError

Key = tuple[str, str, str, int, int, str, int, int]


@dataclass(frozen=True)
class Record:
    """One measured repair. Accuracies are shares in 0..1."""

    case: str
    strategy: str
    recipe: str
    budget: int
    """Labels that could be asked for."""
    labels_used: int
    seed: int
    keep_reference: str
    rounds: int
    """Parts the budget was to be asked in."""
    epochs: int
    """The setting; a recipe may read it its own way."""
    field_before: float
    """On ``holdout_*``, which nothing else ever looks at."""
    field_after: float
    reference_before: float
    """On ``val_*``."""
    reference_after: float
    gap_recovered: float | None
    """(after - before) / (full - before), where ``full`` is the best the case's ``full`` runs reached with
    ``keep_reference=off`` (mean over seeds, best recipe); none where there is no such run."""
    propagation_accuracy: float | None
    """Share of propagated labels that are right; none where nothing was propagated."""
    kept_epoch: int
    forward_per_input: float
    """Inputs that passed forward through the network, per input of the pool; selection and training."""
    backward_per_input: float
    seconds: float
    """Selection and training, wall clock."""
    select_seconds: float
    peak_memory_bytes: int
    """Largest resident size of the run's own process, data and libraries included."""
    threads: int
    """PyTorch's, in this run."""
    device: str = "cpu"
    """What the repair ran on: ``cpu``, or the GPU's name."""

    @property
    def key(self) -> Key:
        """What makes it this run and no other."""
        return (
            self.case, self.strategy, self.recipe, self.budget, self.seed, self.keep_reference, self.rounds, self.epochs
        )  # fmt: skip


def read_records(path: Path) -> list[Record]:
    """Records of a file; none if there is no file.

    Raises:
        InputError: if it is not a file of records of this form.
    """
    if not path.exists():
        return []
    try:
        stored = cast("list[dict[str, Any]]", json.loads(path.read_text(encoding="utf-8")))
        return [Record(**each) for each in stored]
    except (ValueError, TypeError) as error:
        names = ", ".join(each.name for each in fields(Record))
        raise InputError(f"{path} is not a file of repair records ({names}): {error}") from error


def write_records(path: Path, records: Sequence[Record]) -> None:
    """Write all, with gaps computed anew; a reader sees the old file or the whole new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.part")
    draft.write_text(json.dumps([asdict(each) for each in with_gaps(records)], indent=1) + "\n", encoding="utf-8")
    draft.replace(path)


def with_gaps(records: Sequence[Record]) -> list[Record]:
    """The records with ``gap_recovered`` by the ``full`` runs among them."""
    ceilings = {case: ceiling(records, case) for case in {each.case for each in records}}
    return [replace(each, gap_recovered=_gap(each, ceilings[each.case])) for each in records]


def ceiling(records: Sequence[Record], case: str) -> float | None:
    """The best mean field accuracy that the case's ``full`` runs reached by one recipe, ``keep_reference=off``."""
    full = [each for each in records if (each.case, each.strategy, each.keep_reference) == (case, "full", "off")]
    by_recipe = [[each.field_after for each in full if each.recipe == name] for name in {each.recipe for each in full}]
    return max((mean(values) for values in by_recipe), default=None)


def mean(values: Sequence[float]) -> float:
    """The arithmetic mean; NaN of none."""
    return math.fsum(values) / len(values) if values else math.nan


def _gap(record: Record, full: float | None) -> float | None:
    if full is None or full <= record.field_before:
        return None
    return (record.field_after - record.field_before) / (full - record.field_before)
