"""What each idea of the default recipe is worth: ``python -m benchmarks.ablation CASE.npz ... --json FILE``.

Each variant changes one thing. Accuracy is measured on a random part of the field pool that no label was asked for
(``--part dev``: benchmark-development labels, to choose between variants by; inputs of it take part in training without
their labels), or on the sealed holdout (``--part holdout``: to report, never to choose by).
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from benchmarks.case import BenchmarkCase, Part, load_case
from benchmarks.one_repair import accuracy
from fieldrepair_plugin.default_recipe import select_default, train_default
from fieldrepair_plugin.default_settings import DefaultSettings, Keeping
from fieldrepair_plugin.exemplars import BudgetedOracle
from fieldrepair_plugin.hybrid import HybridSettings, TrainingSet

DEV_INPUTS = 1500
"""Inputs of the pool whose labels choose between variants, less those that a variant asked for."""


def variants() -> dict[str, DefaultSettings]:
    """Each differs from the default in one idea."""
    own = DefaultSettings()

    def keeping(
        *, shared: bool | None = None, weight: float | None = None, share: float | None = None
    ) -> DefaultSettings:
        def changed(each: Keeping) -> Keeping:
            return Keeping(
                each.shared_statistics if shared is None else shared,
                each.weight if weight is None else weight,
                each.reference_share if share is None else share,
            )

        return replace(own, strict=changed(own.strict), balanced=changed(own.balanced), off=changed(own.off))

    return {
        "default": own,
        "random labels": replace(own, selection="random"),
        "no adaptation before selection": replace(own, adapt_before_selection=False),
        "labels only": replace(own, unlabelled_batch=0, unlabelled_batch_without_batch_norm=0),
        "no replay": replace(own, replay_batch=0),
        "weak views only": replace(own, strong_views=False),
        "replay without the field's look": replace(own, replay_field_look=False),
        "replay without the field's pose": replace(own, replay_field_pose=False),
        "replay towards labels only": replace(own, replay_old_answers=0.0),
        "class shares not looked at": replace(own, class_chance=0.0),
        "more steps for a small pool": replace(own, steps_least=2 * own.steps_least),
        "confident targets": replace(own, targets="confident"),
        "teacher is the average": replace(own, teacher_weight=1.0),
        "no average of weights": replace(own, average=0.0),
        "a tenth of the learning rate": replace(
            own,
            learning_rate=own.learning_rate / 10,
            learning_rate_without_batch_norm=own.learning_rate_without_batch_norm / 10,
        ),
        "trained weights as they are": keeping(weight=1.0),
        "statistics by setting": replace(own, labels_choose_statistics=False),
        "shared statistics": keeping(shared=True),
        "statistics apart": keeping(shared=False),
    }


@dataclass(frozen=True)
class Trial:
    """One measured variant. Accuracies are shares in 0..1."""

    case: str
    variant: str
    budget: int
    seed: int
    keep_reference: str
    part: str
    inputs: int
    """Measured on so many field inputs."""
    field_before: float
    field_after: float
    reference_before: float
    reference_after: float
    seconds: float
    peak_memory_bytes: int
    """Largest resident size of the process so far."""
    threads: int


def measure(
    case: BenchmarkCase,
    name: str,
    own: DefaultSettings,
    budget: int,
    seed: int,
    keep: Literal["strict", "balanced", "off"],
    parts: Sequence[str],
    epochs: int,
) -> list[Trial]:
    """Repair by one variant, and measure it on each part."""
    pool, reference = case.parts["field"], TrainingSet(case.parts["train"].x, case.parts["train"].y)
    settings = HybridSettings(recipe="default", keep_reference=keep, seed=seed, epochs=epochs)
    oracle = BudgetedOracle(pool.y, budget)
    started = time.perf_counter()
    selection = select_default(case.model, reference, pool.x, budget, settings, own=own)
    answers = oracle(selection.exemplars)
    labels = {int(index): int(label) for index, label in zip(selection.exemplars, answers, strict=True)}
    result = train_default(case.model, reference, pool.x, selection, labels, settings, own=own)
    seconds = time.perf_counter() - started
    drawn = np.random.default_rng(999).permutation(len(pool))[:DEV_INPUTS]
    unseen = np.setdiff1d(drawn, selection.exemplars)
    judged = {"dev": Part(pool.x[unseen], pool.y[unseen]), "holdout": case.parts["holdout"]}
    return [
        Trial(
            case=case.name,
            variant=name,
            budget=budget,
            seed=seed,
            keep_reference=keep,
            part=part,
            inputs=len(judged[part]),
            field_before=accuracy(case.model.module, judged[part]),
            field_after=accuracy(result.module, judged[part]),
            reference_before=accuracy(case.model.module, case.parts["val"]),
            reference_after=accuracy(result.module, case.parts["val"]),
            seconds=seconds,
            peak_memory_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
            threads=torch.get_num_threads(),
        )
        for part in parts
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the ablation; see the module's docstring."""
    known = variants()
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ablation", description=__doc__)
    parser.add_argument("cases", nargs="+", type=Path, metavar="CASE.npz")
    parser.add_argument("--variant", action="append", choices=list(known), help="may be repeated; default: all")
    parser.add_argument("--budget", type=float, default=5.0, help="labels, in percent of the pool")
    parser.add_argument("--seed", default="0", help="comma-separated")
    parser.add_argument("--keep-reference", default="off", help="comma-separated: strict, balanced, off")
    parser.add_argument("--part", default="dev", help="comma-separated: dev, holdout")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--json", type=Path, help="records are added to this file")
    parser.add_argument("--models", type=Path, default=Path("build/benchmarks"), help="keeps models it had to train")
    options = parser.parse_args(arguments)
    trials: list[Trial] = []
    if options.json and options.json.exists():
        trials = [Trial(**each) for each in json.loads(options.json.read_text(encoding="utf-8"))]
    console = Console()
    for path in options.cases:
        case = load_case(path, options.models)
        budget = max(1, round(options.budget / 100 * len(case.parts["field"])))
        for name in options.variant or known:
            for seed in (int(word) for word in options.seed.split(",")):
                for keep in options.keep_reference.split(","):
                    parts = options.part.split(",")
                    measured = measure(case, name, known[name], budget, seed, keep, parts, options.epochs)
                    trials += measured
                    console.print(*measured)
                    if options.json:
                        # After every repair: a run that is interrupted keeps what it has measured.
                        options.json.parent.mkdir(parents=True, exist_ok=True)
                        options.json.write_text(json.dumps([asdict(each) for each in trials], indent=1) + "\n")
    console.print(_table(trials))
    return 0


def _table(trials: Sequence[Trial]) -> Table:
    table = Table("case", "variant", "labels", "keep", "measured on", "seeds", "field", "reference", "seconds")
    groups: dict[tuple[str, str, int, str, str], list[Trial]] = {}
    for trial in trials:
        key = (trial.case, trial.variant, trial.budget, trial.keep_reference, trial.part)
        groups.setdefault(key, []).append(trial)
    for (case, variant, budget, keep, part), group in groups.items():
        table.add_row(
            case,
            variant,
            str(budget),
            keep,
            part,
            str(len(group)),
            _change([each.field_before for each in group], [each.field_after for each in group]),
            _change([each.reference_before for each in group], [each.reference_after for each in group]),
            f"{np.mean([each.seconds for each in group]):.0f}",
        )
    return table


def _change(before: Sequence[float], after: Sequence[float]) -> str:
    return f"{100 * np.mean(before):.1f} -> {100 * np.mean(after):.1f}"


if __name__ == "__main__":
    sys.exit(main())
