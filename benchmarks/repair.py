"""How much a repair recovers, on benchmark cases: ``python -m benchmarks.repair CASE.npz ... --json FILE``.

For each case, strategy, recipe, budget, seed and way of keeping the reference: the strategy chooses from the pool, an
oracle labels exactly those, a copy of the model is trained, and the result is measured on the sealed holdout and on
the validation set. Records that the file has already are not measured again, so an interrupted run can be repeated.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict
from itertools import product
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.case import load_case
from benchmarks.figures import draw_figures
from benchmarks.one_repair import Request
from benchmarks.records import Record, read_records, with_gaps, write_records
from fieldrepair_plugin.interpolation import KeepReference
from fieldrepair_plugin.recipe import HybridSettings
from fieldrepair_plugin.repairable import compute_device
from fieldrepair_plugin.strategies import strategy_named, strategy_names
from fieldrepair_service.errors import InputError

_RECIPES = ("paper", "default")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; see the module's docstring."""
    options = _options(arguments)
    console = Console()
    records = read_records(options.json) if options.json else []
    have = {record.key for record in records}
    failed = 0
    for path in options.cases:
        load_case(path, options.models)  # trains and keeps the model if there is none, before any clock runs
    wanted = [
        (request, missing)
        for path in options.cases
        for request in _requests(path, options)
        if (missing := [keep for keep in request.keeps if _key(request, keep) not in have])
    ]
    with ThreadPoolExecutor(options.jobs) as executor:
        runs = {executor.submit(_measure, *each, options.jobs): each for each in wanted}
        for number, run in enumerate(as_completed(runs), start=1):
            request, missing = runs[run]
            measured = run.result()
            failed += not measured
            records += measured
            if options.json and measured:
                write_records(options.json, records)
            console.print(f"{number} of {len(runs)}: {_words(request, missing)}{'' if measured else ', failed'}")
    records = with_gaps(records)
    console.print(_table(records))
    if options.plots:
        for figure in draw_figures(records, options.plots):
            console.print(f"wrote {figure}")
    if failed:
        console.print(f"{failed} runs failed, see above; the same command measures what is missing")
    return 1 if failed else 0


def parse_budget(text: str, pool: int) -> int:
    """``5%`` of the pool, or a number of labels."""
    count = round(float(text[:-1]) / 100 * pool) if text.endswith("%") else int(text)
    if not 1 <= count <= pool:
        raise InputError(f"expected a budget of 1..{pool} labels or a percentage, got {text}")
    return count


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.repair", description=__doc__)
    parser.add_argument("cases", nargs="+", type=Path, metavar="CASE.npz")
    parser.add_argument(
        "--strategy", default="hybridrepair", help=f"comma-separated, or all: {', '.join(strategy_names())}"
    )
    parser.add_argument(
        "--recipe",
        default="paper",
        help="comma-separated: paper, default; some strategies have only the first",
    )
    parser.add_argument("--budget", default="5%", help="comma-separated: percentages of the pool, or numbers")
    parser.add_argument("--seed", default="0", help="comma-separated")
    parser.add_argument("--keep-reference", default="strict,off", help="comma-separated: strict, balanced, off")
    parser.add_argument("--rounds", default="1", help="comma-separated: parts a budget is asked in")
    parser.add_argument("--epochs", type=int, default=HybridSettings().epochs)
    parser.add_argument("--jobs", type=int, default=1, help="repairs at a time, each in a process of its own")
    parser.add_argument(
        "--device",
        default=compute_device(None),
        help="PyTorch device to repair on; default: a GPU if there is one",
    )
    parser.add_argument("--json", type=Path, help="read records from here, and write one per measured repair")
    parser.add_argument("--plots", type=Path, help="folder for the figures")
    parser.add_argument("--models", type=Path, default=Path("build/benchmarks"), help="keeps models it had to train")
    return parser.parse_args(arguments)


