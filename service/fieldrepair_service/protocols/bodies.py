"""Bodies as every protocol has them: unpacked, parsed as JSON, and looked into with errors that carry a reason."""

from __future__ import annotations

import json
import zlib
from typing import TypeGuard

import orjson

from fieldrepair_service import drops
from fieldrepair_service.errors import DecodeError

_MOST_UNPACKED = 64 << 20
# What a parser makes of JSON is many times as large as the text. These bound it, at far more than a logged body can
# hold that was not compressed: some 600 MB at the worst.
_MOST_CONTAINERS = 2 << 20
_MOST_VALUES = 8 << 20


def unpack(body: bytes, encoding: str, reason: str) -> bytes:
    """A body without its content encoding.

    Raises:
        DecodeError: with ``reason`` if it is not what the encoding says; or for an unknown encoding, or too much.
    """
    encoding = encoding.strip().lower()
    if encoding in ("", "identity"):
        return body
    if encoding not in ("gzip", "x-gzip", "deflate"):
        raise DecodeError(f"content encoding {encoding!r} is not known", reason=drops.CONTENT_TYPE)
    unpacker = zlib.decompressobj(wbits=47 if encoding != "deflate" else 15)
    try:
        unpacked = unpacker.decompress(body, _MOST_UNPACKED)
    except zlib.error as error:
        raise DecodeError(f"not {encoding}: {error}", reason=reason) from error
    if unpacker.unconsumed_tail:
        raise DecodeError(f"more than {_MOST_UNPACKED} bytes unpacked", reason=drops.TOO_LARGE_DECODED)
    return unpacked


def parse_json(body: bytes, reason: str) -> object:
    """A body as JSON; NaN and Infinity are taken too.

    Raises:
        DecodeError: with ``reason`` if it is none; or if it is too much of it.
    """
    if body.count(b"[") + body.count(b"{") > _MOST_CONTAINERS or body.count(b",") > _MOST_VALUES:
        raise DecodeError(f"too many values in {len(body)} bytes of JSON", reason=drops.TOO_LARGE_DECODED)
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        pass
    try:
        # Scoring servers take NaN and Infinity, which orjson rightly refuses; so that they can be counted as such.
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        raise DecodeError(f"not JSON: {error}", reason=reason) from error


def media_type(content_type: str) -> str:
    """A content type without its parameters, in lower case."""
    return content_type.partition(";")[0].strip().lower()


def is_dict(value: object) -> TypeGuard[dict[str, object]]:
    """Whether a parsed value is a JSON object."""
    return isinstance(value, dict)


def is_list(value: object) -> TypeGuard[list[object]]:
    """Whether a parsed value is a JSON array."""
    return isinstance(value, list)


def as_dict(value: object, reason: str) -> dict[str, object]:
    """The value, which must be a JSON object.

    Raises:
        DecodeError: with ``reason`` if it is not.
    """
    if not is_dict(value):
        raise DecodeError(f"expected a JSON object, got a {type(value).__name__}", reason=reason)
    return value


def as_list(value: object, reason: str) -> list[object]:
    """The value, which must be a JSON array.

    Raises:
        DecodeError: with ``reason`` if it is not.
    """
    if not is_list(value):
        raise DecodeError(f"expected a list, got a {type(value).__name__}", reason=reason)
    return value


def only_tensor(tensors: dict[str, object]) -> object:
    """The value of the one name there is.

    Raises:
        DecodeError: for no names, or several.
    """
    if len(tensors) != 1:
        raise DecodeError(f"expected one named tensor, got {len(tensors)}", reason=drops.SEVERAL_TENSORS)
    return next(iter(tensors.values()))
