"""KServe's events: which protocol the bodies speak, where their JSON ends, and whether they are compressed."""

from __future__ import annotations

import gzip
import json

import numpy as np
import pytest

from fieldrepair_service import drops
from fieldrepair_service.errors import DecodeError
from fieldrepair_service.exchange import Exchange
from fieldrepair_service.protocols import DECODERS, DecodedExchange

INPUTS = np.array([[0.5, 1.5], [2.5, 3.5]], dtype=np.float32)
SCORES = np.array([[0.25, 0.75], [1.0, 0.0]], dtype=np.float32)


def decode(request: bytes, answer: bytes, kind: str = "", length: str = "") -> DecodedExchange:
    return DECODERS["kserve"].decode(
        Exchange(0, None, "m", "1", "kserve", 200, 1.0, 1.0, kind, "", request, kind, "", answer, "", length)
    )


def version_2(key: str, name: str, values: np.ndarray[tuple[int, ...], np.dtype[np.float32]], binary: bool) -> bytes:
    tensor: dict[str, object] = {"name": name, "datatype": "FP32", "shape": list(values.shape)}
    if binary:
        tensor["parameters"] = {"binary_data_size": values.nbytes}
    else:
        tensor["data"] = values.tolist()
    return json.dumps({"model_version": "7", key: [tensor]}).encode() + (values.tobytes() if binary else b"")


@pytest.mark.parametrize("kind", ["application/json", "", "application/x-www-form-urlencoded"])
@pytest.mark.parametrize("packed", [False, True])
def test_version_1(kind: str, packed: bool) -> None:
    request = json.dumps({"instances": INPUTS.tolist()}).encode()
    answer = json.dumps({"predictions": [1, 0]}).encode()
    decoded = decode(gzip.compress(request) if packed else request, gzip.compress(answer) if packed else answer, kind)
    np.testing.assert_array_equal(decoded.inputs, INPUTS)
    assert decoded.predictions.predicted_class is not None
    assert decoded.predictions.predicted_class.tolist() == [1, 0]


@pytest.mark.parametrize("asked", [False, True])
@pytest.mark.parametrize("answered", [False, True])
@pytest.mark.parametrize("said", [False, True])
def test_version_2_json_and_binary(asked: bool, answered: bool, said: bool) -> None:
    request = version_2("inputs", "x", INPUTS, asked)
    length = str(len(request) - INPUTS.nbytes * asked) if said else ""
    decoded = decode(request, version_2("outputs", "y", SCORES, answered), "application/octet-stream", length)
    np.testing.assert_array_equal(decoded.inputs, INPUTS)
    assert decoded.predictions.scores is not None
    np.testing.assert_array_equal(decoded.predictions.scores, SCORES)
    assert decoded.model_version == "7"


@pytest.mark.parametrize(
    ("request_body", "answer", "reason"),
    [
        (b"", b"{}", drops.MALFORMED_REQUEST),
        (b"[1]", b"{}", drops.MALFORMED_REQUEST),
        (b'{"instances": [[1.0]]}', b"", drops.MALFORMED_ANSWER),
        (b"{" * 2000, b"{}", drops.MALFORMED_REQUEST),
        (b'{"a":' * 5000 + b"\xff", b"{}", drops.MALFORMED_REQUEST),
        (b"\x1f\x8bnothing", b"{}", drops.MALFORMED_REQUEST),
        (b'{"instances": [' + b"[]," * (3 << 20) + b"[]]}", b"{}", drops.TOO_LARGE_DECODED),
    ],
)
def test_what_is_neither(request_body: bytes, answer: bytes, reason: str) -> None:
    with pytest.raises(DecodeError) as caught:
        decode(request_body, answer)
    assert caught.value.reason == reason
