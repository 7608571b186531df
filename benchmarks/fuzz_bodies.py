"""Bodies to fuzz decoders with: whole talks in every protocol, and what mutations make of them.

Body number i of a seed is always the same, so that what was found can be looked at again.
"""

from __future__ import annotations

import gzip
import io
import json
import math
import random
import zlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pa_parquet

from fieldrepair_service.exchange import UNKNOWN_MODEL, Exchange

JSON_TYPE = "application/json"
_TYPES = (
    JSON_TYPE,
    "text/csv",
    "application/vnd.apache.parquet",
    "application/json; charset=utf-8",
    "",
    "\x00",
    "a/b;c",
)
_ENCODINGS = ("gzip", "x-gzip", "deflate", "br", "GZIP ", "identity")
_TOKENS = rb"""NaN Infinity -Infinity 1e999 -1e999 1e-999 -0 9223372036854775808 18446744073709551616 null true false
    {} [] [[]] [{}] "" "x" "\ud800" "\u0000" 0.1 1E400 -1 4611686018427387904 2147483648 "inputs" "instances" "outputs"
    "predictions" "data" "shape" "datatype" "BYTES" "BF16" "FP16" "UINT64" "binary_data_size" "dataframe_split"
    "dataframe_records" "columns" , : [ ] { }""".split()
_DATATYPES = ("BOOL", "UINT8", "INT8", "INT64", "UINT64", "FP16", "FP32", "FP64", "BF16", "BYTES", "FP8", "")

Make = Callable[[random.Random], Exchange]


def _exchange(protocol: str, request: bytes, answer: bytes, path: str = "", kind: str = JSON_TYPE) -> Exchange:
    return Exchange(
        1_760_000_000_000, None, UNKNOWN_MODEL, UNKNOWN_MODEL, protocol, 200, 1.0, 1.0, kind, "", request,
        JSON_TYPE, "", answer, path,
    )  # fmt: skip


def _rows(rng: random.Random) -> tuple[list[list[float]], list[list[float]]]:
    count, width = rng.randint(1, 4), rng.randint(1, 6)
    inputs = [[rng.choice((0.5, -1.25, 3.0, 1e-7, 255)) for _ in range(width)] for _ in range(count)]
    return inputs, [[0.25, 0.75] for _ in range(count)]


def _mlflow(rng: random.Random) -> Exchange:
    inputs, scores = _rows(rng)
    names = [f"c{at}" for at in range(len(inputs[0]))]
    request: dict[str, object] = rng.choice(
        [
            {"inputs": inputs},
            {"instances": inputs},
            {"inputs": {"x": inputs}},
            {"instances": [{"x": row} for row in inputs]},
            {"dataframe_split": {"columns": names, "data": inputs}, "params": {"a": 1}},
            {"dataframe_records": [dict(zip(names, row, strict=True)) for row in inputs]},
        ]
    )
    answer: object = rng.choice(
        [
            scores,
            [1] * len(inputs),
            ["cat"] * len(inputs),
            [{"0": 0.5, "1": 0.5}] * len(inputs),
            {"y": scores},
            [{"label": 1, "score": 0.5}] * len(inputs),
            {"label": [1] * len(inputs), "score": [0.5] * len(inputs)},
        ]
    )
    return _exchange("mlflow", _json(request), _json({"predictions": answer}), "/invocations")


def _csv(rng: random.Random) -> Exchange:
    inputs, scores = _rows(rng)
    lines = [",".join(f"c{at}" for at in range(len(inputs[0]))), *(",".join(map(str, row)) for row in inputs)]
    return _exchange(
        "mlflow", "\n".join(lines).encode(), _json({"predictions": scores}), "/invocations", kind="text/csv"
    )


def _parquet(rng: random.Random) -> Exchange:
    inputs, scores = _rows(rng)
    count = len(inputs)
    tables: list[Callable[[], pa.Table]] = [
        lambda: pa.table({f"c{at}": [row[at] for row in inputs] for at in range(len(inputs[0]))}),
        lambda: pa.table({"x": inputs}),
        lambda: pa.table({"x": pa.array(inputs, pa.list_(pa.float32(), len(inputs[0])))}),
        lambda: pa.table({"x": [[row, row] for row in inputs]}),
        lambda: pa.table({"x": ["text"] * count, "y": [None] * count}),
        lambda: pa.table({"x": [True] * count, "y": [1] * count}),
        lambda: pa.table({"x": [{"a": 1}] * count}),
        lambda: pa.table({"x": [b"\x00"] * count}),
        lambda: pa.table({"x": [None] * count}),
    ]
    stream = io.BytesIO()
    pa_parquet.write_table(rng.choice(tables)(), stream)  # type: ignore[arg-type]  # it takes any file
    return _exchange("mlflow", stream.getvalue(), _json({"predictions": scores}), "/invocations", kind=_TYPES[2])


