"""MLflow's scoring protocol: every form is read as MLflow reads it, and nothing a client sends gets out of hand."""

from __future__ import annotations

import base64
import gzip
import io
import json
import zlib
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pa_parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fieldrepair_service import drops
from fieldrepair_service.errors import DecodeError
from fieldrepair_service.exchange import Exchange
from fieldrepair_service.protocols import DECODERS, DecodedExchange

JSON = "application/json"
PARQUET = "application/vnd.apache.parquet"
IMAGE = [[[0.5, 1.0], [1.5, 2.0]]]  # one channel of 2 x 2 pixels


def exchange(
    request: Any,
    predictions: Any = None,
    *,
    content_type: str = JSON,
    encoding: str = "",
    answer: bytes | None = None,
    answer_encoding: str = "",
) -> Exchange:
    body = request if isinstance(request, bytes) else json.dumps(request).encode()
    if answer is None:
        answer = json.dumps({"predictions": predictions}).encode()
    return Exchange(
        0, None, "m", "1", "mlflow", 200, 1.0, 1.0, content_type, encoding, body, JSON, answer_encoding, answer
    )


def decode(request: Any, predictions: Any = None, **options: Any) -> DecodedExchange:
    return DECODERS["mlflow"].decode(exchange(request, predictions, **options))


def reason_of(request: Any, predictions: Any = None, **options: Any) -> str:
    with pytest.raises(DecodeError) as caught:
        decode(request, predictions, **options)
    assert str(caught.value)
    assert caught.value.reason in drops.SHIPPER_REASONS
    return caught.value.reason


def parquet(columns: dict[str, Any], metadata: dict[str, str] | None = None) -> bytes:
    stream = io.BytesIO()
    table = pa.table(columns)
    if metadata:
        table = table.replace_schema_metadata(metadata)
    pa_parquet.write_table(table, stream)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("request_body", "expected"),
    [
        ({"dataframe_split": {"columns": ["a", "b"], "data": [[1.5, 2], [3, 4]]}}, [[1.5, 2], [3, 4]]),
        ({"dataframe_split": {"index": [7, 9], "columns": ["x"], "data": [[IMAGE], [IMAGE]]}}, [IMAGE, IMAGE]),
        ({"dataframe_records": [{"a": 1.5, "b": 2}, {"b": 4, "a": 3.5}]}, [[1.5, 2], [3.5, 4]]),
        ({"dataframe_records": [{"x": IMAGE}, {"x": IMAGE}]}, [IMAGE, IMAGE]),
        ({"instances": [IMAGE, IMAGE]}, [IMAGE, IMAGE]),
        ({"instances": [{"x": IMAGE}, {"x": IMAGE}], "params": {"k": 1}}, [IMAGE, IMAGE]),
        ({"instances": {"x": [[1.5], [2.5]]}}, [[1.5], [2.5]]),
        ({"inputs": [IMAGE, IMAGE]}, [IMAGE, IMAGE]),
        ({"inputs": {"x": [[0.5, 1], [2, 3]]}}, [[0.5, 1], [2, 3]]),
        ({"inputs": [0.5, 1.5]}, [0.5, 1.5]),
    ],
)
def test_the_json_forms(request_body: dict[str, Any], expected: list[Any]) -> None:
    inputs = decode(request_body, [1, 2]).inputs
    assert inputs.dtype == np.float32
    np.testing.assert_array_equal(inputs, np.asarray(expected, dtype=np.float32))


@pytest.mark.parametrize(
    "body",
    [
        {"dataframe_split": {"columns": ["a", "b"], "data": [[1.5, 2.0], [3.0, 4.0]]}},
        {"dataframe_records": [{"a": 1.5, "b": 2.0}, {"b": 4.0, "a": 3.5}]},
        {"instances": [IMAGE, IMAGE]},
        {"instances": [[1, 2], [3, 4]]},
        {"inputs": [IMAGE, IMAGE]},
        {"inputs": [[1, 2], [3, 4]]},
        {"inputs": {"x": [[0.5, 1.0], [2.0, 3.0]]}},
    ],
)
def test_mlflow_reads_the_same(body: dict[str, Any]) -> None:
    server = pytest.importorskip("mlflow.pyfunc.scoring_server")
    theirs: Any = server.infer_and_parse_data(body)
    named = "inputs" in body and isinstance(body["inputs"], dict)
    ours = decode(body, [1, 2]).inputs.astype(np.float64)
    np.testing.assert_allclose(ours, np.asarray(theirs["x"] if named else theirs, dtype=np.float64))


