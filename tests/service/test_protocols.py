"""What every decoder must do, whatever its protocol, and which path belongs to which."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fieldrepair_service import drops
from fieldrepair_service.errors import DecodeError
from fieldrepair_service.exchange import UNKNOWN_MODEL, Exchange
from fieldrepair_service.protocols import DECODERS, Decoder
from fieldrepair_service.routes import model_in, protocol_of
from fieldrepair_service.rows import to_rows

INSTANCES = [[0.5, 1.5], [2.5, 3.5], [4.5, 5.5]]
SCORES = [[0.25, 0.75], [1.0, 0.0], [0.5, 0.5]]


def v2(key: str, name: str, values: list[list[float]]) -> dict[str, Any]:
    return {key: [{"name": name, "datatype": "FP32", "shape": [3, 2], "data": values}]}


# A request for INSTANCES and its answer SCORES, in each protocol. A new decoder adds a line here.
TALKS: dict[str, tuple[str, Any, Any]] = {
    "mlflow": ("/invocations", {"inputs": INSTANCES}, {"predictions": SCORES}),
    "open_inference": ("/v2/models/m/infer", v2("inputs", "x", INSTANCES), v2("outputs", "y", SCORES)),
    "torchserve": ("/predictions/m", INSTANCES, SCORES),
    "kserve": ("", {"instances": INSTANCES}, {"predictions": SCORES}),  # events come without a path
}
each_protocol: Callable[[Callable[..., None]], Any] = pytest.mark.parametrize("protocol", list(DECODERS))


def good(protocol: str) -> Exchange:
    path, request, answer = TALKS[protocol]
    asked, answered = json.dumps(request).encode(), json.dumps(answer).encode()
    kind = "application/json"
    return Exchange(
        0, None, UNKNOWN_MODEL, UNKNOWN_MODEL, protocol, 200, 1.0, 1.0, kind, "", asked, kind, "", answered, path
    )


def check(exchange: Exchange) -> None:
    """The contract: arrays of one length, ready to be rows; or a DecodeError with a reason, and nothing else."""
    try:
        decoded = DECODERS[exchange.protocol].decode(exchange)
    except DecodeError as error:
        assert error.reason in drops.SHIPPER_REASONS  # noqa: PT017 - either of the two is right
        return
    inputs, predictions = decoded.inputs, decoded.predictions
    assert inputs.ndim >= 1
    assert inputs.size > 0
    assert inputs.dtype.kind in "biuf"
    count = len(inputs)
    if predictions.scores is not None:
        assert predictions.scores.dtype == np.float32
        assert predictions.scores.ndim == 2
        assert len(predictions.scores) == count
    if predictions.predicted_class is not None:
        assert predictions.predicted_class.dtype == np.int32
        assert predictions.predicted_class.shape == (count,)
    if predictions.confidence is not None:
        assert predictions.scores is not None or predictions.confidence.min() >= 0
        assert predictions.confidence.dtype == np.float32
        assert predictions.confidence.shape == (count,)
    rows, left_out = to_rows("w" * 32, 1, exchange, decoded)
    assert len(rows) + left_out.total() == count


def test_every_decoder_keeps_the_contract() -> None:
    assert list(TALKS) == list(DECODERS)
    for name, decoder in DECODERS.items():
        kept: Decoder = decoder
        assert kept.name == name


@each_protocol
def test_the_same_talk_is_read_alike(protocol: str) -> None:
    decoded = DECODERS[protocol].decode(good(protocol))
    np.testing.assert_array_equal(decoded.inputs, np.asarray(INSTANCES, dtype=np.float32))
    assert decoded.predictions.scores is not None
    assert decoded.predictions.predicted_class is not None
    assert decoded.predictions.confidence is not None
    np.testing.assert_array_equal(decoded.predictions.scores, np.asarray(SCORES, dtype=np.float32))
    assert decoded.predictions.predicted_class.tolist() == [1, 0, 0]
    assert decoded.predictions.confidence.tolist() == [0.75, 1.0, 0.5]
    check(good(protocol))


@pytest.mark.parametrize("protocol", [name for name, (path, *_) in TALKS.items() if path])
def test_every_path_is_that_of_its_protocol(protocol: str) -> None:
    path = TALKS[protocol][0].encode()
    assert protocol_of("POST", path) == protocol
    assert protocol_of("GET", path) is None
    assert protocol_of("POST", path + b"/") is None


@pytest.mark.parametrize(
    "path",
    [b"/", b"", b"/ping", b"/v2", b"/v2/models/m", b"/v2/models//infer", b"/v2/models/m/ready", b"/v2/models/a/b/infer",
     b"/v2/models/m/versions/infer", b"/v2/models/m/versions//infer", b"/v2/models/m/generate", b"/predictions",
     b"/predictions/", b"/predictions/m/1/x", b"/xinvocations", b"/x/invocations", b"/invocations\n", b"/\xff"],
)  # fmt: skip
def test_every_other_path_is_nobodys(path: bytes) -> None:
    assert protocol_of("POST", path) is None
    assert model_in(path.decode("latin-1")) == ("", "")


def test_paths_name_models() -> None:
    assert model_in("/invocations") == ("", "")
    assert model_in("/v2/models/a%2Fb/versions/3/infer") == ("a/b", "3")
    assert model_in("/predictions/m/2.0") == ("m", "2.0")
    assert model_in("\ud800 €") == ("", "")


@each_protocol
@pytest.mark.parametrize(
    ("upstream", "logged"),
    [
        (("digits", "3"), ("digits", "3")),
        (("digits", UNKNOWN_MODEL), ("digits", UNKNOWN_MODEL)),
        ((UNKNOWN_MODEL, UNKNOWN_MODEL), None),
    ],
)
def test_an_upstreams_own_name_comes_first(
    protocol: str, upstream: tuple[str, str], logged: tuple[str, str] | None
) -> None:
    exchange = replace(good(protocol), model_name=upstream[0], model_version=upstream[1])
    rows, _ = to_rows("w" * 32, 1, exchange, DECODERS[protocol].decode(exchange))
    first = pa.table(rows).to_pylist()[0]
    named = ("m" if "/m" in TALKS[protocol][0] else UNKNOWN_MODEL, UNKNOWN_MODEL)
    assert (first["model_name"], first["model_version"]) == (logged or named)


# -- whatever comes ----------------------------------------------------------------------------------------------

leaves: st.SearchStrategy[Any] = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
trees: st.SearchStrategy[Any] = st.recursive(
    leaves,
    lambda below: st.lists(below, max_size=4) | st.dictionaries(st.sampled_from(["0", "1", "x"]), below, max_size=3),
    max_leaves=20,
)
datatypes = st.sampled_from(["BOOL", "UINT8", "INT64", "UINT64", "FP16", "BF16", "FP32", "FP64", "BYTES", "?"])
tensors = st.fixed_dictionaries(
    {"name": st.sampled_from(["x", "scores"]), "datatype": datatypes},
    optional={
        "shape": st.lists(st.integers(-1, 4) | st.just(2**62), max_size=3) | trees,
        "data": trees,
        "parameters": st.fixed_dictionaries({}, optional={"binary_data_size": st.integers(-1, 20) | leaves}),
    },
)
messages: st.SearchStrategy[Any] = (
    trees
    | st.fixed_dictionaries({"inputs": st.lists(tensors, max_size=2), "outputs": st.lists(tensors, max_size=3)})
    | st.dictionaries(st.sampled_from(["inputs", "instances", "data", "predictions", "outputs"]), trees, max_size=2)
)
lengths = st.sampled_from(["", "all", "0", "7", "x"])


@each_protocol
@settings(max_examples=200, deadline=None)
@given(request=messages, answer=messages, binary=st.binary(max_size=20), asked=lengths, answered=lengths)
def test_no_json_brings_a_decoder_down(
    protocol: str, request: Any, answer: Any, binary: bytes, asked: str, answered: str
) -> None:
    whole = good(protocol)
    for request_body, answer_body in (
        (json.dumps(request).encode(), whole.answer_body),
        (whole.request_body, json.dumps(answer).encode()),
        (json.dumps(request).encode(), json.dumps(answer).encode()),
    ):
        check(
            replace(
                whole,
                request_body=request_body + (binary if asked else b""),
                request_json_length=str(len(request_body)) if asked == "all" else asked,
                answer_body=answer_body + (binary if answered else b""),
                answer_json_length=str(len(answer_body)) if answered == "all" else answered,
            )
        )


@each_protocol
@settings(max_examples=200, deadline=None)
@given(
    body=st.binary(max_size=200) | st.text(max_size=200).map(str.encode),
    content_type=st.sampled_from(["application/json", "text/csv", "application/vnd.apache.parquet", "image/png", ""]),
    encoding=st.sampled_from(["", "gzip", "deflate", "br"]),
    length=lengths,
    path=st.text(max_size=10),
)
def test_no_bytes_bring_a_decoder_down(
    protocol: str, body: bytes, content_type: str, encoding: str, length: str, path: str
) -> None:
    whole = good(protocol)
    check(
        replace(
            whole,
            request_body=body,
            request_type=content_type,
            request_encoding=encoding,
            request_json_length=length,
            request_path=path,
        )
    )
    check(replace(whole, answer_body=body, answer_encoding=encoding, answer_json_length=length))


@each_protocol
@settings(max_examples=200, deadline=None)
@given(at=st.integers(0, 400), byte=st.integers(0, 255))
def test_no_damaged_talk_brings_a_decoder_down(protocol: str, at: int, byte: int) -> None:
    whole = good(protocol)
    for name in ("request_body", "answer_body"):
        body = bytearray(getattr(whole, name))
        body[at % len(body)] = byte
        check(replace(whole, **{name: bytes(body)}))