def _requests(path: Path, options: argparse.Namespace) -> Iterator[Request]:
    """One per training. ``full`` and strategies that need no labels run once, whatever the budgets."""
    # Searches for a better training (train_...) answer another question; benchmarks.training_faults measures them.
    drift = [name for name in strategy_names() if not name.startswith("train_")]
    names = drift if options.strategy == "all" else options.strategy.split(",")
    keeps = [KeepReference(word).value for word in options.keep_reference.split(",")]
    with np.load(path, allow_pickle=False) as file:
        pool = len(file["field_y"]) if "field_y" in file.files else len(load_case(path, options.models).parts["field"])
    wanted = options.recipe.split(",")
    if unknown := sorted(set(wanted) - set(_RECIPES)):
        raise InputError(f"expected recipes out of {', '.join(_RECIPES)}; got {', '.join(unknown)}")
    runs = [
        (name, recipe, int(seed))
        for name in names
        for recipe in [each for each in wanted if each in strategy_named(name).recipes] or ["paper"]
        for seed in options.seed.split(",")
    ]
    for name, recipe, seed in runs:
        strategy = strategy_named(name)
        budgets = [pool if name == "full" else parse_budget(text, pool) for text in options.budget.split(",")]
        if name != "full" and strategy.labels_wanted(1, pool) == 0:
            budgets = [0]
        for budget, rounds in product(dict.fromkeys(budgets), map(int, options.rounds.split(","))):
            if rounds > 1 and (name == "full" or budget == 0):
                continue
            # Where the old world is kept by interpolation alone, one training serves all settings.
            groups = [keeps] if recipe == "paper" else [[keep] for keep in keeps]
            for group in groups:
                yield Request(
                    case=str(path),
                    models=str(options.models),
                    strategy=name,
                    recipe=recipe,
                    budget=budget,
                    seed=seed,
                    keeps=group,
                    rounds=rounds,
                    epochs=options.epochs,
                    device=options.device,
                )


def _key(request: Request, keep: str) -> tuple[str, str, str, int, int, str, int, int]:
    name = Path(request.case).stem
    return (
        name, request.strategy, request.recipe, request.budget, request.seed, keep, request.rounds, request.epochs
    )  # fmt: skip


def _words(request: Request, keeps: list[str]) -> str:
    return (
        f"{Path(request.case).stem}, {request.strategy}, recipe {request.recipe}, {request.budget} labels, "
        f"seed {request.seed}, keep {', '.join(keeps)}"
    )


def _measure(request: Request, keeps: list[str], jobs: int) -> list[Record]:
    """Run it in a process of its own, with its part of the processor's cores; nothing if that failed."""
    environment = dict(os.environ)
    if jobs > 1:
        environment.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // jobs)))
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "records.json"
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.one_repair", str(result)],
            input=json.dumps({**asdict(request), "keeps": keeps}),
            text=True,
            check=False,
            env=environment,
        )
        if done.returncode != 0:
            return []
        return [Record(**each) for each in json.loads(result.read_text(encoding="utf-8"))]


def _table(records: Sequence[Record]) -> Table:
    table = Table(
        "case", "strategy", "recipe", "labels", "seed", "keep", "field", "reference", "gap", "propagated right",
        "passes", "seconds", "MB",
    )  # fmt: skip
    for each in records:
        table.add_row(
            each.case,
            each.strategy,
            each.recipe + (f", {each.rounds} rounds" if each.rounds > 1 else ""),
            str(each.labels_used),
            str(each.seed),
            each.keep_reference,
            f"{100 * each.field_before:.1f} -> {100 * each.field_after:.1f}",
            f"{100 * each.reference_before:.1f} -> {100 * each.reference_after:.1f}",
            "" if each.gap_recovered is None else f"{each.gap_recovered:.2f}",
            "" if each.propagation_accuracy is None else f"{100 * each.propagation_accuracy:.1f} %",
            f"{each.forward_per_input:.0f} + {each.backward_per_input:.0f}",
            f"{each.seconds:.0f}",
            f"{each.peak_memory_bytes / 1e6:.0f}",
        )
    return table


if __name__ == "__main__":
    sys.exit(main())
