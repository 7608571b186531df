"""Open Inference Protocol v2: every datatype, in JSON and in binary, as servers and clients of it write them."""

from __future__ import annotations

import gzip
import json
import struct
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from fieldrepair_service import drops
from fieldrepair_service.errors import DecodeError
from fieldrepair_service.exchange import Exchange
from fieldrepair_service.protocols import DECODERS, DecodedExchange
from fieldrepair_service.protocols.tensors import DATATYPES

PATH = "/v2/models/digits/versions/7/infer"
SCORES = {"name": "scores", "datatype": "FP32", "shape": [2, 2], "data": [0.25, 0.75, 0.5, 0.5]}
VALUES: dict[str, list[Any]] = {
    "BOOL": [True, False, False, True],
    "UINT8": [0, 1, 200, 255],
    "UINT16": [0, 1, 2, 2**16 - 1],
    "UINT32": [0, 1, 2, 2**32 - 1],
    "UINT64": [0, 1, 2, 2**64 - 1],
    "INT8": [-128, 0, 1, 127],
    "INT16": [-(2**15), 0, 1, 2**15 - 1],
    "INT32": [-(2**31), 0, 1, 2**31 - 1],
    "INT64": [-(2**63), 0, 1, 2**63 - 1],
    "FP16": [-1.5, 0.0, 0.25, 65504.0],
    "FP32": [-1.5, 0.0, 0.25, 1e30],
    "FP64": [-1.5, 0.0, 0.1, 1e300],
    "BF16": [-1.5, 0.0, 0.25, 128.0],
}
NUMPY = {"BOOL": "bool", "FP16": "float16", "FP32": "float32", "FP64": "float64", "BF16": "float32"}


def bf16(values: npt.ArrayLike) -> bytes:
    return (np.asarray(values, dtype="<f4").view("<u4") >> 16).astype("<u2").tobytes()


def binary_of(datatype: str, values: list[Any]) -> bytes:
    if datatype == "BF16":
        return bf16(values)
    return np.asarray(values, dtype=np.dtype(NUMPY.get(datatype, datatype.lower())).newbyteorder("<")).tobytes()


def tensor(datatype: str, shape: list[int], data: Any = None, *, size: int | None = None, name: str = "x") -> Any:
    described: dict[str, Any] = {"name": name, "datatype": datatype, "shape": shape}
    if size is not None:
        return {**described, "parameters": {"binary_data_size": size}}
    return {**described, "data": data}


def exchange(
    inputs: Any,
    outputs: Any = None,
    *,
    binary: bytes | None = None,
    answer_binary: bytes | None = None,
    path: str = PATH,
    **changes: Any,
) -> Exchange:
    request = inputs if isinstance(inputs, bytes) else json.dumps({"inputs": inputs}).encode()
    answered = {"model_name": "digits", "model_version": "9", "outputs": [SCORES] if outputs is None else outputs}
    answer = outputs if isinstance(outputs, bytes) else json.dumps(answered).encode()
    fields: dict[str, Any] = {
        "request_body": request + (binary or b""),
        "request_json_length": "" if binary is None else str(len(request)),
        "answer_body": answer + (answer_binary or b""),
        "answer_json_length": "" if answer_binary is None else str(len(answer)),
        "request_path": path,
        "request_type": "application/json",
        "request_encoding": "",
        "answer_type": "application/json",
        "answer_encoding": "",
    }
    return Exchange(0, None, "unknown", "unknown", "open_inference", 200, 1.0, 1.0, **{**fields, **changes})


def decode(*args: Any, **options: Any) -> DecodedExchange:
    return DECODERS["open_inference"].decode(exchange(*args, **options))


def reason_of(*args: Any, **options: Any) -> str:
    with pytest.raises(DecodeError) as caught:
        decode(*args, **options)
    assert str(caught.value)
    assert caught.value.reason in drops.SHIPPER_REASONS
    return caught.value.reason


def test_every_datatype_is_covered() -> None:
    assert {*VALUES, "BYTES"} == set(DATATYPES)


