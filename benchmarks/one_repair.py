"""One repair, measured in a process of its own, so that its peak memory is its own.

Started by :mod:`benchmarks.repair`; reads a request from standard input and writes its records to a file.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from benchmarks.case import BenchmarkCase, Part, load_case
from benchmarks.pass_counter import counted_passes
from benchmarks.records import Record
from fieldrepair_plugin.exemplars import BudgetedOracle, Selection, propagate
from fieldrepair_plugin.keeping import keep_reference
from fieldrepair_plugin.progress import Progress, ProgressEvent
from fieldrepair_plugin.recipe import HybridSettings
from fieldrepair_plugin.repairable import RepairableModel, Served, TrainingSet
from fieldrepair_plugin.strategies import Labels, RoundSettings, Strategy, repair, strategy_named
from fieldrepair_plugin.training import RepairResult
from fieldrepair_service.errors import InputError


@dataclass(frozen=True)
class Request:
    """What to measure."""

    case: str
    """The case's ``.npz``."""
    models: str
    """Where models are kept that had to be trained."""
    strategy: str
    recipe: str
    budget: int
    seed: int
    keeps: list[str]
    """Settings of ``keep_reference``. Where they only interpolate, one training serves all."""
    rounds: int
    epochs: int
    device: str = "cpu"
    """PyTorch device to repair and to measure on."""


class Watched:
    """A strategy that remembers its last selection and how long selecting took."""

    def __init__(self, inner: Strategy) -> None:
        self._inner = inner
        self.name = inner.name
        self.recipes = inner.recipes
        self.labels_wanted = inner.labels_wanted
        self.selection: Selection | None = None
        self.labels: Labels = {}
        self.select_seconds = 0.0

    def select(
        self,
        model: RepairableModel,
        reference: TrainingSet,
        pool: Served,
        budget: int,
        settings: HybridSettings,
        *,
        known: Labels | None = None,
        progress: Progress | None = None,
    ) -> Selection:
        """As the strategy does."""
        started = time.perf_counter()
        self.selection = self._inner.select(model, reference, pool, budget, settings, known=known, progress=progress)
        self.select_seconds += time.perf_counter() - started
        return self.selection

    def train(
        self,
        model: RepairableModel,
        reference: TrainingSet,
        pool: Served,
        selection: Selection,
        labels: Labels,
        settings: HybridSettings,
        *,
        progress: Progress | None = None,
        checkpoint: Path | None = None,
    ) -> RepairResult:
        """As the strategy does."""
        self.labels = labels
        return self._inner.train(
            model, reference, pool, selection, labels, settings, progress=progress, checkpoint=checkpoint
        )


def measure(case: BenchmarkCase, request: Request) -> list[Record]:
    """Repair, and measure each way of keeping the old world."""
    pool = case.parts["field"]
    case.model.module.to(request.device)
    strategy = Watched(strategy_named(request.strategy))
    budget = len(pool) if request.strategy == "full" else request.budget
    oracle = BudgetedOracle(pool.y, budget)
    first = request.keeps[0] if len(request.keeps) == 1 else "off"
    settings = HybridSettings(
        recipe=request.recipe,  # type: ignore[arg-type]  # checked by pydantic
        seed=request.seed,
        epochs=request.epochs,
        keep_reference=first,  # type: ignore[arg-type]
    )
    started = time.perf_counter()
    with counted_passes(case.model.module) as passes:
        result = repair(
            case.model,
            TrainingSet(case.parts["train"].x, case.parts["train"].y),
            pool.x,
            oracle,
            budget,
            settings,
            strategy=strategy,
            rounds=RoundSettings(rounds=request.rounds),
            progress=_tell,
        )
    seconds = time.perf_counter() - started
    forward, backward = passes.forward / len(pool), passes.backward / len(pool)  # the copies go on counting
    before = {part: accuracy(case.model.module, case.parts[part]) for part in ("holdout", "val")}
    if strategy.selection is None:
        raise InputError(f"strategy {request.strategy} selected nothing")
    records: list[Record] = []
    for keep in request.keeps:
        kept = result if keep == first else keep_reference(case.model.module, result, keep)  # type: ignore[arg-type]
        records.append(
            Record(
                case=case.name,
                strategy=request.strategy,
                recipe=request.recipe,
                budget=request.budget,
                labels_used=oracle.asked,
                seed=request.seed,
                keep_reference=keep,
                rounds=request.rounds,
                epochs=request.epochs,
                field_before=before["holdout"],
                field_after=accuracy(kept.module, case.parts["holdout"]),
                reference_before=before["val"],
                reference_after=accuracy(kept.module, case.parts["val"]),
                gap_recovered=None,
                propagation_accuracy=propagation_accuracy(strategy.selection, strategy.labels, pool),
                kept_epoch=result.kept_epoch,
                forward_per_input=forward,
                backward_per_input=backward,
                seconds=seconds,
                select_seconds=strategy.select_seconds,
                peak_memory_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
                threads=torch.get_num_threads(),
                device=_device_name(request.device),
            )
        )
    return records


@torch.no_grad()
def accuracy(network: nn.Module, part: Part) -> float:
    """Share of the part that the network gets right, in 0..1."""
    network.eval()
    inputs = torch.from_numpy(part.x)
    device = next(network.parameters()).device
    answers = [network(inputs[at : at + 512].to(device)).argmax(dim=1).cpu() for at in range(0, len(part), 512)]
    return float((torch.cat(answers).numpy() == part.y).mean())


def propagation_accuracy(selection: Selection, labels: Labels, pool: Part) -> float | None:
    """Share of propagated labels that are right, of what the selection's regions would propagate."""
    if not any(label >= 0 for label in labels.values()):
        return None
    indices, classes = propagate(selection, labels)
    others = ~np.isin(indices, list(labels))
    return float((pool.y[indices[others]] == classes[others]).mean()) if others.any() else None


def _device_name(device: str) -> str:
    return torch.cuda.get_device_name(device) if device.startswith("cuda") else device


def _tell(event: ProgressEvent) -> None:
    if event.stage in ("training", "rounds"):
        values = ", ".join(f"{name} {value:.4g}" for name, value in event.metrics.items())
        print(f"  {event.stage} {event.done}/{event.total}: {values}", file=sys.stderr, flush=True)


def main(arguments: Sequence[str]) -> int:
    """Measure the request on standard input; the one argument is the file for the records."""
    request = Request(**json.load(sys.stdin))
    records = measure(load_case(Path(request.case), Path(request.models)), request)
    Path(arguments[0]).write_text(json.dumps([asdict(each) for each in records]), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
