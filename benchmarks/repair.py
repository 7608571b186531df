"""How much a repair recovers, on benchmark cases: ``python -m benchmarks.repair CASE.npz ... --json FILE``.

For each case, budget and seed: exemplars are chosen from the field pool, an oracle labels exactly those, a copy of the
model is trained, and each ``--keep-reference`` setting is measured on the sealed holdout and on the validation set.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from benchmarks.case import BenchmarkCase, Part, load_case
from fieldrepair_plugin.exemplars import BudgetedOracle, Selection
from fieldrepair_plugin.hybrid import HybridSettings, TrainingSet, select_exemplars, train
from fieldrepair_plugin.interpolation import KeepReference, interpolate
from fieldrepair_service.errors import InputError


@dataclass(frozen=True)
class Record:
    """One measured repair. Accuracies are shares in 0..1."""

    case: str
    strategy: str
    recipe: str
    budget: int
    labels_used: int
    seed: int
    keep_reference: str
    field_before: float
    field_after: float
    reference_before: float
    reference_after: float
    propagation_accuracy: float
    """Share of propagated labels that are right; the exemplars themselves are not counted."""
    kept_epoch: int
    seconds: float
    """Selection and training, wall clock."""
    peak_memory_bytes: int
    """Largest resident size of the process so far."""


def measure(
    case: BenchmarkCase, budget: int, seed: int, keeps: Sequence[KeepReference], settings: HybridSettings
) -> list[Record]:
    """Repair once, and measure each way of keeping the old world."""
    pool, reference = case.parts["field"], TrainingSet(case.parts["train"].x, case.parts["train"].y)
    oracle = BudgetedOracle(pool.y, budget)
    started = time.perf_counter()
    selection = select_exemplars(case.model, reference, pool.x, budget, settings)
    answers = oracle(selection.exemplars)
    labels = {int(index): int(label) for index, label in zip(selection.exemplars, answers, strict=True)}
    result = train(case.model, reference, pool.x, selection, labels, settings)
    seconds = time.perf_counter() - started
    records: list[Record] = []
    for keep in keeps:
        repaired = interpolate(case.model.module, result.module, keep.weight)
        records.append(
            Record(
                case=case.name,
                strategy="hybridrepair",
                recipe=settings.recipe,
                budget=budget,
                labels_used=oracle.asked,
                seed=seed,
                keep_reference=keep.value,
                field_before=accuracy(case.model.module, case.parts["holdout"]),
                field_after=accuracy(repaired, case.parts["holdout"]),
                reference_before=accuracy(case.model.module, case.parts["val"]),
                reference_after=accuracy(repaired, case.parts["val"]),
                propagation_accuracy=propagation_accuracy(selection, pool),
                kept_epoch=result.kept_epoch,
                seconds=seconds,
                peak_memory_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
            )
        )
    return records


@torch.no_grad()
def accuracy(network: nn.Module, part: Part) -> float:
    """Share of the part that the network gets right, in 0..1."""
    network.eval()
    inputs = torch.from_numpy(part.x)
    answers = [network(inputs[at : at + 512]).argmax(dim=1) for at in range(0, len(part), 512)]
    return float((torch.cat(answers).numpy() == part.y).mean())


def propagation_accuracy(selection: Selection, pool: Part) -> float:
    """Share of propagated labels that are right; NaN where nothing was propagated."""
    right: list[bool] = []
    for exemplar, region in zip(selection.exemplars, selection.regions, strict=True):
        others = region[region != exemplar]
        right += (pool.y[others] == pool.y[exemplar]).tolist()
    return float(np.mean(right)) if right else float("nan")


def parse_budget(text: str, pool: int) -> int:
    """``5%`` of the pool, or a number of labels."""
    count = round(float(text[:-1]) / 100 * pool) if text.endswith("%") else int(text)
    if not 1 <= count <= pool:
        raise InputError(f"expected a budget of 1..{pool} labels or a percentage, got {text}")
    return count


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; see the module's docstring."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.repair", description=__doc__)
    parser.add_argument("cases", nargs="+", type=Path, metavar="CASE.npz")
    parser.add_argument("--recipe", default="paper", choices=["paper"])
    parser.add_argument("--budget", default="5%", help="comma-separated: percentages of the pool, or numbers")
    parser.add_argument("--seed", default="0", help="comma-separated")
    parser.add_argument("--keep-reference", default="strict,off", help="comma-separated: strict, balanced, off")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--json", type=Path, help="write one record per measured repair")
    parser.add_argument("--models", type=Path, default=Path("build/benchmarks"), help="keeps models it had to train")
    options = parser.parse_args(arguments)
    keeps = [KeepReference(word) for word in options.keep_reference.split(",")]
    console = Console()
    records: list[Record] = []
    for path in options.cases:
        case = load_case(path, options.models)
        for budget in options.budget.split(","):
            for seed in (int(word) for word in options.seed.split(",")):
                settings = HybridSettings(recipe=options.recipe, seed=seed, epochs=options.epochs)
                count = parse_budget(budget, len(case.parts["field"]))
                console.print(f"{case.name}: {count} labels, seed {seed} ...")
                records += measure(case, count, seed, keeps, settings)
                if options.json:
                    # After every repair: a run that is interrupted keeps what it has measured.
                    options.json.parent.mkdir(parents=True, exist_ok=True)
                    options.json.write_text(json.dumps([asdict(record) for record in records], indent=2) + "\n")
    console.print(_table(records))
    return 0


def _table(records: Sequence[Record]) -> Table:
    table = Table("case", "recipe", "labels", "seed", "keep", "field", "reference", "propagated right", "seconds")
    for record in records:
        table.add_row(
            record.case,
            record.recipe,
            str(record.labels_used),
            str(record.seed),
            record.keep_reference,
            f"{100 * record.field_before:.1f} -> {100 * record.field_after:.1f}",
            f"{100 * record.reference_before:.1f} -> {100 * record.reference_after:.1f}",
            f"{100 * record.propagation_accuracy:.1f} %",
            f"{record.seconds:.0f}",
        )
    return table


if __name__ == "__main__":
    sys.exit(main())
