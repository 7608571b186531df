"""Answers that say by name what they are: class, confidence, scores, in whatever of the usual words."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from fieldrepair_service import drops
from fieldrepair_service.errors import DecodeError
from fieldrepair_service.exchange import Exchange
from fieldrepair_service.protocols import DECODERS, Predictions


def answered(predictions: Any, protocol: str = "mlflow") -> Predictions:
    kind = "application/json"
    request = json.dumps({"instances": [[0.5, 1.5], [2.5, 3.5]]}).encode()
    answer = json.dumps({"predictions": predictions}).encode()
    exchange = Exchange(
        0, None, "m", "1", protocol, 200, 1.0, 1.0, kind, "", request, kind, "", answer, "/predictions/m"
    )
    return DECODERS[protocol].decode(exchange).predictions


def plain(predictions: Predictions) -> tuple[Any, Any, Any]:
    parts = (predictions.scores, predictions.predicted_class, predictions.confidence)
    return tuple(None if part is None else np.round(part.astype(float), 4).tolist() for part in parts)  # type: ignore[return-value]


@pytest.mark.parametrize("protocol", ["mlflow", "torchserve", "kserve"])
@pytest.mark.parametrize(
    ("each", "expected"),
    [
        ([{"label": 3, "score": 0.75}, {"label": 1, "score": 0.5}], (None, [3, 1], [0.75, 0.5])),
        ([{"Class": 3, "Confidence": 1}, {"Class": 0, "Confidence": 0}], (None, [3, 0], [1, 0])),
        ([{"label": "cat", "score": 0.75}, {"label": "dog", "score": 0.5}], (None, None, [0.75, 0.5])),
        ([{"predicted_class": 3}, {"predicted_class": 1}], (None, [3, 1], None)),
        ([{"label": 2**40, "score": 7}, {"label": 1, "score": 0.5}], (None, None, None)),
        (
            [{"probabilities": [0.25, 0.75], "label": "cat"}, {"probabilities": [1, 0], "label": "dog"}],
            ([[0.25, 0.75], [1, 0]], [1, 0], [0.75, 1]),
        ),
        (
            [{"logits": [0, 0], "class": 1}, {"logits": [0.0, 0], "class": 0}],
            ([[0, 0], [0, 0]], [1, 0], [0.5, 0.5]),
        ),
    ],
)
def test_what_has_a_name_is_what_it_says(protocol: str, each: Any, expected: tuple[Any, Any, Any]) -> None:
    assert plain(answered(each, protocol)) == expected


def test_columns_of_named_lists() -> None:
    assert plain(answered({"label": [3, 1], "score": [0.75, 0.5]})) == (None, [3, 1], [0.75, 0.5])
    assert plain(answered({"probabilities": [[0.25, 0.75], [1, 0]]})) == ([[0.25, 0.75], [1, 0]], [1, 0], [0.75, 1])
    with pytest.raises(DecodeError) as caught:
        answered({"a": [1, 2], "b": [3, 4]})
    assert caught.value.reason == drops.SEVERAL_TENSORS


def test_other_objects_are_columns_of_scores() -> None:
    assert plain(answered([{"cat": 0.25, "dog": 0.75}, {"cat": 1, "dog": 0}])) == (
        [[0.25, 0.75], [1, 0]], [1, 0], [0.75, 1],
    )  # fmt: skip
    assert plain(answered([{"0": 2.5, "1": 0.5}] * 2))[1] == [0, 0]