def _open_inference(rng: random.Random, protocol: str = "open_inference") -> Exchange:
    inputs, scores = _rows(rng)
    sent, length = _message("inputs", "x", np.asarray(inputs, dtype="<f4"), rng)
    said, answer_length = _message("outputs", "scores", np.asarray(scores, dtype="<f4"), rng)
    exchange = _exchange(protocol, sent, said, "/v2/models/m/versions/3/infer")
    if protocol == "kserve":
        return replace(exchange, request_path="")
    return replace(exchange, request_json_length=length, answer_json_length=answer_length)


def _message(
    key: str, name: str, values: np.ndarray[tuple[int, ...], np.dtype[np.float32]], rng: random.Random
) -> tuple[bytes, str]:
    tensor: dict[str, object] = {"name": name, "datatype": "FP32", "shape": list(values.shape)}
    binary = b""
    if rng.random() < 0.5:
        binary = values.tobytes()
        tensor["parameters"] = {"binary_data_size": len(binary)}
    else:
        tensor["data"] = values.tolist() if rng.random() < 0.5 else values.ravel().tolist()
    if rng.random() < 0.2:
        tensor["shape"] = [rng.choice((0, 1, 2, -1, 2**31, 2**62, 2**64)) for _ in range(rng.randint(0, 40))]
    if rng.random() < 0.1:
        tensor["datatype"] = rng.choice(_DATATYPES)
    head = _json({key: [tensor] * rng.choice((1, 1, 1, 2, 50)), "model_version": "3"})
    return head + binary, str(len(head)) if binary else ""


def _torchserve(rng: random.Random) -> Exchange:
    inputs, scores = _rows(rng)
    request: object = rng.choice(
        [inputs, {"instances": inputs}, {"data": inputs}, {"instances": [{"x": row} for row in inputs]}]
    )
    labelled = [{"0": 0.25, "1": 0.75}] * len(inputs)
    answer: object = rng.choice([scores, [1] * len(inputs), labelled, {"predictions": scores}, scores[0], labelled[0]])
    return _exchange("torchserve", _json(request), _json(answer), "/predictions/m/1.0")


def _kserve(rng: random.Random) -> Exchange:
    if rng.random() < 0.5:
        return _open_inference(rng, "kserve")
    whole = replace(_mlflow(rng), protocol="kserve", request_path="", request_type=rng.choice(_TYPES))
    return replace(whole, request_body=gzip.compress(whole.request_body)) if rng.random() < 0.1 else whole


def _tree(rng: random.Random, depth: int = 0) -> object:
    kind = rng.random()
    if depth > 5 or kind < 0.5:
        return rng.choice((0, 1, -1, 0.5, 1e308, True, None, "x", "", math.inf, math.nan, 2**63, 10**30))
    if kind < 0.8:
        return [_tree(rng, depth + 1) for _ in range(rng.randint(0, 4))]
    names = ("inputs", "instances", "data", "predictions", "outputs", "0", "1", "x", "name", "shape", "datatype")
    return {rng.choice(names): _tree(rng, depth + 1) for _ in range(rng.randint(0, 3))}


def _json(value: object) -> bytes:
    return json.dumps(value).encode()


TALKS: dict[str, Make] = {
    "mlflow": _mlflow,
    "mlflow_csv": _csv,
    "mlflow_parquet": _parquet,
    "open_inference": _open_inference,
    "torchserve": _torchserve,
    "kserve": _kserve,
}
"""Whole talks, as a client and a server would have them."""


def mutated(rng: random.Random, exchange: Exchange) -> Exchange:
    """A talk with request, answer or what is said about them changed; now and then as it is."""
    for _ in range(rng.choice((0, 1, 1, 1, 1, 2))):
        what = rng.random()
        if what < 0.55:
            exchange = replace(exchange, request_body=_mutate(rng, exchange.request_body))
        elif what < 0.8:
            exchange = replace(exchange, answer_body=_mutate(rng, exchange.answer_body))
        elif what < 0.87:
            exchange = replace(exchange, request_type=rng.choice(_TYPES))
        elif what < 0.93:
            length = rng.choice(("", "0", "7", "-1", "x", "9" * 30, str(len(exchange.request_body))))
            exchange = replace(exchange, request_json_length=length, answer_json_length=rng.choice(("", length)))
        else:
            exchange = _encoded(rng, exchange)
    return exchange


