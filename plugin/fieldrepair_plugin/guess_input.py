"""Guesses how served instances are laid out and scaled, where their numbers and names leave no doubt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from fieldrepair_monitoring.errors import HandOverMismatchError
from fieldrepair_monitoring.reference import Reference
from fieldrepair_service.inputs import ImageInput, InputSpec, Layout, TabularInput, TextInput

_REMEDY = (
    "describe it. An image: input=ImageInput(height=..., width=..., channels=..., layout=..., mean=..., std=...) in "
    "Python, --input.height 28 --input.width 28 --input.channels 1 --input.layout CHW --input.mean 0.5 --input.std 0.5 "
    "on the command line (served = (pixel / 255 - mean) / std; add flat=True or --input.flat for one row of numbers). "
    "A table row: input=TabularInput(features=(...)), --input.kind tabular --input.features age,income. "
    "A text: input=TextInput(length=...), --input.kind text --input.length 128"
)


def guess_input(reference: Reference, feature_names: Sequence[str] | None = None) -> InputSpec:
    """The served form that the reference set shows.

    Rows of numbers whose columns have names are taken for table rows. Shapes ``(H, W)``, ``(1 or 3, H, W)`` and
    ``(H, W, 1 or 3)`` are taken for images; values in 0..1 or 0..255 for pixels without normalisation.

    Args:
        reference: the reference set.
        feature_names: one per number of an instance, where they are known.

    Raises:
        HandOverMismatchError: if there is more than one reading; the message shows how to say which.
    """
    # A client's JSON numbers reach the model as float32; whole numbers keep their type.
    dtype = "float32" if reference.train_x.dtype.kind == "f" else str(reference.train_x.dtype)
    if feature_names is not None and len(reference.shape) == 1:
        if len(feature_names) != reference.shape[0]:
            raise HandOverMismatchError(
                f"there are names for {len(feature_names)} features, but the reference set holds rows of "
                f"{reference.shape[0]} numbers"
            )
        return TabularInput(features=tuple(feature_names), dtype=dtype)
    layout, height, width, channels = _layout(reference.shape)
    values = reference.train_x.astype(np.float64)
    low, high = float(values.min()), float(values.max())
    if low >= 0.0 and high <= 1.0 and reference.train_x.dtype.kind == "f":
        std = 1.0
    elif low >= 0.0 and 32.0 < high <= 255.0:
        std = 1.0 / 255.0
    else:
        raise HandOverMismatchError(
            f"the reference set's values go from {low:.4g} to {high:.4g}, so they are neither plain 0..1 nor 0..255 "
            f"pixels and their normalisation cannot be guessed; {_REMEDY}"
        )
    return ImageInput(height=height, width=width, channels=channels, layout=layout, dtype=dtype, std=(std,))


def in_words(spec: InputSpec) -> str:
    """What a guess was, for the person who must notice if it is wrong."""
    if isinstance(spec, ImageInput):
        return (
            f"instances are {spec.layout} of {spec.height} x {spec.width} pixels, {spec.channels} channel(s), "
            f"mean {spec.mean}, std {spec.std}; pass input=ImageInput(...) or --input.* if that is wrong"
        )
    if isinstance(spec, TextInput):
        return f"instances are texts of {spec.length} tokens; pass input=TextInput(...) or --input.* if that is wrong"
    shown = ", ".join(spec.features[:5]) + (", ..." if len(spec.features) > 5 else "")
    return (
        f"instances are table rows of {len(spec.features)} features ({shown}); pass input=TabularInput(...) for units "
        "and categories, input=ImageInput(..., flat=True) if they are pixels"
    )


def _layout(shape: tuple[int, ...]) -> tuple[Layout, int, int, Literal[1, 3]]:
    if len(shape) == 2:
        return "HW", shape[0], shape[1], 1
    if len(shape) == 3:
        first, last = shape[0] in (1, 3), shape[2] in (1, 3)
        if first and not last:
            return "CHW", shape[1], shape[2], 1 if shape[0] == 1 else 3
        if last and not first:
            return "HWC", shape[0], shape[1], 1 if shape[2] == 1 else 3
    raise HandOverMismatchError(
        f"the served form of instances of shape {shape} cannot be guessed (height, width and channels are not clear, "
        f"and columns have no names); {_REMEDY}"
    )