@pytest.mark.parametrize("datatype", VALUES)
def test_every_datatype_in_json_and_in_binary(datatype: str) -> None:
    values = VALUES[datatype]
    expected = np.asarray(values, dtype=NUMPY.get(datatype, datatype.lower())).reshape(2, 2)
    body = binary_of(datatype, values)
    for decoded in (
        decode([tensor(datatype, [2, 2], values)]),
        decode([tensor(datatype, [2, 2], [values[:2], values[2:]])]),
        decode([tensor(datatype, [2, 2], size=len(body))], binary=body),
    ):
        assert decoded.inputs.dtype == expected.dtype
        np.testing.assert_array_equal(decoded.inputs, expected)


def test_rows_lie_along_the_first_axis() -> None:
    assert decode([tensor("FP32", [2, 1, 2, 3], [0.5] * 12)]).inputs.shape == (2, 1, 2, 3)
    assert decode([tensor("FP32", [2], [0.5, 1.5])]).inputs.shape == (2,)


def test_scores_in_json_and_in_binary() -> None:
    request = [tensor("FP32", [2, 1], [0.5, 1.5])]
    scores = [[0.25, 0.75], [0.5, 0.5]]
    flat = binary_of("FP32", [0.25, 0.75, 0.5, 0.5])
    half = bf16([0.25, 0.75, 0.5, 0.5])
    for decoded in (
        decode(request),
        decode(request, [tensor("FP32", [2, 2], scores)]),
        decode(request, [tensor("FP32", [2, 2], size=16)], answer_binary=flat),
        decode(request, [tensor("BF16", [2, 2], size=8)], answer_binary=half),
    ):
        read = decoded.predictions
        assert read.scores is not None
        assert read.predicted_class is not None
        assert read.confidence is not None
        np.testing.assert_array_equal(read.scores, np.asarray(scores, dtype=np.float32))
        assert read.predicted_class.tolist() == [1, 0]
        assert read.confidence.tolist() == [0.75, 0.5]


def test_json_and_binary_tensors_in_one_answer() -> None:
    """Binary parts follow in the order of their tensors, whatever stands between them."""
    labels = b"".join(struct.pack("<I", 3) + text for text in (b"cat", b"dog"))
    probabilities = binary_of("FP64", [0.25, 0.75, 1.0, 0.0])
    outputs = [
        tensor("BYTES", [2], size=len(labels), name="label"),
        tensor("INT64", [2], [5, 6], name="class_id"),
        tensor("FP64", [2, 2], size=len(probabilities), name="probabilities"),
    ]
    read = decode([tensor("UINT8", [2], [1, 2])], outputs, answer_binary=labels + probabilities).predictions
    assert read.predicted_class is not None
    assert read.predicted_class.tolist() == [1, 0]


@pytest.mark.parametrize("names", [("label", "probabilities"), ("logits", "embedding"), ("a", "OUTPUT__0")])
def test_of_several_outputs_the_one_that_is_named_like_scores(names: tuple[str, str]) -> None:
    which = next(at for at, name in enumerate(names) if name not in ("label", "embedding", "a"))
    outputs = [tensor("FP32", [1, 2], [0.0, 0.0], name=name) for name in names]
    outputs[which]["data"] = [0.25, 0.75]
    read = decode([tensor("FP32", [1, 1], [0.5])], outputs).predictions
    assert read.confidence is not None
    assert read.confidence.tolist() == [0.75]


@pytest.mark.parametrize("datatype", ["INT64", "INT32", "UINT8", "UINT64"])
@pytest.mark.parametrize("shape", [[2], [2, 1]])
def test_classes_without_scores(datatype: str, shape: list[int]) -> None:
    read = decode([tensor("FP32", [2, 1], [0.5, 1.5])], [tensor(datatype, shape, [3, 7])]).predictions
    assert read.predicted_class is not None
    assert read.predicted_class.tolist() == [3, 7]
    assert (read.scores, read.confidence) == (None, None)


def test_names_of_classes_are_no_classes() -> None:
    read = decode([tensor("FP32", [2, 1], [0.5, 1.5])], [tensor("BYTES", [2], ["cat", "dog"])]).predictions
    assert (read.scores, read.predicted_class, read.confidence) == (None, None, None)


@pytest.mark.parametrize(
    ("path", "name", "version"),
    [
        (PATH, "digits", "7"),
        ("/v2/models/digits/infer", "digits", "9"),
        ("/v2/models/d%C3%A4%2Fx%FF/infer", "dä/x\ufffd", "9"),
        ("", "", "9"),
    ],
)
def test_the_path_names_the_model(path: str, name: str, version: str) -> None:
    """And the answer its version, where the path leaves it to the server."""
    decoded = decode([tensor("FP32", [2, 1], [0.5, 1.5])], path=path)
    assert (decoded.model_name, decoded.model_version) == (name, version)


