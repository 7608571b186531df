"""What every protocol gives: the instances of a request, and what the model said about each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from fieldrepair_service import drops
from fieldrepair_service.errors import DecodeError
from fieldrepair_service.exchange import Exchange


@dataclass(frozen=True)
class Predictions:
    """What the model answered for n instances."""

    scores: npt.NDArray[np.float32] | None
    """(n, classes), as answered: logits or probabilities. None if the answer was classes only."""
    predicted_class: npt.NDArray[np.int32] | None
    """(n,) index of the class. None if the answer does not say."""
    confidence: npt.NDArray[np.float32] | None
    """(n,) probability of the predicted class, in 0..1. None if the answer has neither scores nor a confidence."""


@dataclass(frozen=True)
class DecodedExchange:
    """A request and its answer, understood."""

    inputs: npt.NDArray[np.generic]
    """(n, *shape of one instance), n >= 1; numbers or booleans."""
    predictions: Predictions
    model_name: str = ""
    """The model that the request itself names; empty if its protocol has no place for that."""
    model_version: str = ""
    """The version that the request or its answer names; empty if neither does."""
    columns: tuple[str, ...] | None = None
    """What the request calls the numbers of an instance, in their order, if it is a table; a model server may read them
    by these names."""


class Decoder(Protocol):
    """Reads the exchanges of one protocol."""

    name: str
    """As the field log's column ``protocol`` has it."""

    def decode(self, exchange: Exchange) -> DecodedExchange:
        """Read an exchange.

        Raises:
            DecodeError: with the reason to count it under. Nothing else, whatever the bytes are.
        """
        ...


@dataclass(frozen=True)
class Inputs:
    """The instances of a request, and what the request calls their numbers."""

    values: npt.NDArray[np.generic]
    """(n, *shape of one instance)."""
    columns: tuple[str, ...] | None = None
    """One name per number of an instance, where the request is a table of numbers."""


def as_table(values: npt.NDArray[np.generic], names: Sequence[object]) -> Inputs:
    """Instances with the names of a table's columns, unless these do not name their numbers."""
    named = values.ndim == 2 and values.shape[1] == len(names) and all(isinstance(name, str) for name in names)
    return Inputs(values, tuple(map(str, names)) if named else None)


def read_scores(scores: npt.NDArray[np.float32]) -> Predictions:
    """Classes and confidences of (n, classes) scores.

    The class is that of the largest score, the first of equals. Where every row of an answer is non-negative and sums
    to 1 (within 0.001) the scores are probabilities already, and the largest is the confidence; otherwise they are
    taken for logits, and the confidence is that of their softmax. With one column there is no telling what it means:
    scores only.
    """
    if scores.shape[1] < 2:
        return Predictions(scores, None, None)
    predicted = scores.argmax(axis=1).astype(np.int32)
    wide = scores.astype(np.float64)
    with np.errstate(invalid="ignore", over="ignore"):
        if bool(np.all(wide >= 0)) and bool(np.all(np.abs(wide.sum(axis=1) - 1) <= 1e-3)):
            confidence = wide.max(axis=1)
        else:
            confidence = 1 / np.exp(wide - wide.max(axis=1, keepdims=True)).sum(axis=1)
    return Predictions(scores, predicted, np.clip(confidence, 0, 1).astype(np.float32))


def read_outputs(outputs: npt.NDArray[np.generic]) -> Predictions:
    """Classes, or scores, as the output of a model has them: one whole number per instance, or one row of scores.

    Args:
        outputs: (n,) or (n, classes), n >= 1; numbers or booleans.

    Raises:
        DecodeError: if it is neither.
    """
    whole = outputs.dtype.kind in "iub"
    if whole and (outputs.ndim == 1 or (outputs.ndim == 2 and outputs.shape[1] == 1)):
        limits = np.iinfo(np.int32)
        if int(outputs.max()) > limits.max or int(outputs.min()) < limits.min:
            raise DecodeError("a predicted class is beyond 32 bits", reason=drops.OUTPUT_SHAPE)
        return Predictions(None, outputs.reshape(-1).astype(np.int32), None)
    if outputs.ndim == 1:
        outputs = outputs.reshape(-1, 1)
    if outputs.ndim != 2 or outputs.shape[1] == 0:
        raise DecodeError(f"predictions of shape {outputs.shape} are not scores", reason=drops.OUTPUT_SHAPE)
    with np.errstate(over="ignore"):  # what does not fit becomes an infinity, and is counted as such
        return read_scores(outputs.astype(np.float32))


def as_numbers(values: object, what: str) -> npt.NDArray[np.generic]:
    """Nested lists of numbers as an array: float32, int64 or bool, whichever holds them all.

    JSON and CSV do not say which type was meant: numbers with a fraction or exponent become float32, which is what
    models take, whole numbers int64. A missing value (null) counts as NaN.

    Raises:
        DecodeError: if they are no numbers, or not of one shape.
    """
    # As objects first: NumPy would gladly make text of everything if one of a million numbers is a string.
    try:
        array = np.asarray(values, dtype=np.object_)
    except ValueError as error:
        raise DecodeError(f"{what} do not all have the same shape: {error}", reason=drops.RAGGED) from error
    kinds = set(map(type, array.ravel().tolist()))
    if list in kinds:
        raise DecodeError(f"{what} do not all have the same shape", reason=drops.RAGGED)
    if not kinds <= _NUMBERS:
        names = ", ".join(sorted(kind.__name__ for kind in kinds - _NUMBERS))
        raise DecodeError(f"{what} are not numbers, got {names}", reason=drops.NOT_NUMERIC)
    if kinds == {bool}:
        return array.astype(np.bool_)
    if kinds <= {int, bool}:
        try:
            return array.astype(np.int64)
        except OverflowError:
            pass  # whole numbers too large for that can still be floats
    try:
        with np.errstate(over="ignore"):  # what does not fit becomes an infinity, and is counted as such
            return array.astype(np.float64).astype(np.float32)
    except OverflowError as error:
        raise DecodeError(f"{what} are out of range: {error}", reason=drops.NOT_NUMERIC) from error


_NUMBERS: set[type] = {bool, int, float, type(None)}
