"""Table rows and token sequences in words, for people who label them."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from fieldrepair_service.errors import InputError
from fieldrepair_service.inputs import TabularInput, TextInput


def describe_row(spec: TabularInput, instance: npt.NDArray[np.generic]) -> tuple[tuple[str, str, str], ...]:
    """(feature, value, unit) of each feature; codes as what they stand for.

    Raises:
        InputError: the instance does not have this layout.
    """
    _require_shape(spec, instance)
    units = spec.units or ("",) * len(spec.features)
    return tuple(
        (name, _value(value, spec.categories.get(name)), unit)
        for name, value, unit in zip(spec.features, instance.tolist(), units, strict=True)
    )


def in_one_line(spec: TabularInput | TextInput, instance: npt.NDArray[np.generic]) -> str:
    """A table row or a text in one line: ``age 34 years, plan paid``.

    Raises:
        InputError: the instance does not have this layout.
    """
    if isinstance(spec, TextInput):
        return describe_text(spec, instance)
    return ", ".join(" ".join(part for part in cell if part) for cell in describe_row(spec, instance))


def describe_text(spec: TextInput, instance: npt.NDArray[np.generic]) -> str:
    """The text of the tokens, without padding at its end.

    Raises:
        InputError: the instance does not have this layout.
    """
    _require_shape(spec, instance)
    tokens: list[int] = instance.tolist()
    while tokens and tokens[-1] == spec.padding:
        tokens = tokens[:-1]
    words = [spec.vocabulary[int(token)] if 0 <= token < len(spec.vocabulary) else f"[{token}]" for token in tokens]
    return spec.joiner.join(words) or "(empty)"


def _value(value: float, names: tuple[str, ...] | None) -> str:
    if math.isnan(value):
        return "missing"
    whole = float(value).is_integer()
    if names is not None and whole and 0 <= value < len(names):
        return names[int(value)]
    return f"{int(value):,}" if whole and abs(value) < 1e15 else f"{value:.6g}"


def _require_shape(spec: TabularInput | TextInput, instance: npt.NDArray[np.generic]) -> None:
    if instance.shape != spec.shape or instance.dtype.kind not in "fiub":
        raise InputError(
            f"expected an instance of {spec.shape} numbers, got an array {instance.shape} of {instance.dtype}"
        )
