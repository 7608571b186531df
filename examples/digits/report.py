"""What the demo leaves behind: a table on the terminal, ``summary.json``, and an HTML report with plots."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, select_autoescape
from markupsafe import Markup

from examples.digits.data import Images

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK, MUTED, BEFORE, AFTER, ALERT = "#334155", "#94a3b8", "#94a3b8", "#0f766e", "#b91c1c"


@dataclass
class Summary:
    """Every number of the demo, all measured in that run. Accuracies are on the sealed holdout, through the sidecar."""

    field_accuracy_before: float = float("nan")
    field_accuracy_after: float = float("nan")
    reference_accuracy_before: float = float("nan")
    reference_accuracy_after: float = float("nan")
    field_inputs: int = 0
    labels_for_repair: int = 0
    labels_for_acceptance: int = 0
    inputs_until_alert: int = 0
    false_alerts: int = 0
    failed_requests: int = 0
    version_before: str = ""
    version_after: str = ""
    seconds: dict[str, float] = field(default_factory=dict[str, float])

    def write(self, path: Path) -> None:
        """Write the numbers as JSON."""
        path.write_text(json.dumps(asdict(self), indent=2) + "\n")

    def shortfalls(self) -> list[str]:
        """What of the story did not come true; empty when all of it did."""
        gain = 100 * (self.field_accuracy_after - self.field_accuracy_before)
        loss = 100 * (self.reference_accuracy_before - self.reference_accuracy_after)
        share = self.labels_for_repair / max(self.field_inputs, 1)
        expected = {
            f"field accuracy should rise by 15 points or more, it rose by {gain:.1f}": gain >= 15,
            f"original accuracy should fall by 1 point at most, it fell by {loss:.1f}": loss <= 1,
            f"the repair should ask for 5 % of the field inputs at most, it asked for {100 * share:.1f} %": share
            <= 0.05,
            f"the alert should come within 600 shifted inputs, it took {self.inputs_until_alert}": (
                0 < self.inputs_until_alert <= 600
            ),
            f"there should be no false alert, there were {self.false_alerts}": self.false_alerts == 0,
            f"no request should fail, {self.failed_requests} did": self.failed_requests == 0,
        }
        return [sentence for sentence, came_true in expected.items() if not came_true]

    def rows(self) -> list[tuple[str, str, str]]:
        """(what, before, after) for the table."""

        def percent(value: float) -> str:
            return f"{100 * value:.1f} %"

        return [
            ("served version", self.version_before, self.version_after),
            ("accuracy, re-mounted scanner", percent(self.field_accuracy_before), percent(self.field_accuracy_after)),
            (
                "accuracy, original scanner",
                percent(self.reference_accuracy_before),
                percent(self.reference_accuracy_after),
            ),
        ]

    def facts(self) -> list[tuple[str, str]]:
        """(what, value) for the lines under the table."""
        share = 100 * self.labels_for_repair / max(self.field_inputs, 1)
        return [
            ("field inputs of the case", str(self.field_inputs)),
            ("labels for the repair", f"{self.labels_for_repair} ({share:.1f} % of the field inputs)"),
            ("labels for the acceptance sample", str(self.labels_for_acceptance)),
            ("shifted inputs until the alert", str(self.inputs_until_alert)),
            ("false alerts", str(self.false_alerts)),
            ("failed requests", str(self.failed_requests)),
        ]


@dataclass(frozen=True)
class Evidence:
    """What the report shows beside the numbers."""

    windows: Sequence[Mapping[str, Any]]
    """The monitor's windows as ``GET /api/windows`` returns them for the version under repair, oldest first."""
    event: Mapping[str, Any]
    case: Mapping[str, Any]
    original: Images
    """Some scans as the original scanner saw them (n, 1, 8, 8)."""
    shifted: Images
    """The same scans from the re-mounted scanner."""
    repaired: Images
    """Holdout scans wrong before and right after."""
    broken: Images
    """Holdout scans right before and wrong after."""


def write_report(path: Path, summary: Summary, evidence: Evidence) -> None:
    """Write the HTML report: one file, no other resources."""
    templates = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=select_autoescape(default=True))
    page = templates.get_template("report.html.j2").render(
        summary=summary,
        event=evidence.event,
        case=evidence.case,
        verdict=evidence.case.get("acceptance") or {},
        accuracy_plot=_svg(_plot_accuracy(summary)),
        windows_plot=_svg(_plot_windows(evidence.windows)),
        seconds_plot=_svg(_plot_seconds(summary.seconds)),
        scans_plot=_svg(_plot_scans({"original scanner": evidence.original, "re-mounted": evidence.shifted})),
        repaired_plot=_svg(_plot_scans({"now right": evidence.repaired, "now wrong": evidence.broken})),
    )
    path.write_text(page)


