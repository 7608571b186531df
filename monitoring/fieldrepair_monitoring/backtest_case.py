"""A benchmark case as something to replay: the old world as reference, unchanged traffic, then the shifted inputs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch

from fieldrepair_monitoring.backtest import ReplayWindow
from fieldrepair_monitoring.errors import HandOverError, ReferenceSetError
from fieldrepair_monitoring.handover import HandOver
from fieldrepair_monitoring.reference import Reference, read_arrays
from fieldrepair_monitoring.resnet8 import ResNet8
from fieldrepair_monitoring.served_model import ServedModel
from fieldrepair_service.inputs import ImageInput

Array = npt.NDArray[Any]

_CHECKPOINT = ("state_dict", "mean", "std", "channels", "classes", "width")


@dataclass(frozen=True)
class CaseToReplay:
    """A case, its model, and which inputs are what."""

    handover: HandOver
    model: ServedModel
    calm_x: Array
    """``(n, *served shape)`` inputs of the old world that the reference does not hold."""
    calm_y: Array
    field_x: Array
    """``(m, *served shape)`` shifted inputs, in their order."""
    field_y: Array

    def windows(self, size: int, *, calm: int, seed: int) -> Iterator[ReplayWindow]:
        """``calm`` windows of unchanged traffic, drawn at random, then the field.

        Args:
            size: inputs per window.
            calm: windows before the shift.
            seed: of the draws.

        Raises:
            ReferenceSetError: the case has fewer inputs than one window.
        """
        if min(len(self.calm_x), len(self.field_x)) < size:
            raise ReferenceSetError(
                f"a window needs {size} inputs, but the case has {len(self.calm_x)} unchanged ones beside its "
                f"reference and {len(self.field_x)} shifted ones; set a smaller --window-size"
            )
        generator = np.random.default_rng(seed)
        for _ in range(calm):
            drawn = generator.permutation(len(self.calm_x))[:size]
            yield ReplayWindow(self.calm_x[drawn], self.calm_y[drawn], None, shifted=False)
        for start in range(0, len(self.field_x) - size + 1, size):
            end = start + size
            yield ReplayWindow(self.field_x[start:end], self.field_y[start:end], None, shifted=True)


def load_case(path: Path, *, device: str, seed: int) -> CaseToReplay:
    """Read ``NAME.npz`` and the checkpoint ``NAME.pt`` beside it; the form is in docs/benchmarks.md.

    Half of the validation inputs are the reference, the other half is unchanged traffic.

    Raises:
        ReferenceSetError: the case is absent, no such file, or lacks an array.
        HandOverError: the checkpoint is absent or of another form.
    """
    arrays = read_arrays(path)
    missing = [name for name in ("field_x", "field_y") if name not in arrays]
    if missing:
        raise ReferenceSetError(f"{path} is no benchmark case: it lacks {', '.join(missing)}")
    images = arrays["train_x"]
    if images.dtype != np.uint8 or images.ndim not in (3, 4):
        raise ReferenceSetError(f"{path}: expected uint8 images (n, h, w[, 3]), got {images.dtype} {images.shape}")
    checkpoint = _checkpoint(path.with_suffix(".pt"))
    height, width = images.shape[1:3]
    spec = ImageInput(
        height=height,
        width=width,
        channels=1 if images.ndim == 3 else 3,
        mean=_floats(checkpoint["mean"]),
        std=_floats(checkpoint["std"]),
    )
    network = ResNet8(checkpoint["channels"], checkpoint["classes"], checkpoint["width"])
    network.load_state_dict(checkpoint["state_dict"])
    order = np.random.default_rng(seed).permutation(len(arrays["val_x"]))
    known, calm = order[: len(order) // 2], order[len(order) // 2 :]

    def served(name: str, rows: Array | None = None) -> Array:
        pixels = arrays[name] if rows is None else arrays[name][rows]
        return spec.from_pixels(pixels[:, None] if pixels.ndim == 3 else pixels.transpose(0, 3, 1, 2))

    labels = {name: arrays[name].astype(np.int64) for name in ("train_y", "val_y", "field_y")}
    reference = Reference(served("train_x"), labels["train_y"], served("val_x", known), labels["val_y"][known])
    names = tuple(map(str, range(int(checkpoint["classes"]))))
    handover = HandOver(spec, names, "linear", "logits", reference, {0: 0.0})
    model = ServedModel(network, handover, device=device)
    right = model.scores(reference.val_x).argmax(axis=1) == reference.val_y
    handover.accuracy_by_world[0] = float(right.mean())
    return CaseToReplay(
        handover, model, served("val_x", calm), labels["val_y"][calm], served("field_x"), labels["field_y"]
    )


def _checkpoint(path: Path) -> dict[str, Any]:
    try:
        loaded: object = torch.load(path, weights_only=True)
    except FileNotFoundError as error:
        raise HandOverError(f"the case's model {path} does not exist") from error
    except (RuntimeError, OSError, EOFError, ValueError) as error:
        raise HandOverError(f"cannot read {path} as a checkpoint: {error}") from error
    found = set(cast("dict[str, Any]", loaded)) if isinstance(loaded, dict) else set[str]()
    if not set(_CHECKPOINT) <= found:
        raise HandOverError(f"{path} must hold {', '.join(_CHECKPOINT)}, found {', '.join(sorted(found)) or 'none'}")
    return cast("dict[str, Any]", loaded)


def _floats(values: object) -> tuple[float, ...]:
    return tuple(float(value) for value in np.ravel(cast("Array", values)))
