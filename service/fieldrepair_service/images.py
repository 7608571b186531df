"""Field inputs as pictures for the person who labels them."""

from __future__ import annotations

import io
import logging
import math
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image
from pydantic import ValidationError

from fieldrepair_service.errors import ImageUnavailable, InputError, RowsNotFound
from fieldrepair_service.field_log import FieldLog, FieldRows
from fieldrepair_service.inputs import ImageInput, InputSpec, arranged

logger = logging.getLogger(__name__)

MAX_SCALE = 32
COMFORTABLE_SIDE = 320
"""Pixels that the longer side of a picture has by default, about."""
LARGEST_SIDE = 4096
"""Pixels that the longer side of an enlarged picture has at most."""

_READ_BYTES = 32 * 2**20
_READ_ROWS = 256
_COLUMNS = ("input", "dtype", "shape", "columns", "predicted_class", "confidence")
READ_AHEAD = _READ_ROWS
"""How many neighbours a read of the field log takes along at most."""

Key = tuple[str, int]
Instance = npt.NDArray[np.generic]


@dataclass(frozen=True)
class Prediction:
    """What the model said about a field input."""

    predicted_class: int
    confidence: float | None
    """0..1, if it said."""


def image_input(spec: Mapping[str, object]) -> ImageInput:
    """The layout a case's inputs have.

    Args:
        spec: ``ImageInput.model_dump()`` as the case book has it.

    Raises:
        ImageUnavailable: the inputs are not images.
    """
    try:
        return ImageInput.model_validate(spec)
    except ValidationError as error:
        kind = spec.get("kind", "unknown")
        raise ImageUnavailable(f"this case's inputs cannot be shown as images (kind {kind!r})") from error


def fitting_scale(spec: ImageInput, scale: int | None = None) -> int:
    """How many pixels of the picture show one pixel of the input, per side.

    Args:
        spec: layout of the input.
        scale: what was asked for, 1 to 32; None for a picture of about 320 pixels.

    Returns:
        A whole number of at least 1; less than asked for if the picture would exceed 4096 pixels.
    """
    side = max(spec.height, spec.width)
    wanted = round(COMFORTABLE_SIDE / side) if scale is None else scale
    return max(1, min(wanted, MAX_SCALE, LARGEST_SIDE // side))


def render_png(instance: Instance, spec: ImageInput, scale: int | None = None) -> bytes:
    """PNG of one field input, enlarged without smoothing: the labeller sees the pixels that the model saw.

    Args:
        instance: ``spec.shape`` numbers as the model server received them.
        spec: how they stand and what they mean.
        scale: see :func:`fitting_scale`.

    Raises:
        ImageUnavailable: if the instance does not have this shape.
    """
    try:
        pixels = spec.to_pixels(instance[np.newaxis])[0]
    except InputError as error:
        raise ImageUnavailable(f"this field input is not an image of the case's layout: {error}") from error
    factor = fitting_scale(spec, scale)
    enlarged = pixels.repeat(factor, axis=1).repeat(factor, axis=2)
    picture = Image.fromarray(enlarged[0] if spec.channels == 1 else enlarged.transpose(1, 2, 0))
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    return buffer.getvalue()


class InputCache:
    """Field inputs of the cases that are being labelled, in memory, least recently used out first.

    A miss reads the neighbours along: a labeller asks for them next, and one read of the field log costs about
    the same for one row as for a hundred. Safe to share between threads.
    """

    def __init__(self, field_log: FieldLog, *, max_bytes: int = 64 * 2**20) -> None:
        self._field_log = field_log
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._instances: OrderedDict[Key, Instance] = OrderedDict()
        self._predictions: dict[Key, Prediction] = {}  # of the same keys, where the model's answer was readable
        self._bytes = 0

    def cached(self, key: Key) -> Instance | None:
        """A field input if it is in memory."""
        with self._lock:
            if key in self._instances:
                self._instances.move_to_end(key)
            return self._instances.get(key)

    def prediction(self, key: Key) -> Prediction | None:
        """What the model said about a field input that was read; None if it is not in memory, or has no answer."""
        with self._lock:
            return self._predictions.get(key)

    def read(self, key: Key, neighbours: Sequence[Key], spec: InputSpec) -> Instance:
        """A field input, read from the field log with its neighbours if it is not in memory.

        Args:
            key: (request_id, row).
            neighbours: keys likely to be asked for next, the likeliest first; as many are read as fit.
            spec: their layout, to judge how many fit.

        Raises:
            ImageUnavailable: the field log does not have it, or it cannot be read.
            StoreError: the field log does not answer.
        """
        with self._lock:  # also over the read: who waits here most likely waits for the same rows
            if key not in self._instances:
                self._fill(key, neighbours, spec)
            return self._instances[key]

    def _fill(self, key: Key, neighbours: Sequence[Key], spec: InputSpec) -> None:
        instance_bytes = math.prod(spec.shape) * 8
        room = max(1, min(_READ_ROWS, _READ_BYTES // instance_bytes, self._max_bytes // instance_bytes))
        others = [other for other in neighbours if other != key and other not in self._instances]
        keys = [key, *others[: room - 1]]
        try:
            rows = self._field_log.read_rows(keys, columns=_COLUMNS)
        except RowsNotFound as error:
            if key in error.missing or not error.missing:
                raise ImageUnavailable(f"{_name(key)} is not in the field log any more") from error
            keys = [other for other in keys if other not in error.missing]
            rows = self._field_log.read_rows(keys, columns=_COLUMNS)
        predictions = _predictions(rows)
        self._keep(key, _instance(rows, 0, key, spec), predictions[0])
        for index, other in enumerate(keys[1:], start=1):
            try:
                self._keep(other, _instance(rows, index, other, spec), predictions[index])
            except ImageUnavailable as error:  # noqa: PERF203  (its turn comes when it is asked for)
                logger.info("not read ahead: %s", error)
        while self._bytes > self._max_bytes and len(self._instances) > 1:
            # The one that was asked for stays: it came in first, but the caller takes it now.
            oldest = next(other for other in self._instances if other != key)
            self._bytes -= self._instances.pop(oldest).nbytes
            self._predictions.pop(oldest, None)

    def _keep(self, key: Key, instance: Instance, prediction: Prediction | None) -> None:
        self._instances[key] = instance
        if prediction is not None:
            self._predictions[key] = prediction
        self._bytes += instance.nbytes


def _predictions(rows: FieldRows) -> list[Prediction | None]:
    table = rows.to_table()
    classes = table.column("predicted_class").to_pylist()
    confidences = table.column("confidence").to_pylist()
    return [
        None if predicted is None else Prediction(predicted, confidence)
        for predicted, confidence in zip(classes, confidences, strict=True)
    ]


def _instance(rows: FieldRows, index: int, key: Key, spec: InputSpec) -> Instance:
    # One by one: clients of one model may send float32 and float64, and each row says which it is.
    try:
        row = rows.take([index])
        return arranged(spec, row.inputs()[0], row.columns()[0])
    except (InputError, TypeError, ValueError) as error:
        raise ImageUnavailable(f"{_name(key)} cannot be read: {error}") from error


def _name(key: Key) -> str:
    return f"the field input (request {key[0]}, row {key[1]})"