def test_compressed_bodies() -> None:
    """The header field counts bytes of what was compressed."""
    plain = exchange([tensor("FP32", [2, 1], size=8)], binary=binary_of("FP32", [0.5, 1.5]))
    decoded = decode(
        gzip.compress(plain.request_body),
        gzip.compress(plain.answer_body),
        request_json_length=plain.request_json_length,
        request_encoding="gzip",
        answer_encoding="gzip",
    )
    np.testing.assert_array_equal(decoded.inputs, [[0.5], [1.5]])
    assert reason_of(plain.request_body, request_encoding="br") == drops.CONTENT_TYPE
    assert reason_of([tensor("FP32", [2, 1], [1, 2])], answer_encoding="gzip") == drops.MALFORMED_ANSWER


def test_missing_values_are_read_as_such() -> None:
    inputs = decode([tensor("FP16", [2, 2], [None, 1e300, 1, 2.5])]).inputs
    assert np.isfinite(inputs.astype(np.float64)).tolist() == [[False, False], [True, True]]


FINE = tensor("FP32", [2, 1], [0.5, 1.5])
UNREADABLE: list[tuple[Any, str]] = [
    (b"", drops.MALFORMED_REQUEST),
    (b"[1]", drops.MALFORMED_REQUEST),
    (b'{"inputs": 1}', drops.MALFORMED_REQUEST),
    ([], drops.MALFORMED_REQUEST),
    ([1], drops.MALFORMED_REQUEST),
    ([{**FINE, "datatype": "FP8"}], drops.MALFORMED_REQUEST),
    ([{**FINE, "datatype": None}], drops.MALFORMED_REQUEST),
    ([{**FINE, "shape": [2, 2]}], drops.MALFORMED_REQUEST),
    ([{**FINE, "shape": [2, -1]}], drops.MALFORMED_REQUEST),
    ([{**FINE, "shape": [2, True]}], drops.MALFORMED_REQUEST),
    ([{**FINE, "shape": [1] * 33}], drops.MALFORMED_REQUEST),
    ([{**FINE, "shape": None}], drops.MALFORMED_REQUEST),
    ([{**FINE, "data": None}], drops.MALFORMED_REQUEST),
    ([{**FINE, "data": [0.5, "1.5"]}], drops.NOT_NUMERIC),
    ([{**FINE, "data": [[0.5], [1.5, 2.5]]}], drops.RAGGED),
    ([{**FINE, "data": [0.5, [1.5]]}], drops.RAGGED),
    ([{**FINE, "data": [0.5, 10**400]}], drops.MALFORMED_REQUEST),
    ([{**FINE, "datatype": "UINT8", "data": [1, 256]}], drops.MALFORMED_REQUEST),
    ([{**FINE, "datatype": "UINT8", "data": [1, 1.5]}], drops.MALFORMED_REQUEST),
    ([{**FINE, "datatype": "BOOL", "data": [1, 2]}], drops.MALFORMED_REQUEST),
    ([{**FINE, "parameters": {"binary_data_size": 8}}], drops.MALFORMED_REQUEST),
    ([{**FINE, "parameters": {"binary_data_size": "8"}}], drops.MALFORMED_REQUEST),
    ([{**FINE, "parameters": []}], drops.MALFORMED_REQUEST),
    ([tensor("FP32", [2, 1], size=0)], drops.MALFORMED_REQUEST),
    ([tensor("FP32", [2, 1], name="a"), tensor("FP32", [2, 1], name="b")], drops.MALFORMED_REQUEST),
    ([FINE, FINE], drops.SEVERAL_TENSORS),
    ([tensor("BYTES", [2], ["a", "b"])], drops.NOT_NUMERIC),
    ([tensor("FP32", [], [0.5])], drops.NO_BATCH),
    ([tensor("FP32", [0, 2], [])], drops.EMPTY),
    ([tensor("FP32", [0, 2**62, 2**62], [])], drops.EMPTY),
    ([tensor("FP32", [2**62, 2**62], [])], drops.MALFORMED_REQUEST),
]


@pytest.mark.parametrize(("inputs", "reason"), UNREADABLE)
def test_requests_that_cannot_be_read_have_a_reason(inputs: Any, reason: str) -> None:
    assert reason_of(inputs) == reason