@pytest.mark.parametrize("content_type", ["application/json; charset=utf-8", "Application/JSON", "application/json;"])
def test_content_types_may_have_parameters(content_type: str) -> None:
    assert decode({"inputs": [[1.5]]}, [1], content_type=content_type).inputs.shape == (1, 1)


def test_whole_numbers_and_truths_keep_their_kind() -> None:
    assert decode({"inputs": [[1, 2]]}, [1]).inputs.dtype == np.int64
    assert decode({"inputs": [[True, False]]}, [1]).inputs.dtype == np.bool_
    assert decode({"inputs": [[2**63]]}, [1]).inputs.dtype == np.float32


def test_csv() -> None:
    body = b"a,b\n1,2.5\n3,4\n"
    np.testing.assert_array_equal(decode(body, [0, 1], content_type="text/csv").inputs, [[1, 2.5], [3, 4]])
    assert decode(b"a,b\n1,2\n", [0], content_type="text/csv; charset=utf-8").inputs.dtype == np.int64
    missing = decode(b"a,b\n1,\n3,inf\n", [0, 1], content_type="text/csv").inputs
    assert not np.isfinite(missing.astype(np.float32)[:, 1]).any()
    assert reason_of(b"a,b\n1,x\n", [0], content_type="text/csv") == drops.NOT_NUMERIC
    assert reason_of(b"", [0], content_type="text/csv") == drops.MALFORMED_REQUEST
    assert reason_of(b"a,b\n", [], content_type="text/csv") == drops.EMPTY
    assert reason_of(b"a,b\n1\n", [0], content_type="text/csv") == drops.MALFORMED_REQUEST


def test_parquet() -> None:
    body = parquet({"a": [1.5, 2.5], "b": pa.array([1, 2], pa.int32())})
    np.testing.assert_array_equal(decode(body, [0, 1], content_type=PARQUET).inputs, [[1.5, 1], [2.5, 2]])
    images = parquet({"x": pa.array([IMAGE, IMAGE])})
    assert decode(images, [0, 1], content_type=PARQUET).inputs.shape == (2, 1, 2, 2)
    index = {"pandas": json.dumps({"index_columns": ["__index_level_0__"]})}
    indexed = parquet({"a": [1.5], "__index_level_0__": [7]}, index)
    np.testing.assert_array_equal(decode(indexed, [0], content_type=PARQUET).inputs, [[1.5]])
    assert reason_of(parquet({"a": ["x"]}), [0], content_type=PARQUET) == drops.NOT_NUMERIC
    assert reason_of(b"PAR1 or so", [0], content_type=PARQUET) == drops.MALFORMED_REQUEST
    assert reason_of(body[:-5], [0], content_type=PARQUET) == drops.MALFORMED_REQUEST


def test_a_parquet_file_that_is_huge_unpacked_is_refused() -> None:
    body = parquet({"a": np.zeros(9 << 20)})
    assert len(body) < 1 << 20
    assert reason_of(body, [0], content_type=PARQUET) == drops.TOO_LARGE_DECODED


# Found by the fuzzer: asking pyarrow 25 for the metadata of a column of this file ends the process.
BROKEN_STATISTICS = zlib.decompress(
    base64.b85decode(
        "c-nnZ-AV#c5S~3Q+af_4o#h-@M1qzAHLW%z>|)mZiHuCJ=u&Jk!N1hfyPl$V=(0EHEqsa|qB-koUG>4v%-"
        "L_|`{ux@V<X3P9^*STO0W%J+5m6G_pik<2cF=&DIO)-;D#-9#Ry$-"
        "7VQ5y#p3|5m1h(q2^FIeEh4xsYc2?5(th&$EzZDYLYs5Ojaq?vTwUnB?qo^?H}~dZ!|(Zhe=r4$Nn6?u*xZyZ7%`dG=0WGGgEK2?"
        "eQ4IF=Hwmo|Gi{N-"
        "Aj1@U4ud4z+t8=s~zc6D$FrS38XDHvC+7>KU?lAzO_Sz(+(1DafvI$8G0QoBX+PDQ0RGx*QzKYUIssYGoiE&**fXXsAynQovXN(_"
        "CoQn)jL6aP<kbm3FVM!Dqr%isy%{XFWd}E7lDa4Tl?W!-y1zv?xs{!!ud)_uBOjHBuB0B^NT-"
        "Cw@0INYdjv#lCS=F(j5+xM{XvY$w`}@1}rpyI=z}7K%9Q^"
    )
)


