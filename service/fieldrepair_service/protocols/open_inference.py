"""Open Inference Protocol, version 2, over HTTP: ``POST /v2/models/NAME[/versions/VERSION]/infer``.

JSON, and JSON followed by tensors in binary: https://kserve.github.io/website (Open Inference Protocol, and its binary
tensor data extension), spoken by KServe, Triton, MLServer and others. Requests with one input tensor become rows, one
per entry of its first axis. Not read: tensors in shared memory, and raw binary requests without any JSON, whose
shape and datatype only the server knows.
"""

from __future__ import annotations

from fieldrepair_service import drops
from fieldrepair_service.errors import DecodeError
from fieldrepair_service.exchange import Exchange
from fieldrepair_service.protocols.base import DecodedExchange, Predictions, read_outputs
from fieldrepair_service.protocols.bodies import as_dict, as_list, parse_json, unpack
from fieldrepair_service.protocols.tensors import BYTES, Tensor
from fieldrepair_service.routes import OPEN_INFERENCE, model_in

# Of several outputs, the one whose name has the first of these words that only one name has.
_SCORE_WORDS = ("prob", "score", "logit", "output")


class OpenInference:
    """Decoder of the Open Inference Protocol's version 2."""

    name = OPEN_INFERENCE

    def decode(self, exchange: Exchange) -> DecodedExchange:
        """Read an exchange.

        Raises:
            DecodeError: with the reason to count it under.
        """
        request = unpack(exchange.request_body, exchange.request_encoding, drops.MALFORMED_REQUEST)
        _, tensors = _read_message(request, exchange.request_json_length, "inputs", drops.MALFORMED_REQUEST)
        if len(tensors) > 1:
            raise DecodeError(f"expected one input tensor, got {len(tensors)}", reason=drops.SEVERAL_TENSORS)
        if not tensors[0].shape:
            raise DecodeError("a single value is no batch of instances", reason=drops.NO_BATCH)
        if tensors[0].size == 0:
            raise DecodeError(f"a batch of shape {tensors[0].shape} has no values", reason=drops.EMPTY)
        inputs = tensors[0].to_array()
        answer = unpack(exchange.answer_body, exchange.answer_encoding, drops.MALFORMED_ANSWER)
        fields, outputs = _read_message(answer, exchange.answer_json_length, "outputs", drops.MALFORMED_ANSWER)
        predictions = _read_predictions(_scores_among(outputs), len(inputs))
        name, version = model_in(exchange.request_path)
        return DecodedExchange(
            inputs,
            predictions,
            model_name=name,
            # Without a version in the path the server has chosen one, and says which.
            model_version=version or _text(fields.get("model_version")),
        )


def _read_message(body: bytes, json_length: str, key: str, reason: str) -> tuple[dict[str, object], list[Tensor]]:
    """The JSON fields of a request or an answer, and its tensors: at least one, each with its part of the binary."""
    head, binary = _split(body, json_length, reason)
    fields = as_dict(parse_json(head, reason), reason)
    described = [as_dict(each, reason) for each in as_list(fields.get(key), reason)]
    if not described:
        raise DecodeError(f"there are no {key}", reason=reason)
    tensors: list[Tensor] = []
    taken = 0
    for each in described:
        length = _binary_length(each, reason)
        content = None if length is None else binary[taken : taken + length]
        taken += length or 0
        tensors.append(Tensor.described_by(each, content, reason))
    if taken != len(binary):
        raise DecodeError(f"{len(binary)} bytes of binary tensors, expected {taken}", reason=reason)
    return fields, tensors


def _split(body: bytes, json_length: str, reason: str) -> tuple[bytes, bytes]:
    """JSON and what follows it, by the header field that says where the JSON ends; without one it is all JSON."""
    text = json_length.strip()
    if not text:
        return body, b""
    # Few digits: Python refuses to read very long numbers, and no body is that long.
    if not (text.isascii() and text.isdigit() and len(text) <= 18 and int(text) <= len(body)):
        raise DecodeError(f"Inference-Header-Content-Length {text[:40]!r} of {len(body)} bytes", reason=reason)
    return body[: int(text)], body[int(text) :]


def _binary_length(described: dict[str, object], reason: str) -> int | None:
    """How many bytes of the binary part are this tensor's; None if its data is in the JSON."""
    parameters = described.get("parameters")
    length = None if parameters is None else as_dict(parameters, reason).get("binary_data_size")
    if length is None:
        return None
    if type(length) is not int or length < 0:
        raise DecodeError(f"binary_data_size is {length!r}", reason=reason)
    return length


def _scores_among(outputs: list[Tensor]) -> Tensor:
    if len(outputs) == 1:
        return outputs[0]
    for word in _SCORE_WORDS:
        named = [output for output in outputs if word in output.name.lower()]
        if len(named) == 1:
            return named[0]
    names = ", ".join(output.name[:40] for output in outputs[:8])
    raise DecodeError(f"no telling which of the outputs has the scores: {names}", reason=drops.SEVERAL_TENSORS)


def _read_predictions(output: Tensor, count: int) -> Predictions:
    if not output.shape or output.shape[0] != count:
        raise DecodeError(f"an output of shape {output.shape} for {count} instances", reason=drops.OUTPUTS_MISMATCH)
    if output.datatype == BYTES:
        return Predictions(None, None, None)  # names of classes; which is which is not known here
    if output.size == 0:
        raise DecodeError(f"an output of shape {output.shape} has no values", reason=drops.OUTPUT_SHAPE)
    return read_outputs(output.to_array())


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""
