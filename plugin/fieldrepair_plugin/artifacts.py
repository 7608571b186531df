"""Pictures and tables of a repair for people who decide about it: confusion matrices, sample grids, the labels."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fieldrepair_plugin.repairable import IntArray, Served
from fieldrepair_service.case_book import Task
from fieldrepair_service.input_text import describe_row, describe_text
from fieldrepair_service.inputs import ImageInput, InputSpec, TextInput

_MOST_NUMBERS = 15
"""Up to so many classes a confusion matrix shows its counts; beyond, the colours must do."""
_GRID_COLUMNS = 8


def save_confusion(path: Path, matrices: dict[str, list[list[int]]], class_names: Sequence[str]) -> None:
    """Draw confusion matrices side by side as PNG.

    Args:
        path: file to write.
        matrices: title -> ``[true class][answered class]`` counts.
        class_names: one per class.
    """
    size = float(np.clip(0.35 * len(class_names), 3.5, 12.0))
    figure = Figure(figsize=(size * len(matrices) + 0.5, size + 0.8), layout="constrained")
    ticks = list(range(len(class_names)))
    for axes, (title, cells) in zip(figure.subplots(1, len(matrices), squeeze=False)[0], matrices.items(), strict=True):
        counts = np.asarray(cells)
        # Shares of each true class, so that a rare class is not drowned by a common one.
        shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
        axes.imshow(shares, cmap="Blues", vmin=0.0, vmax=1.0)
        axes.set(title=title, xlabel="answered", ylabel="true")
        axes.set_xticks(ticks, class_names, rotation=90)
        axes.set_yticks(ticks, class_names)
        if len(class_names) > _MOST_NUMBERS:
            continue
        for (true, answered), count in np.ndenumerate(counts):
            if count:
                colour = "white" if shares[true, answered] > 0.5 else "black"
                axes.text(answered, true, str(count), ha="center", va="center", color=colour, fontsize=8)
    figure.savefig(path, dpi=110)


def save_examples(
    folder: Path, name: str, inputs: Served, captions: Sequence[str], spec: InputSpec, title: str
) -> Path:
    """Write inputs with a caption each for people: of images one picture, of table rows and texts a CSV file.

    Args:
        folder: where to write.
        name: of the file, without its ending.
        inputs: ``(n, *served shape)``.
        captions: ``(n,)``.
        spec: how inputs are read.
        title: of the whole, in a picture.

    Returns:
        The file.
    """
    if isinstance(spec, ImageInput):
        save_grid(folder / f"{name}.png", inputs, captions, spec, title)
        return folder / f"{name}.png"
    path = folder / f"{name}.csv"
    with path.open("w", newline="", encoding="utf-8") as stream:
        table = csv.writer(stream)
        if isinstance(spec, TextInput):
            table.writerow(["answers", "text"])
            table.writerows([caption, describe_text(spec, one)] for caption, one in zip(captions, inputs, strict=True))
        else:
            table.writerow(["answers", *spec.features])
            for caption, one in zip(captions, inputs, strict=True):
                table.writerow([caption, *(value for _, value, _ in describe_row(spec, one))])
    return path


def save_grid(path: Path, inputs: Served, captions: Sequence[str], spec: ImageInput, title: str) -> None:
    """Draw inputs with a caption each as PNG; an empty grid says so.

    Args:
        path: file to write.
        inputs: ``(n, *served shape)``.
        captions: ``(n,)``.
        spec: how inputs map to pixels.
        title: of the whole.
    """
    rows = max(1, -(-len(captions) // _GRID_COLUMNS))
    figure = Figure(figsize=(1.4 * _GRID_COLUMNS, 1.7 * rows + 0.5), layout="constrained")
    figure.suptitle(title if len(captions) else f"{title}: none")
    cells = cast(list[Axes], figure.subplots(rows, _GRID_COLUMNS, squeeze=False).flatten().tolist())
    pixels = _for_display(spec.to_pixels(inputs)) if len(captions) else np.empty((0, 1, 1), dtype=np.uint8)
    for cell in cells:
        cell.axis("off")
    for cell, image, caption in zip(cells, pixels, captions, strict=False):
        cell.imshow(image, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
        cell.set_title(caption, fontsize=8)
    figure.savefig(path, dpi=110)


def answer_captions(
    labels: IntArray, champion: IntArray, candidate: IntArray, which: IntArray, class_names: Sequence[str]
) -> list[str]:
    """``"7: 1, now 7"`` for each chosen input: the truth, what the champion said, what the candidate says."""
    names = list(class_names)
    return [
        f"{names[int(labels[at])]}: {names[int(champion[at])]}, now {names[int(candidate[at])]}"
        for at in which.tolist()
    ]


def save_labels(path: Path, tasks: Sequence[Task], class_names: Sequence[str]) -> None:
    """Write every answered task as CSV: which input, what for, what the person said."""
    with path.open("w", newline="", encoding="utf-8") as stream:
        table = csv.writer(stream)
        table.writerow(["request_id", "row", "purpose", "state", "class", "class_name", "labeller", "decided_ms"])
        for task in tasks:
            name = "" if task.label is None else class_names[task.label]
            label = "" if task.label is None else task.label
            table.writerow(
                [task.request_id, task.row, task.purpose, task.state, label, name, task.decided_by, task.decided_ms]
            )


def _for_display(pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """``(n, channels, h, w)`` to what matplotlib draws: grey without a channel axis, colour with it last."""
    return pixels[:, 0] if pixels.shape[1] == 1 else pixels.transpose(0, 2, 3, 1)
