"""Answers that say by name what they are: ``{"label": 3, "score": 0.98}``, or ``{"probabilities": [...]}``.

Not columns of scores, which is what other answers of JSON objects are.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from fieldrepair_service.protocols.base import Predictions, as_numbers, read_scores
from fieldrepair_service.protocols.bodies import is_dict, is_list

_CLASS = frozenset(("predicted_class", "class_id", "class", "label", "prediction"))
_CONFIDENCE = frozenset(("confidence", "score", "probability", "prob"))
_SCORES = frozenset(("probabilities", "probs", "scores", "logits"))
_INT32 = np.iinfo(np.int32)


def read_named(answers: list[object]) -> Predictions | None:
    """What such answers say, one JSON object for each instance; None if they are not of this kind.

    A class that is a name, or no whole number, is left empty, as it is elsewhere; so is a confidence outside 0..1.

    Raises:
        DecodeError: if scores are not numbers, or not of one shape.
    """
    records = [answer for answer in answers if is_dict(answer)]
    if not records or len(records) < len(answers) or any(each.keys() != records[0].keys() for each in records):
        return None
    names = {name.lower(): name for name in records[0]}
    found = [names.keys() & kind for kind in (_CLASS, _CONFIDENCE, _SCORES)]
    # All of what it says must be understood, and said once.
    if len(names) != sum(map(len, found)) or any(len(each) > 1 for each in found):
        return None
    classes, confidences, scores = (_values(records, names, each) for each in found)
    if scores is not None:
        array = as_numbers(scores, "the scores") if all(is_list(each) for each in scores) else None
        if array is None or array.ndim != 2 or array.shape[1] == 0:
            return None
        with np.errstate(over="ignore"):
            read = read_scores(array.astype(np.float32))
        given = None if classes is None else _classes(classes)
        return read if given is None else Predictions(read.scores, given, read.confidence)
    if classes is None:
        return None
    return Predictions(None, _classes(classes), None if confidences is None else _confidences(confidences))


def _values(records: list[dict[str, object]], names: dict[str, str], keys: set[str]) -> list[object] | None:
    for key in keys:
        return [record[names[key]] for record in records]
    return None


def _classes(values: list[object]) -> npt.NDArray[np.int32] | None:
    numbers = [value for value in values if type(value) is int and _INT32.min <= value <= _INT32.max]
    return np.array(numbers, dtype=np.int32) if len(numbers) == len(values) else None


def _confidences(values: list[object]) -> npt.NDArray[np.float32] | None:
    numbers = [value for value in values if type(value) in (int, float) and 0 <= value <= 1]  # type: ignore[operator]
    return np.array(numbers, dtype=np.float32) if len(numbers) == len(values) else None
