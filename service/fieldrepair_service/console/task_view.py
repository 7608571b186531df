"""What a person sees of a field input: a picture, the named values of a table row, or a text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from fieldrepair_service.errors import ImageUnavailable, InputError
from fieldrepair_service.input_text import describe_row, describe_text
from fieldrepair_service.inputs import ImageInput, TabularInput, TextInput, read_input_spec

if TYPE_CHECKING:
    from fieldrepair_service.case_book import Case, Task
    from fieldrepair_service.images import Prediction
    from fieldrepair_service.stores import Stores

_COARSE = 200
"""Pictures of up to so many pixels a side are shown as crisp squares; larger ones would flicker when made smaller."""


@dataclass(frozen=True)
class TaskView:
    """One field input as the page shows it."""

    kind: Literal["image", "tabular", "text", "unreadable"]
    width: int = 0
    """Of an image, in pixels."""
    height: int = 0
    rows: tuple[tuple[str, str, str], ...] = ()
    """Of a table row: (feature, value, unit)."""
    text: str = ""
    """Of a text; of an unreadable input, why."""
    prediction: str | None = None
    """The model's answer, in words."""

    @property
    def coarse(self) -> bool:
        """Whether pixels are shown as squares."""
        return max(self.width, self.height) <= _COARSE


def view_task(stores: Stores, case: Case, task: Task) -> TaskView:
    """Read a task's field input, with those that come next, and put it into words and numbers.

    Raises:
        StoreError: a store does not answer. An input that cannot be shown is no error: it is to be skipped.
    """
    from fieldrepair_service.images import READ_AHEAD

    key = (task.request_id, task.row)
    try:
        spec = read_input_spec(case.input_spec)
        instance = stores.inputs.cached(key)
        if instance is None:
            instance = stores.inputs.read(key, stores.book.following(task, limit=READ_AHEAD), spec)
        said = _in_words(stores.inputs.prediction(key), case.class_names)
        return _view(spec, instance, said)
    except (ImageUnavailable, InputError) as error:
        return TaskView("unreadable", text=str(error))


def _view(spec: ImageInput | TabularInput | TextInput, instance: npt.NDArray[np.generic], said: str | None) -> TaskView:
    if isinstance(spec, ImageInput):
        spec.to_pixels(instance[np.newaxis])  # says if the instance is not of this layout
        return TaskView("image", width=spec.width, height=spec.height, prediction=said)
    if isinstance(spec, TabularInput):
        return TaskView("tabular", rows=describe_row(spec, instance), prediction=said)
    return TaskView("text", text=describe_text(spec, instance), prediction=said)


def _in_words(prediction: Prediction | None, class_names: tuple[str, ...]) -> str | None:
    if prediction is None:
        return None
    index = prediction.predicted_class
    name = class_names[index] if 0 <= index < len(class_names) else f"class {index}"
    return name if prediction.confidence is None else f"{name} ({100 * prediction.confidence:.0f} % sure)"