def test_a_parquet_file_with_broken_statistics_does_not_end_the_process() -> None:
    assert reason_of(BROKEN_STATISTICS, [0], content_type=PARQUET) == drops.MALFORMED_REQUEST


def test_compressed_bodies(monkeypatch: pytest.MonkeyPatch) -> None:
    body = json.dumps({"inputs": [[1.5]]}).encode()
    answer = gzip.compress(b'{"predictions": [1]}')
    assert decode(gzip.compress(body), encoding="gzip", answer=answer, answer_encoding="GZIP").inputs.shape == (1, 1)
    assert decode(zlib.compress(body), [1], encoding="deflate").inputs.shape == (1, 1)
    assert reason_of(body, [1], encoding="br") == drops.CONTENT_TYPE
    assert reason_of(body, [1], encoding="gzip") == drops.MALFORMED_REQUEST
    monkeypatch.setattr("fieldrepair_service.protocols.bodies._MOST_UNPACKED", 100)
    assert reason_of(gzip.compress(bytes(10_000)), [1], encoding="gzip") == drops.TOO_LARGE_DECODED


UNREADABLE: list[tuple[Any, Any, str]] = [
    (b"not json", [1], drops.MALFORMED_REQUEST),
    (b"\xff\xfe", [1], drops.MALFORMED_REQUEST),
    (b"", [1], drops.MALFORMED_REQUEST),
    (b"[" * 100_000, [1], drops.MALFORMED_REQUEST),
    ({"messages": []}, [1], drops.MALFORMED_REQUEST),
    ({"inputs": [1], "instances": [1]}, [1], drops.MALFORMED_REQUEST),
    ([1, 2], [1], drops.MALFORMED_REQUEST),
    ({"dataframe_split": [1]}, [1], drops.MALFORMED_REQUEST),
    ({"dataframe_split": {"columns": ["a"]}}, [1], drops.MALFORMED_REQUEST),
    ({"dataframe_records": [[1]]}, [1], drops.MALFORMED_REQUEST),
    ({"dataframe_records": [{"a": 1}, {"b": 1}]}, [1, 1], drops.RAGGED),
    ({"inputs": [[1, 2], [3]]}, [1, 1], drops.RAGGED),
    ({"inputs": [1, [2]]}, [1, 1], drops.RAGGED),
    ({"instances": [{"x": [1, 2]}, {"x": [1]}]}, [1, 1], drops.RAGGED),
    ({"inputs": {"ids": [[1]], "mask": [[1]]}}, [1], drops.SEVERAL_TENSORS),
    ({"instances": [{"ids": [1], "mask": [1]}]}, [1], drops.SEVERAL_TENSORS),
    ({"inputs": {}}, [1], drops.SEVERAL_TENSORS),
    ({"inputs": [["a"]]}, [1], drops.NOT_NUMERIC),
    ({"inputs": "text"}, [1], drops.NOT_NUMERIC),
    ({"inputs": [1, "x" * 100_000] + [0] * 100_000}, [1], drops.NOT_NUMERIC),
    ({"inputs": [[{"a": 1}]]}, [1], drops.NOT_NUMERIC),
    ({"inputs": 5}, [1], drops.NO_BATCH),
    ({"inputs": []}, [], drops.EMPTY),
    ({"inputs": [[]]}, [1], drops.EMPTY),
    ({"instances": []}, [], drops.EMPTY),
    ({"dataframe_records": []}, [], drops.EMPTY),
    ({"dataframe_split": {"columns": ["a"], "data": []}}, [], drops.EMPTY),
    ({"inputs": [[1]]}, [1, 2], drops.OUTPUTS_MISMATCH),
    ({"inputs": [[1]]}, [], drops.OUTPUTS_MISMATCH),
    ({"inputs": [[1]]}, "text", drops.OUTPUT_SHAPE),
    ({"inputs": [[1]]}, [[[0.5, 0.5]]], drops.OUTPUT_SHAPE),
    ({"inputs": [[1]]}, [[]], drops.OUTPUT_SHAPE),
    ({"inputs": [[1]]}, [2**40], drops.OUTPUT_SHAPE),
    ({"inputs": [[1], [2]]}, [[0.5, 0.5], [1.0]], drops.RAGGED),
    ({"inputs": [[1], [2]]}, [{"a": 1}, 2], drops.MALFORMED_ANSWER),
    ({"inputs": [[1]]}, {"a": [1], "b": [2]}, drops.SEVERAL_TENSORS),
]


