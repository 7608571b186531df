"""Benchmark cases: a world, its shift, and the model under repair. The form is in docs/benchmarks.md."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from benchmarks.network import ResNet8, train_resnet8
from benchmarks.table_case import load_table
from fieldrepair_plugin.repairable import IntArray, RepairableModel, Served
from fieldrepair_service.errors import InputError
from fieldrepair_service.inputs import ImageInput

PARTS = ("train", "val", "field", "holdout")


@dataclass(frozen=True)
class Part:
    """Labelled inputs in served form: ``x`` (n, channels, h, w) or (n, features) float32, ``y`` (n,)."""

    x: Served
    y: IntArray

    def __len__(self) -> int:
        return len(self.y)


@dataclass(frozen=True)
class BenchmarkCase:
    """One case, ready to be repaired."""

    name: str
    model: RepairableModel
    parts: dict[str, Part]
    """``train`` and ``val``: the old world. ``field``: the shifted pool. ``holdout``: shifted, for the last number."""


def load_case(path: Path, models: Path) -> BenchmarkCase:
    """Read ``NAME.npz`` and the model under repair: images, or a table (see :mod:`benchmarks.table_case`).

    Args:
        path: the ``.npz`` file; its ``.pt`` is taken from beside it if it is there.
        models: where a model that had to be trained is kept, and found again.

    Raises:
        InputError: if the file is not a case; the message names what is missing or wrong.
    """
    if (table := load_table(path, models)) is not None:
        return BenchmarkCase(path.stem, table.model, {part: Part(*table.parts[part]) for part in PARTS})
    arrays = read_arrays(path)
    beside, kept = path.with_suffix(".pt"), models / f"{path.stem}.pt"
    found = beside if beside.exists() else kept
    if not found.exists():
        models.mkdir(parents=True, exist_ok=True)
        torch.save(_train(arrays, flip=path.stem.startswith("cifar10")), found)
    checkpoint: dict[str, Any] = torch.load(found, weights_only=True)
    network = ResNet8(checkpoint["channels"], checkpoint["classes"], checkpoint["width"])
    network.load_state_dict(checkpoint["state_dict"])
    spec = _spec(arrays["train_x"], _floats(checkpoint["mean"]), _floats(checkpoint["std"]))
    parts = {
        part: Part(spec.from_pixels(channels_first(arrays[f"{part}_x"])), arrays[f"{part}_y"].astype(np.int64))
        for part in PARTS
    }
    return BenchmarkCase(path.stem, RepairableModel(network.eval(), spec, "linear"), parts)


def read_arrays(path: Path) -> dict[str, npt.NDArray[Any]]:
    """A case's arrays as the file has them: uint8 images and their labels.

    Raises:
        InputError: if it is not an image case; the message names what is missing or wrong.
    """
    wanted = [f"{part}_{which}" for part in PARTS for which in "xy"]
    with np.load(path, allow_pickle=False) as file:
        missing = [name for name in wanted if name not in file.files]
        if missing:
            raise InputError(f"{path}: not an image case, it lacks {', '.join(missing)}")
        arrays = {name: file[name] for name in wanted}
    for part in PARTS:
        x, y = arrays[f"{part}_x"], arrays[f"{part}_y"]
        if x.dtype != np.uint8 or x.ndim not in (3, 4) or len(x) != len(y):
            raise InputError(
                f"{path}: expected {part}_x as uint8 (n, h, w) or (n, h, w, channels) with a label each, "
                f"got {x.dtype} {x.shape} with {len(y)} labels"
            )
    return arrays


def channels_first(images: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """``(n, h, w)`` or ``(n, h, w, channels)`` to ``(n, channels, h, w)``."""
    return images[:, None] if images.ndim == 3 else images.transpose(0, 3, 1, 2)


def _spec(images: npt.NDArray[Any], mean: tuple[float, ...], std: tuple[float, ...]) -> ImageInput:
    height, width = images.shape[1:3]
    return ImageInput(height=height, width=width, channels=1 if images.ndim == 3 else 3, mean=mean, std=std)


def _floats(values: Any) -> tuple[float, ...]:
    return tuple(float(value) for value in np.ravel(values))


def _train(arrays: dict[str, npt.NDArray[Any]], *, flip: bool) -> dict[str, Any]:
    images, labels = arrays["train_x"], arrays["train_y"]
    scaled = channels_first(images) / 255.0
    mean, std = _floats(scaled.mean(axis=(0, 2, 3))), _floats(scaled.std(axis=(0, 2, 3)))
    inputs = torch.from_numpy(_spec(images, mean, std).from_pixels(channels_first(images)))
    colour, classes = images.ndim == 4, int(labels.max()) + 1
    network = train_resnet8(
        inputs, torch.from_numpy(labels), classes, epochs=30 if colour else 12, crop=colour, flip=flip
    )
    return {
        "state_dict": network.state_dict(),
        "mean": list(mean),
        "std": list(std),
        "channels": inputs.shape[1],
        "classes": classes,
        "width": 32,
    }