def _new_figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _svg(figure: Figure) -> Markup:
    """The figure as inline SVG, text kept as text so that it follows the page's font and can be read aloud."""
    from matplotlib import rcParams

    stream = io.StringIO()
    rcParams.update({"svg.fonttype": "none", "font.family": "sans-serif", "font.size": 10})
    figure.savefig(stream, format="svg", transparent=True)
    text = stream.getvalue()
    return Markup(text[text.index("<svg") :])  # noqa: S704 - our own drawing, without any text from outside


def _plot_accuracy(summary: Summary) -> Figure:
    figure = _new_figure(5.6, 2.4)
    axes = figure.subplots()
    worlds = ["re-mounted scanner", "original scanner"]
    before = [summary.field_accuracy_before, summary.reference_accuracy_before]
    after = [summary.field_accuracy_after, summary.reference_accuracy_after]
    positions = np.arange(2)
    for offset, values, colour, label in ((-0.18, before, BEFORE, "before"), (0.18, after, AFTER, "after")):
        bars = axes.barh(positions + offset, [100 * value for value in values], height=0.32, color=colour, label=label)
        axes.bar_label(bars, fmt="%.1f %%", padding=4, color=INK)
    axes.set_yticks(positions, worlds)
    axes.invert_yaxis()
    axes.set_xlim(0, 115)
    axes.set_xticks([0, 25, 50, 75, 100])
    axes.set_xlabel("accuracy on the sealed holdout, %")
    axes.legend(frameon=False, loc="upper center", bbox_to_anchor=(0.5, 1.22), ncols=2)
    _tidy(axes)
    return figure


def _plot_windows(windows: Sequence[Mapping[str, Any]]) -> Figure:
    figure = _new_figure(7.2, 3.6)
    upper, lower = figure.subplots(2, 1, sharex=True)
    numbers = [window["index"] for window in windows]
    colours = [ALERT if window["drifted"] else AFTER for window in windows]
    # Of the clearest detector, which differs from window to window: so in units of its threshold.
    ratios = [window["statistic"] / window["threshold"] for window in windows]
    upper.plot(numbers, ratios, color=MUTED, zorder=1)
    upper.scatter(numbers, ratios, c=colours, zorder=2)
    upper.axhline(1.0, color=MUTED, linestyle="--", linewidth=1)
    upper.set_ylabel("drift statistic,\nthresholds")
    lower.plot(numbers, [100 * (window["estimated_accuracy"] or np.nan) for window in windows], color=MUTED, zorder=1)
    lower.scatter(numbers, [100 * (window["estimated_accuracy"] or np.nan) for window in windows], c=colours, zorder=2)
    lower.set_ylabel("estimated\naccuracy, %")
    lower.set_ylim(0, 105)
    lower.set_xlabel("window of field inputs (red: unlike every known world)")
    lower.xaxis.get_major_locator().set_params(integer=True)
    for axes in (upper, lower):
        _tidy(axes)
    return figure


def _plot_seconds(seconds: Mapping[str, float]) -> Figure:
    figure = _new_figure(7.2, 0.3 * len(seconds) + 0.8)
    axes = figure.subplots()
    bars = axes.barh(list(seconds), list(seconds.values()), color=AFTER, height=0.6)
    axes.bar_label(bars, fmt="%.1f s", padding=4, color=INK)
    axes.margins(x=0.15)
    axes.invert_yaxis()
    axes.set_xlabel("seconds")
    _tidy(axes)
    return figure


def _plot_scans(rows: Mapping[str, Images], columns: int = 12) -> Figure:
    figure = _new_figure(7.2, 0.75 * len(rows) + 0.1)
    grid = [
        [figure.add_subplot(len(rows), columns, row * columns + 1 + column) for column in range(columns)]
        for row in range(len(rows))
    ]
    for line, (name, images) in zip(grid, rows.items(), strict=True):
        for column, axes in enumerate(line):
            axes.set_axis_off()
            if column < len(images):
                axes.imshow(images[column, 0], cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        line[0].set_axis_on()
        line[0].set_xticks([])
        line[0].set_yticks([])
        line[0].spines[:].set_visible(False)
        line[0].set_ylabel(name, rotation=0, ha="right", va="center", color=INK)
    return figure


def _tidy(axes: Any) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(MUTED)
    axes.tick_params(colors=INK, length=0)
    axes.xaxis.label.set_color(INK)
    axes.yaxis.label.set_color(INK)