def _mutate(rng: random.Random, body: bytes) -> bytes:
    if rng.random() < 0.4 and (changed := _change_json(rng, body)) is not None:
        return changed
    kind = rng.randrange(12)
    at = rng.randrange(len(body) + 1)
    if kind == 0:
        return body[:at]
    if kind == 1:
        return body[:at] + bytes([rng.randrange(256)]) + body[at + 1 :]
    if kind == 2:
        return body[:at] + rng.randbytes(rng.randint(1, 8)) + body[at:]
    if kind == 3:
        return body[:at] + body[at + rng.randint(1, 20) :]
    if kind == 4:
        end = min(len(body), at + rng.randint(1, 60))
        return body[:at] + body[at:end] * rng.choice((2, 3, 50)) + body[end:]
    if kind <= 7:
        return body[:at] + rng.choice(_TOKENS) + body[at + rng.choice((0, 1, 3)) :]
    if kind == 8:
        return _json(_tree(rng))
    if kind == 9:
        return rng.randbytes(rng.randint(0, 60))
    if kind == 10:
        depth = rng.choice((10, 200, 1100, 100_000))
        opening, closing = rng.choice(((b"[", b"]"), (b'{"a":', b"}"), (b'{"inputs":', b"}")))
        return body[:at] + opening * depth + b"1" + closing * rng.choice((depth, depth - 1)) + body[at:]
    return body[:at].replace(b"0", rng.choice(_TOKENS)) + body[at:]


def _change_json(rng: random.Random, body: bytes) -> bytes | None:
    """JSON with one of its values replaced by another; None if the body is no JSON."""
    try:
        root: object = json.loads(body)
    except (ValueError, RecursionError):
        return None
    holder: Any = [root]
    top, key = holder, 0
    while True:
        value = holder[key]
        if not isinstance(value, (list, dict)) or not value or rng.random() < 0.15:
            break
        holder, key = value, rng.choice(list(value) if isinstance(value, dict) else range(len(value)))  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
    if rng.random() < 0.2 and holder is not top:
        del holder[key]
    else:
        holder[key] = _tree(rng, depth=3) if rng.random() < 0.8 else rng.choice((*_DATATYPES, 2**31, 2**62, [3, -1]))
    return _json(top[0])


def _encoded(rng: random.Random, exchange: Exchange) -> Exchange:
    encoding = rng.choice(_ENCODINGS)
    kind = rng.random()
    if kind < 0.002:  # 100 MB of zeros, or of JSON, in 100 KB
        plain = rng.choice((bytes(100 << 20), b"[" + b"0," * (50 << 20) + b"0]", b"[]," * (30 << 20)))
    else:
        plain = exchange.request_body
    packed = {"deflate": zlib.compress}.get(encoding, gzip.compress)(plain) if kind < 0.8 else plain
    if kind > 0.6:
        packed = _mutate(rng, packed)
    if rng.random() < 0.7:
        return replace(exchange, request_body=packed, request_encoding=encoding)
    return replace(exchange, answer_body=packed, answer_encoding=encoding)


def event_headers(rng: random.Random) -> list[tuple[bytes, bytes]]:
    """Header fields of an event of KServe's logger, some of them changed."""
    headers = {
        b"ce-specversion": b"1.0",
        b"ce-id": b"4f1c",
        b"ce-type": b"org.kubeflow.serving.inference." + rng.choice((b"request", b"response")),
        b"ce-source": b"http://localhost:9081/",
        b"ce-time": b"2026-01-02T03:04:05.678901234Z",
        b"ce-inferenceservicename": b"digits",
        b"ce-namespace": b"default",
        b"ce-component": b"predictor",
        b"ce-endpoint": b"default",
        b"ce-metadata": b'{"X-Request-Id":["a"],"Traceparent":["00-' + b"4b" * 16 + b'-00f067aa0ba902b7-01"]}',
        b"content-type": b"application/json",
    }
    for _ in range(rng.randint(0, 3)):
        name = rng.choice(list(headers))
        if rng.random() < 0.3:
            del headers[name]
            headers.setdefault(rng.choice((b"ce-id", b"ce-time", b"traceparent")), b"%ff%zz")
        else:
            headers[name] = _mutate(rng, headers[name])
    return list(headers.items())