@pytest.mark.parametrize(("request_body", "predictions", "reason"), UNREADABLE)
def test_what_cannot_be_read_has_a_reason(request_body: Any, predictions: Any, reason: str) -> None:
    assert reason_of(request_body, predictions) == reason


def test_other_answers_have_a_reason() -> None:
    assert reason_of({"inputs": [[1]]}, answer=b"oops") == drops.MALFORMED_ANSWER
    assert reason_of({"inputs": [[1]]}, answer=b"[1]") == drops.MALFORMED_ANSWER
    assert reason_of({"inputs": [[1]]}, [1], content_type="text/plain") == drops.CONTENT_TYPE
    assert reason_of({"inputs": [[1]]}, [1], content_type="") == drops.CONTENT_TYPE


def test_nan_and_infinity_are_read_as_such() -> None:
    """The scoring server takes them, though JSON does not have them."""
    inputs = decode(b'{"inputs": [[NaN, 1], [Infinity, 2], [null, 3], [1e300, 4], [5, 6]]}', [0] * 5).inputs
    assert np.isfinite(inputs.astype(np.float64)).all(axis=1).tolist() == [False] * 4 + [True]


LOGITS = [[1.0, 3.0, 2.0], [-1.0, -5.0, 0.5]]


@pytest.mark.parametrize(
    "predictions",
    [
        LOGITS,
        [{"0": row[0], "1": row[1], "2": row[2]} for row in LOGITS],
        {"output": LOGITS},
        [{"scores": row} for row in LOGITS],
    ],
)
def test_scores_in_every_form(predictions: Any) -> None:
    read = decode({"inputs": [[1.0], [2.0]]}, predictions).predictions
    assert read.scores is not None
    assert read.predicted_class is not None
    assert read.confidence is not None
    np.testing.assert_array_equal(read.scores, np.asarray(LOGITS, dtype=np.float32))
    assert read.predicted_class.tolist() == [1, 2]
    exponents = np.exp(np.asarray(LOGITS))
    softmax = exponents / exponents.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(read.confidence, softmax.max(axis=1), rtol=1e-6)


def test_probabilities_are_confidences_already() -> None:
    read = decode({"inputs": [[1.0], [2.0]]}, [[0.2, 0.8], [0.6, 0.4]]).predictions
    assert read.predicted_class is not None
    assert read.confidence is not None
    assert read.predicted_class.tolist() == [1, 0]
    np.testing.assert_allclose(read.confidence, [0.8, 0.6], rtol=1e-6)


def test_large_logits_do_not_overflow() -> None:
    read = decode({"inputs": [[1.0]]}, [[1e4, -1e4]]).predictions
    assert read.confidence is not None
    assert read.confidence.tolist() == [1.0]


@pytest.mark.parametrize("predictions", [[3, 7], [[3], [7]], [{"class": 3}, {"class": 7}], {"class": [3, 7]}])
def test_classes_without_scores(predictions: Any) -> None:
    read = decode({"inputs": [[1.0], [2.0]]}, predictions).predictions
    assert read.predicted_class is not None
    assert read.predicted_class.tolist() == [3, 7]
    assert read.scores is None
    assert read.confidence is None


def test_answers_that_name_no_class() -> None:
    names = decode({"inputs": [[1.0], [2.0]]}, ["cat", "dog"]).predictions
    assert (names.scores, names.predicted_class, names.confidence) == (None, None, None)
    single = decode({"inputs": [[1.0], [2.0]]}, [0.25, 0.75]).predictions
    assert single.scores is not None
    assert single.scores.shape == (2, 1)
    assert single.predicted_class is None


