"""The table and the plot of the benchmark of faulty trainings."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
from matplotlib.figure import Figure
from scipy import stats

from benchmarks.fault_data import sealed_inputs
from benchmarks.fault_records import FaultRecord, compare, score_doctor
from benchmarks.pages import write_measured
from fieldrepair_plugin.training_repair.report import signed_ranks

BEGIN = "<!-- measured: python -m benchmarks.training_faults --page writes from here -->"
_COLOURS = {"random": "#8a8a8a", "autotrainer": "#d9a441", "bohb": "#1f6f8b", "gp": "#7a5195", "guided": "#2a9d5c"}


def summary(records: Sequence[FaultRecord]) -> str:
    """Everything the bars ask about, as Markdown."""
    if not records:
        return "no records"
    return "\n\n".join([*_overall(records), _doctor(records), _larger(records), fault_table(records)])


def fault_table(records: Sequence[FaultRecord]) -> str:
    """A row per fault: accuracies, what the doctor said, and the mean improvement rate of every search."""
    names = _strategies(records)
    lines = [
        f"| fault | what is wrong | faulty | fixed | doctor (seeds) | {' | '.join(names)} |",
        f"|---|---|---|---|---|{'---|' * len(names)}",
    ]
    for fault in dict.fromkeys(each.fault for each in records):
        own = [each for each in records if each.fault == fault]
        seeds = {each.seed: each for each in own}.values()
        said = sum(each.injected in each.diagnosis for each in seeds)
        doctor = "-" if own[0].injected is None else f"{own[0].injected} ({said}/{len(seeds)})"
        rates = [[each.improvement_rate for each in own if each.strategy == name] for name in names]
        cells = [f"{np.mean(each):.2f}" if each else "" for each in rates]
        faulty, fixed = (float(np.mean([getattr(each, part) for each in seeds])) for part in ("faulty", "fixed"))
        lines.append(f"| {fault} | {own[0].kind} | {faulty:.1%} | {fixed:.1%} | {doctor} | {' | '.join(cells)} |")
    means = [np.mean([each.improvement_rate for each in records if each.strategy == name]) for name in names]
    lines.append(f"| **mean** | | | | | {' | '.join(f'**{each:.2f}**' for each in means)} |")
    return "\n".join(lines)


def draw_rates(records: Sequence[FaultRecord], path: Path) -> None:
    """Improvement rate of every search on every fault: a point a seed, a line at the mean."""
    names = _strategies(records)
    faults = list(dict.fromkeys(each.fault for each in records))
    figure = Figure(figsize=(9, 1.2 + 0.34 * len(faults)), layout="constrained")
    axes = figure.subplots()
    for at, fault in enumerate(reversed(faults)):
        for place, name in enumerate(names):
            rates = [each.improvement_rate for each in records if (each.fault, each.strategy) == (fault, name)]
            height = at + 0.3 - 0.6 * place / max(len(names) - 1, 1)
            colour = _COLOURS.get(name, "#b3446c")
            label = name if at == 0 else None
            axes.plot(rates, [height] * len(rates), ".", color=colour, markersize=5, alpha=0.6, label=label)
            if rates:
                axes.plot([float(np.mean(rates))] * 2, [height - 0.07, height + 0.07], color=colour, linewidth=3)
    axes.axvline(0.0, color="black", linewidth=0.8)
    axes.axvline(1.0, color="black", linewidth=0.8, linestyle="--")
    axes.set_yticks(range(len(faults)), list(reversed(faults)), fontsize=7)
    axes.set(xlabel="improvement rate: 0 is the faulty version, 1 the correct one", xlim=(-0.35, 1.6))
    axes.legend(fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5))
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def write_page(records: Sequence[FaultRecord], page: Path, plot: Path | None) -> None:
    """Replace what stands between the marks of the page.

    Raises:
        InputError: if it has not got both marks.
    """
    picture = "" if plot is None else f"\n\n![Improvement rates]({os.path.relpath(plot, page.parent)})"
    write_measured(page, BEGIN, summary(records) + picture)


def _strategies(records: Sequence[FaultRecord]) -> list[str]:
    found = {each.strategy for each in records}
    return [name for name in _COLOURS if name in found] + sorted(found - set(_COLOURS))


def _overall(records: Sequence[FaultRecord]) -> list[str]:
    lines = [
        "| search | runs | mean rate | random there | p (runs) | p (faults) | trials | by its model | epochs spent |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name in _strategies(records):
        own = [each for each in records if each.strategy == name]
        against = compare(records, name)
        cells = [
            name,
            str(len(own)),
            f"{np.mean([each.improvement_rate for each in own]):.3f}",
            "" if against is None else f"{against.random_rate:.3f}",
            "" if against is None or name == "random" else _p(against.p_runs),
            "" if against is None or name == "random" else _p(against.p_faults),
            f"{np.mean([each.trials for each in own]):.1f}",
            f"{np.mean([each.model_trials for each in own]):.1f}",
            f"{sum(each.epochs for each in own) / sum(each.budget for each in own):.0%}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    random = [name for name in _strategies(records) if any(e.effectively_random for e in records if e.strategy == name)]
    shares = [
        f"{name} in {sum(each.effectively_random for each in records if each.strategy == name)} of "
        f"{sum(each.strategy == name for each in records)} runs"
        for name in random
    ]
    note = (
        f"Effectively random (no more trials than knobs, or none by the model): {', '.join(shares)}." if shares else ""
    )
    seeds = sorted({each.seed for each in records})
    faults = len({each.fault for each in records})
    head = (
        f"{faults} faults, seeds {', '.join(map(str, seeds))}; p: Wilcoxon's signed ranks, one-sided, against `random`."
    )
    return [head, "\n".join(lines), *([note] if note else [])]


def _doctor(records: Sequence[FaultRecord]) -> str:
    score = score_doctor(records)
    text = (
        f"Doctor: names the injected problem in {score.named} of {score.injected} faulty versions "
        f"({score.named / max(score.injected, 1):.0%}), finds something in {score.false_alarms} of {score.healthy} "
        f"correct ones (each fault and seed counts once)."
    )
    return text + (f" Missed: {'; '.join(score.missed)}." if score.missed else "")


def _larger(records: Sequence[FaultRecord]) -> str:
    """Whether larger models were fixed: over the sealed inputs of each seed, and over seeds."""
    scipy = cast(Any, stats)  # typed in part only
    parts: list[str] = []
    for fault in dict.fromkeys(each.fault for each in records if each.larger):
        n = sealed_inputs(fault.split("_")[0])
        for name in _strategies(records):
            own = [each for each in records if (each.fault, each.strategy) == (fault, name)]
            if not own:
                continue
            counts = [(round(n * each.repaired), round(n * each.faulty)) for each in own]
            tables = [[[after, n - after], [before, n - before]] for after, before in counts]
            worst = max(float(scipy.fisher_exact(table, alternative="greater").pvalue) for table in tables)
            seeds = signed_ranks(np.array([each.repaired - each.faulty for each in own]))
            before, after = (float(np.mean([count[at] for count in counts])) / n for at in (1, 0))
            parts.append(
                f"{fault} by {name}: {before:.1%} -> {after:.1%} (correct version "
                f"{np.mean([each.fixed for each in own]):.1%}), p {_p(worst)} on inputs, {_p(seeds)} over seeds "
                f"({len(own)})"
            )
    if not parts:
        return "Larger models: none measured."
    return (
        "Larger models, repaired against faulty (Fisher's exact test on the sealed inputs, the worst seed; Wilcoxon's "
        f"test over seeds, of which 5 give p = 0.031 at best): {'; '.join(parts)}."
    )


def _p(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}" if value >= 0.001 else f"{value:.0e}"
