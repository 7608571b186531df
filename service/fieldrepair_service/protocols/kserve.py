"""KServe's inference events: the bodies of one request and its answer, without the path and headers they came with.

So which protocol they speak is told by the bodies: version 2 (Open Inference Protocol) has tensors with a name and
datatype, version 1 has ``instances`` and ``predictions``. Where the JSON ends in a message with binary tensors, and
whether a body is compressed, is told by the bytes too, because KServe's events do not say.
"""

from __future__ import annotations

import json
from dataclasses import replace

from fieldrepair_service import drops
from fieldrepair_service.errors import DecodeError
from fieldrepair_service.exchange import Exchange
from fieldrepair_service.protocols.base import DecodedExchange
from fieldrepair_service.protocols.bodies import is_dict, is_list, parse_json, unpack
from fieldrepair_service.protocols.mlflow import MlflowScoring
from fieldrepair_service.protocols.open_inference import OpenInference
from fieldrepair_service.routes import KSERVE

_GZIP = b"\x1f\x8b"
_LONGEST_JSON = 64 << 20


class KServe:
    """Decoder of mirrored KServe traffic, version 1 and 2."""

    name = KSERVE

    def __init__(self) -> None:
        self._version_1 = MlflowScoring()
        self._version_2 = OpenInference()

    def decode(self, exchange: Exchange) -> DecodedExchange:
        """Read an exchange.

        Raises:
            DecodeError: with the reason to count it under.
        """
        request = _plain(exchange.request_body, drops.MALFORMED_REQUEST)
        answer = _plain(exchange.answer_body, drops.MALFORMED_ANSWER)
        length, fields = _json_of(request, exchange.request_json_length)
        plain = replace(exchange, request_body=request, request_encoding="", answer_body=answer, answer_encoding="")
        if not _has_tensors(fields):
            # Version 1 is JSON, whatever content type the client gave it.
            return self._version_1.decode(replace(plain, request_type="application/json"))
        answer_length, _ = _json_of(answer, exchange.answer_json_length)
        return self._version_2.decode(replace(plain, request_json_length=length, answer_json_length=answer_length))


def _plain(body: bytes, reason: str) -> bytes:
    return unpack(body, "gzip", reason) if body.startswith(_GZIP) else body


def _json_of(body: bytes, said: str) -> tuple[str, object]:
    """Where the JSON at the body's beginning ends, as the header would say it (empty: all of it), and what it says."""
    if said:
        head = body[: int(said)] if said.isascii() and said.isdigit() and len(said) <= 18 else body
        return said, _parsed(head)
    parsed = _parsed(body)
    if parsed is not None or not body.startswith(b"{") or len(body) > _LONGEST_JSON:
        return "", parsed
    try:
        # One character per byte, so that the end it finds is one of bytes.
        value, end = json.JSONDecoder().raw_decode(body.decode("latin-1"))
    except (ValueError, RecursionError):
        return "", None
    return ("" if end == len(body) else str(end)), value


def _parsed(body: bytes) -> object:
    try:
        return parse_json(body, drops.MALFORMED_REQUEST)
    except DecodeError as error:
        if error.reason == drops.TOO_LARGE_DECODED:
            raise
        return None


def _has_tensors(fields: object) -> bool:
    if not is_dict(fields):
        return False
    inputs = fields.get("inputs")
    return is_list(inputs) and bool(inputs) and is_dict(inputs[0]) and "datatype" in inputs[0]