# -- whatever comes ----------------------------------------------------------------------------------------------

leaves: st.SearchStrategy[Any] = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
trees: st.SearchStrategy[Any] = st.recursive(
    leaves,
    lambda below: st.lists(below, max_size=4) | st.dictionaries(st.text(max_size=3), below, max_size=3),
    max_leaves=20,
)
FORMS = ["inputs", "instances", "dataframe_split", "dataframe_records"]
splits = st.fixed_dictionaries({"columns": st.just(["a"]), "data": trees})
requests = st.dictionaries(st.sampled_from(FORMS), trees | splits, min_size=1, max_size=1)


def check(given_exchange: Exchange) -> None:
    try:
        decoded = DECODERS["mlflow"].decode(given_exchange)
    except DecodeError:
        return
    count = len(decoded.inputs)
    assert count > 0
    assert decoded.inputs.dtype.name in ("float32", "int64", "bool")
    for values in (decoded.predictions.scores, decoded.predictions.predicted_class, decoded.predictions.confidence):
        assert values is None or len(values) == count


@settings(max_examples=300, deadline=None)
@given(request=requests | trees, predictions=trees)
def test_no_json_brings_the_decoder_down(request: Any, predictions: Any) -> None:
    check(exchange(request, predictions))


@settings(max_examples=200, deadline=None)
@given(
    body=st.binary(max_size=200) | st.text(max_size=200).map(str.encode),
    content_type=st.sampled_from([JSON, "text/csv", PARQUET, ""]),
    encoding=st.sampled_from(["", "gzip", "deflate", "br"]),
)
def test_no_bytes_bring_the_decoder_down(body: bytes, content_type: str, encoding: str) -> None:
    check(exchange(body, [1], content_type=content_type, encoding=encoding))
    check(exchange({"inputs": [[1]]}, answer=body, answer_encoding=encoding))


@settings(max_examples=100, deadline=None)
@given(at=st.integers(0, 400), byte=st.integers(0, 255))
def test_no_broken_parquet_file_brings_the_decoder_down(at: int, byte: int) -> None:
    body = bytearray(parquet({"a": [1.5, 2.5], "b": [1, 2]}))
    body[at % len(body)] = byte
    check(exchange(bytes(body), [1, 2], content_type=PARQUET))


CSV = "text/csv"
NAMED = {"age": [30, 41], "income": [1.5, 2.5]}


@pytest.mark.parametrize(
    ("request_body", "content_type", "columns"),
    [
        ({"dataframe_split": {"columns": ["age", "income"], "data": [[30, 1.5], [41, 2.5]]}}, JSON, ("age", "income")),
        ({"dataframe_records": [{"age": 30, "income": 1.5}, {"income": 2.5, "age": 41}]}, JSON, ("age", "income")),
        ({"instances": [{"age": 30, "income": 1.5}, {"age": 41, "income": 2.5}]}, JSON, ("age", "income")),
        ({"inputs": NAMED}, JSON, ("age", "income")),
        (b"age,income\n30,1.5\n41,2.5\n", CSV, ("age", "income")),
        (parquet(NAMED), PARQUET, ("age", "income")),
        # Places only, or names of something else than numbers.
        ({"dataframe_split": {"data": [[30, 1.5], [41, 2.5]]}}, JSON, None),
        ({"dataframe_split": {"columns": [0, 1], "data": [[30, 1.5], [41, 2.5]]}}, JSON, None),
        ({"inputs": [[30, 1.5], [41, 2.5]]}, JSON, None),
    ],
)
def test_a_table_keeps_the_names_of_its_columns(
    request_body: Any, content_type: str, columns: tuple[str, ...] | None
) -> None:
    decoded = decode(request_body, [[0.5, 0.5]] * 2, content_type=content_type)
    assert decoded.columns == columns
    np.testing.assert_array_equal(decoded.inputs, np.array([[30, 1.5], [41, 2.5]], np.float32))


def test_an_image_in_a_column_has_no_names() -> None:
    decoded = decode({"dataframe_split": {"columns": ["x"], "data": [[IMAGE]]}}, [[0.5, 0.5]])
    assert decoded.columns is None
