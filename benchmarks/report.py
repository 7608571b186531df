"""Writes the measured part of ``docs/benchmarks.md`` from files of records: ``python -m benchmarks.report FILE ...``.

What people wrote in the page stays; what stands between the two marks is replaced.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from benchmarks.figures import OURS, draw_figures, way
from benchmarks.pages import write_measured
from benchmarks.records import Record, mean, read_records, with_gaps
from fieldrepair_service.errors import InputError

BEGIN = "<!-- measured: python -m benchmarks.report writes from here -->"


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the page; see the module's docstring."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.report", description=__doc__)
    parser.add_argument("records", nargs="+", type=Path, metavar="FILE", help="files of benchmarks.repair --json")
    parser.add_argument("--scale", type=Path, help="file of benchmarks.scale --json")
    parser.add_argument("--page", type=Path, default=Path("docs/benchmarks.md"))
    parser.add_argument("--plots", type=Path, help="folder for the figures, inside the page's folder")
    options = parser.parse_args(arguments)
    records = with_gaps([each for path in options.records for each in read_records(path)])
    if not records:
        raise InputError(f"there are no records in {', '.join(map(str, options.records))}")
    parts = [leads_section(records), *(case_section(records, case) for case in sorted({each.case for each in records}))]
    if options.plots:
        figures = draw_figures(records, options.plots)
        links = [f"![{path.stem}]({path.relative_to(options.page.parent).as_posix()})" for path in figures]
        parts.append("\n".join(links))
    if options.scale:
        parts.append(scale_section(json.loads(options.scale.read_text(encoding="utf-8"))))
    write_measured(options.page, BEGIN, "\n\n".join(filter(None, parts)))
    return 0


def leads_section(records: Sequence[Record]) -> str:
    """How far our recipe is ahead of each other way, pair by pair of one seed, ``keep_reference=off``.

    Others are those that train by the paper's recipe; ``full`` is no rival but the ceiling. Ways without labels stand
    beside every budget. A way that was not measured with as few labels stands there with the fewest it was measured
    with, and a star.
    """
    off = [each for each in records if each.keep_reference == "off" and each.rounds == 1 and each.strategy != "full"]
    ours = [each for each in off if way(each) == OURS]
    others = sorted({way(each) for each in off if each.recipe == "paper"})
    rows: list[str] = []
    for case, budget in sorted({(each.case, each.budget) for each in ours}):
        own = {each.seed: each for each in ours if (each.case, each.budget) == (case, budget)}
        leads = [
            _lead(own, budget, [each for each in off if each.case == case and way(each) == other]) for other in others
        ]
        measured = [lead.mean for lead in leads if lead is not None]
        if not measured:
            continue
        cells = ["" if lead is None else lead.cell(bold=lead.mean == min(measured)) for lead in leads]
        worst = min(min(lead.points) for lead in leads if lead is not None)
        field = f"{_share(mean([each.field_after for each in own.values()]))} ({len(own)})"
        rows.append(f"| {' | '.join([case, str(budget), field, *cells, f'{worst:+.1f}'])} |")
    if not rows:
        return ""
    return "\n".join(
        [
            "### How far our recipe is ahead",
            "",
            "Points of field accuracy between ours and each way that trains by the recipe `paper`, same case and seed, "
            "`off`: the mean, and over how many seeds. Bold: the closest. `*`: the other had more labels, the fewest "
            "it was measured with.",
            "",
            f"| case | labels | ours | {' | '.join(others)} | worst single pair |",
            "|" + "---|" * (len(others) + 4),
            *rows,
        ]
    )


@dataclass(frozen=True)
class _Lead:
    points: list[float]
    """One per seed that both were measured with."""
    more_labels: bool

    @property
    def mean(self) -> float:
        return mean(self.points)

    def cell(self, *, bold: bool) -> str:
        number = f"{self.mean:+.1f}"
        return f"{f'**{number}**' if bold else number} ({len(self.points)}){' *' if self.more_labels else ''}"


def _lead(ours: Mapping[int, Record], budget: int, other: Sequence[Record]) -> _Lead | None:
    """Of ours, by seed, over another way of the same case; none without a seed in common, or with fewer labels only."""
    pairs = [each for each in other if each.seed in ours and (each.budget == 0 or each.budget >= budget)]
    if not pairs:
        return None
    fewest = min(each.budget for each in pairs)
    points = [100 * (ours[each.seed].field_after - each.field_after) for each in pairs if each.budget == fewest]
    return _Lead(points, more_labels=fewest > budget)


def case_section(records: Sequence[Record], case: str) -> str:
    """A table of one case: a row per way, budget and setting, means over seeds."""
    own = [each for each in records if each.case == case]
    groups: dict[tuple[str, int, str, int], list[Record]] = {}
    for each in own:
        groups.setdefault((way(each), each.budget, each.keep_reference, each.epochs), []).append(each)
    seeds = sorted({each.seed for each in own})
    lines = [
        f"### {case}",
        "",
        f"Before: field {_share(own[0].field_before)}, reference {_share(own[0].reference_before)}. "
        f"Seeds: {', '.join(map(str, seeds))}.",
        "",
        "| strategy, recipe | labels | keep | seeds | field | reference | gap | propagated right | passes | s | MB |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for (name, _, keep, _), several in sorted(groups.items()):
        gaps = [each.gap_recovered for each in several if each.gap_recovered is not None]
        right = [each.propagation_accuracy for each in several if each.propagation_accuracy is not None]
        cells = [
            name,
            f"{mean([each.labels_used for each in several]):.0f}",
            keep,
            str(len(several)),
            _share(mean([each.field_after for each in several])),
            _share(mean([each.reference_after for each in several])),
            f"{mean(gaps):.2f}" if gaps else "",
            _share(mean(right)) if right else "",
            f"{mean([each.forward_per_input for each in several]):.0f} + "
            f"{mean([each.backward_per_input for each in several]):.0f}",
            f"{mean([each.seconds for each in several]):.0f}",
            f"{mean([each.peak_memory_bytes for each in several]) / 1e6:.0f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def scale_section(stored: object) -> str:
    """A table of the scale benchmark's records."""
    lines = [
        "### Exemplars from many inputs",
        "",
        "| recipe | inputs | labels | seconds | CPU seconds | GB | threads | load of the machine |",
        "|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {each['recipe']} | {each['inputs']:,} x {each['dimensions']} | {each['budget']:,} | "
        f"{each['seconds']:.0f} | {each['cpu_seconds']:.0f} | {each['peak_memory_bytes'] / 1e9:.1f} | "
        f"{each['threads']} | {each['load']:.1f} |"
        for each in cast("list[dict[str, Any]]", stored)
    ]
    return "\n".join(lines)


def _share(value: float) -> str:
    return f"{100 * value:.1f} %"


if __name__ == "__main__":
    sys.exit(main())