@pytest.mark.parametrize(
    ("outputs", "reason"),
    [
        (b"oops", drops.MALFORMED_ANSWER),
        (b"[1]", drops.MALFORMED_ANSWER),
        ([], drops.MALFORMED_ANSWER),
        ([{**SCORES, "data": [0.5]}], drops.MALFORMED_ANSWER),
        ([{**SCORES, "shape": [4]}], drops.OUTPUTS_MISMATCH),
        ([{**SCORES, "shape": []}], drops.OUTPUTS_MISMATCH),
        ([{**SCORES, "shape": [2, 0], "data": []}], drops.OUTPUT_SHAPE),
        ([{**SCORES, "shape": [2, 1, 2]}], drops.OUTPUT_SHAPE),
        ([tensor("UINT64", [2], [2**63, 1])], drops.OUTPUT_SHAPE),
        ([tensor("INT64", [2], [-(2**63), 1])], drops.OUTPUT_SHAPE),
        ([{**SCORES, "name": "a"}, {**SCORES, "name": "b"}], drops.SEVERAL_TENSORS),
        ([{**SCORES, "name": "output_0"}, {**SCORES, "name": "output_1"}], drops.SEVERAL_TENSORS),
    ],
)
def test_answers_that_cannot_be_read_have_a_reason(outputs: Any, reason: str) -> None:
    assert reason_of([FINE], outputs) == reason


@pytest.mark.parametrize("length", ["0", "-1", "x", "²", "1000000", "9" * 5000, "1.5"])
def test_lengths_of_the_json_that_cannot_be(length: str) -> None:
    assert reason_of([FINE], request_json_length=length) == drops.MALFORMED_REQUEST
    assert reason_of([FINE], answer_json_length=length) == drops.MALFORMED_ANSWER


def test_binary_data_is_as_long_as_it_says() -> None:
    body = binary_of("FP32", [0.5, 1.5])
    for binary in (body[:-1], body + b"x", b""):
        assert reason_of([tensor("FP32", [2, 1], size=8)], binary=binary) == drops.MALFORMED_REQUEST
    assert reason_of([tensor("FP32", [2, 1], size=7)], binary=body) == drops.MALFORMED_REQUEST
    assert reason_of([tensor("BYTES", [1], size=8)], binary=body) == drops.NOT_NUMERIC


# -- the client of another house -----------------------------------------------------------------------------------

# It refuses 16-bit floats in JSON.
SENT_BY_TRITON = [
    (name, binary) for name in VALUES for binary in (True, False) if binary or name not in ("FP16", "BF16")
]


@pytest.mark.parametrize(("datatype", "binary"), SENT_BY_TRITON)
def test_what_tritons_client_sends_is_read(datatype: str, binary: bool) -> None:
    client: Any = pytest.importorskip("tritonclient.http")
    kind: Any = NUMPY.get(datatype, datatype.lower())
    if datatype == "BF16":
        kind = pytest.importorskip("ml_dtypes").bfloat16
    values = np.asarray(VALUES[datatype], dtype=kind).reshape(2, 2)
    sent = client.InferInput("x", [2, 2], datatype)
    sent.set_data_from_numpy(values, binary_data=binary)
    wanted = client.InferRequestedOutput("scores", binary_data=binary)
    body, length = client.InferenceServerClient.generate_request_body([sent], outputs=[wanted])
    decoded = decode(bytes(body), request_json_length="" if length is None else str(length))
    expected = values.astype(np.float32) if datatype == "BF16" else values
    assert decoded.inputs.dtype == expected.dtype
    np.testing.assert_array_equal(decoded.inputs, expected)


def test_tritons_client_reads_the_answers_of_these_tests_alike() -> None:
    client: Any = pytest.importorskip("tritonclient.http")
    outputs = [tensor("INT64", [2], [5, 6], name="class_id"), tensor("FP16", [2, 2], size=8, name="scores")]
    ours = exchange([FINE], outputs, answer_binary=binary_of("FP16", [0.25, 0.75, 1.0, 0.0]))
    theirs = client.InferResult.from_response_body(ours.answer_body, header_length=int(ours.answer_json_length))
    read = DECODERS["open_inference"].decode(ours).predictions
    assert read.scores is not None
    np.testing.assert_array_equal(read.scores, theirs.as_numpy("scores").astype(np.float32))
