"""TorchServe's predictions: JSON in the forms that handlers use; what only a handler can know is not guessed."""

from __future__ import annotations

import gzip
import json
from typing import Any

import numpy as np
import pytest

from fieldrepair_service import drops
from fieldrepair_service.errors import DecodeError
from fieldrepair_service.exchange import Exchange
from fieldrepair_service.protocols import DECODERS, DecodedExchange

IMAGE = [[0.5, 1.0], [1.5, 2.0]]


def decode(request: Any, answer: Any, *, path: str = "/predictions/digits/2.0", **changes: Any) -> DecodedExchange:
    fields: dict[str, Any] = {
        "request_type": "application/json",
        "request_encoding": "",
        "request_body": request if isinstance(request, bytes) else json.dumps(request).encode(),
        "answer_type": "application/json",
        "answer_encoding": "",
        "answer_body": answer if isinstance(answer, bytes) else json.dumps(answer).encode(),
        "request_path": path,
    }
    return DECODERS["torchserve"].decode(
        Exchange(0, None, "unknown", "unknown", "torchserve", 200, 1.0, 1.0, **{**fields, **changes})
    )


def reason_of(request: Any, answer: Any, **changes: Any) -> str:
    with pytest.raises(DecodeError) as caught:
        decode(request, answer, **changes)
    assert str(caught.value)
    assert caught.value.reason in drops.SHIPPER_REASONS
    return caught.value.reason


@pytest.mark.parametrize(
    "request_body",
    [
        [IMAGE, IMAGE],
        {"instances": [IMAGE, IMAGE]},
        {"instances": [{"data": IMAGE}, {"data": IMAGE}]},
        {"data": [IMAGE, IMAGE]},
    ],
)
@pytest.mark.parametrize("answer", [[3, 7], {"predictions": [3, 7]}, [[3], [7]]])
def test_batches(request_body: Any, answer: Any) -> None:
    decoded = decode(request_body, answer)
    np.testing.assert_array_equal(decoded.inputs, np.asarray([IMAGE, IMAGE], dtype=np.float32))
    assert decoded.predictions.predicted_class is not None
    assert decoded.predictions.predicted_class.tolist() == [3, 7]
    assert decoded.predictions.scores is None


@pytest.mark.parametrize("answer", [3, {"3": 0.5, "1": 0.25}, "cat"])
@pytest.mark.parametrize("request_body", [IMAGE, {"data": IMAGE}, {"instances": [IMAGE]}])
def test_an_answer_that_is_no_list_is_that_of_one_instance(request_body: Any, answer: Any) -> None:
    decoded = decode(request_body, answer)
    np.testing.assert_array_equal(decoded.inputs, np.asarray([IMAGE], dtype=np.float32))
    classes = decoded.predictions.predicted_class
    assert (None if classes is None else classes.tolist()) == ([3] if answer == 3 else None)


SCORES = [[0.1, 0.7, 0.2], [0.5, 0.3, 0.2]]


@pytest.mark.parametrize(
    "answer",
    [
        SCORES,
        {"predictions": SCORES},
        [{"1": 0.7, "2": 0.2, "0": 0.1}, {"0": 0.5, "1": 0.3, "2": 0.2}],
    ],
)
def test_scores_in_every_form(answer: Any) -> None:
    read = decode([[0.5], [1.5]], answer).predictions
    assert read.scores is not None
    assert read.predicted_class is not None
    assert read.confidence is not None
    np.testing.assert_array_equal(read.scores, np.asarray(SCORES, dtype=np.float32))
    assert read.predicted_class.tolist() == [1, 0]
    np.testing.assert_allclose(read.confidence, [0.7, 0.5], rtol=1e-6)


def test_scores_of_one_instance_need_no_list_around_them() -> None:
    read = decode([[0.5]], [0.1, 0.7, 0.2]).predictions
    assert read.scores is not None
    assert read.scores.shape == (1, 3)


@pytest.mark.parametrize(
    "answer",
    [
        {"tabby": 0.75, "tiger_cat": 0.25},  # names: which is which is not known
        {"1": 0.75, "0": 0.125},  # the rest belongs to classes that are not named
        {"7": 0.75, "2": 0.25},
        {"01": 0.75, "0": 0.25},
        {"1": 1.5, "0": -0.5},
        {"0": 1.0},
        {},
    ],
)
def test_the_most_likely_few_are_no_scores(answer: Any) -> None:
    read = decode([0.5], answer).predictions
    assert (read.scores, read.predicted_class, read.confidence) == (None, None, None)


def test_labelled_answers_of_different_sizes_are_no_scores() -> None:
    read = decode([[0.5], [1.5]], [{"0": 0.5, "1": 0.5}, {"0": 0.5, "1": 0.25, "2": 0.25}]).predictions
    assert read.scores is None


@pytest.mark.parametrize(
    ("path", "name", "version"),
    [("/predictions/a", "a", ""), ("/predictions/a%20b/2.0", "a b", "2.0"), ("/elsewhere", "", "")],
)
def test_the_path_names_the_model(path: str, name: str, version: str) -> None:
    decoded = decode([0.5], [1], path=path)
    assert (decoded.model_name, decoded.model_version) == (name, version)


@pytest.mark.parametrize("content_type", ["image/png", "application/octet-stream", "multipart/form-data; b=x", ""])
def test_bodies_that_only_the_handler_can_read(content_type: str) -> None:
    assert reason_of(b"\x89PNG", {"tabby": 0.5}, request_type=content_type) == drops.CONTENT_TYPE


def test_compressed_bodies() -> None:
    body, answer = gzip.compress(b"[0.5]"), gzip.compress(b"[1]")
    decoded = decode(
        body, answer, request_encoding="gzip", answer_encoding="gzip", request_type="application/json; a=b"
    )
    assert decoded.inputs.shape == (1,)
    assert reason_of(b"[0.5]", b"[1]", request_encoding="gzip") == drops.MALFORMED_REQUEST
    assert reason_of(b"[0.5]", b"[1]", answer_encoding="gzip") == drops.MALFORMED_ANSWER


@pytest.mark.parametrize(
    ("request_body", "answer", "reason"),
    [
        (b"x", [1], drops.MALFORMED_REQUEST),
        (5, [1], drops.MALFORMED_REQUEST),
        ({"text": "x"}, [1], drops.MALFORMED_REQUEST),
        ({"data": [1], "instances": [1]}, [1], drops.MALFORMED_REQUEST),
        ({"data": "aGVsbG8="}, [1], drops.MALFORMED_REQUEST),
        ({"instances": [{"a": 1, "b": 2}]}, [1], drops.SEVERAL_TENSORS),
        (["text"], [1], drops.NOT_NUMERIC),
        ([[1], [2, 3]], [1, 1], drops.RAGGED),
        ([], [], drops.EMPTY),
        ([1, 2, 3], [1, 2], drops.OUTPUTS_MISMATCH),
        ({"instances": [1, 2]}, {"0": 0.5, "1": 0.5}, drops.OUTPUTS_MISMATCH),
        ([1], b"tabby", drops.MALFORMED_ANSWER),
        ([1, 2], [{"0": 0.5, "1": 0.5}, 1], drops.MALFORMED_ANSWER),
        ([1], {"0": "x", "1": 0.5}, drops.NOT_NUMERIC),
        ([1], {"0": [0.5], "1": [0.5]}, drops.OUTPUT_SHAPE),
        ([1], [[[0.5, 0.5]]], drops.OUTPUT_SHAPE),
    ],
)
def test_what_cannot_be_read_has_a_reason(request_body: Any, answer: Any, reason: str) -> None:
    assert reason_of(request_body, answer) == reason
