"""Figures of a file of records: accuracy against labels, and bars of all strategies at one budget."""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import dataclass
from itertools import cycle, product
from pathlib import Path

from matplotlib.figure import Figure

from benchmarks.records import Record, mean

OURS = "hybridrepair, default"
"""Our recipe, as :func:`way` names it."""
_COLOURS = ("C0", "C1", "C2", "C4", "C5", "C6", "C8", "C9")
"""Matplotlib's, but for the grey of ``full`` and the red that is ours."""
_MARKERS = "osv^D"
"""One for each time the colours have been through."""


def draw_figures(records: Sequence[Record], folder: Path) -> list[Path]:
    """Draw what the records show.

    Args:
        records: of any number of cases.
        folder: made if absent.

    Returns:
        The files: per case ``labels_CASE.png`` and ``bars_CASE.png``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    made: list[Path] = []
    for case in sorted({each.case for each in records}):
        own = [each for each in records if each.case == case]
        for draw, name in ((_against_labels, "labels"), (_bars, "bars")):
            path = folder / f"{name}_{case}.png"
            draw(own, case).savefig(path, dpi=110)
            made.append(path)
    return made


def way(record: Record) -> str:
    """What was done, in words short enough for a legend."""
    text = record.strategy if record.recipe == "paper" else f"{record.strategy}, {record.recipe}"
    return text + (f", {record.rounds} rounds" if record.rounds > 1 else "")


def _against_labels(records: Sequence[Record], case: str) -> Figure:
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    records = [each for each in records if each.keep_reference == "off"]
    looks = looks_of({way(each) for each in records})
    for name, look in looks.items():
        own = [each for each in records if way(each) == name]
        budgets = sorted({each.labels_used for each in own})
        heights = [100 * mean([each.field_after for each in own if each.labels_used == budget]) for budget in budgets]
        if own[0].strategy == "full":
            axes.axhline(heights[0], linestyle="--", color="grey", label=f"{name} ({budgets[0]} labels)")
        elif budgets == [0]:
            axes.axhline(heights[0], linestyle=":", color=look.colour, label=f"{name} (no labels)")
        else:
            axes.plot(
                budgets, heights, marker=look.marker, color=look.colour, linewidth=look.width, zorder=2 + look.width,
                label=name,
            )  # fmt: skip
    if records:
        axes.axhline(100 * records[0].field_before, color="black", linewidth=1, label="before")
    axes.set(title=f"{case}, keep_reference=off", xlabel="labels", ylabel="field accuracy on the holdout, %")
    axes.legend(fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


@dataclass(frozen=True)
class Look:
    """How one way is drawn."""

    colour: str
    marker: str
    width: float


def looks_of(ways: Set[str]) -> dict[str, Look]:
    """How each way is drawn, ours first: no two alike."""
    looks = {OURS: Look("C3", "o", 3.0)} if OURS in ways else {}
    for name, (marker, colour) in zip(sorted(ways - {OURS}), cycle(product(_MARKERS, _COLOURS)), strict=False):
        looks[name] = Look(colour, marker, 1.5)
    return looks


def _bars(records: Sequence[Record], case: str) -> Figure:
    budgets = sorted({each.budget for each in records if each.strategy != "full" and each.budget > 0})
    budget = budgets[-1] if budgets else 0
    shown = [each for each in records if each.budget in (0, budget) or each.strategy == "full"]
    names = sorted({f"{way(each)} ({each.keep_reference})" for each in shown})
    figure = Figure(figsize=(8, 1.5 + 0.28 * len(names)), layout="constrained")
    axes = figure.subplots()
    for part, colour in (("field", "#1f6f8b"), ("reference", "#d9a441")):
        heights = [
            100
            * mean([getattr(each, f"{part}_after") for each in shown if f"{way(each)} ({each.keep_reference})" == name])
            for name in names
        ]
        offset = 0.2 if part == "field" else -0.2
        axes.barh([at + offset for at in range(len(names))], heights, height=0.4, color=colour, label=part)
        if shown:
            axes.axvline(100 * getattr(shown[0], f"{part}_before"), color=colour, linestyle=":", label=f"{part} before")
    axes.set_yticks(range(len(names)), names, fontsize=7)
    axes.set(title=f"{case}, {budget} labels", xlabel="accuracy, %")
    axes.legend(fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure
