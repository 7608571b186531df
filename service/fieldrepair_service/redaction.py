"""What a redactor sees of an exchange, and the form in which its work is spooled.

A redactor is a function under an entry point in group ``fieldrepair.redactors``. It is given a :class:`Redactable`, and
gives back one (the same, changed, or another), or None for an exchange that is not to be logged at all. It runs before
anything of the exchange is stored; where it fails, nothing of it is.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.metadata import entry_points

import numpy as np
import numpy.typing as npt
import orjson

from fieldrepair_service import drops
from fieldrepair_service.errors import DecodeError
from fieldrepair_service.exchange import UNKNOWN_MODEL, Exchange
from fieldrepair_service.protocols import DECODERS, DecodedExchange, Predictions
from fieldrepair_service.redactor_process import GROUP

DONE = "done"
"""Value of :attr:`Exchange.redaction` where the bodies are in the redactor's form."""


@dataclass
class Redactable:
    """One exchange, decoded, for a redactor to change."""

    inputs: npt.NDArray[np.generic]
    """(n, *shape of one instance) numbers or booleans; a copy, free to be written to."""
    scores: npt.NDArray[np.float32] | None
    """(n, classes), as answered; None if the answer was classes only."""
    headers: dict[str, str]
    """Header fields that are logged (``--log-headers``), by lower-case name."""
    client_request_id: str | None
    trace_id: str
    """32 hexadecimal digits; empty if there is none."""
    protocol: str
    model_name: str
    model_version: str


Redactor = Callable[[Redactable], "Redactable | None"]


def load_redactor(name: str) -> Redactor:
    """The redactor of this name."""
    (entry,) = entry_points(group=GROUP, name=name)
    return entry.load()


def redact(exchange: Exchange, redactor: Redactor) -> Exchange:
    """The exchange as it may be stored: redacted, or, where that cannot be, nothing but the reason. Never raises."""
    try:
        decoder = DECODERS.get(exchange.protocol)
        if decoder is None:
            return without_content(exchange, drops.UNKNOWN_PROTOCOL)
        return _redact(exchange, decoder.decode(exchange), redactor)
    except DecodeError as error:
        return without_content(exchange, error.reason)
    except Exception:  # noqa: BLE001 - a redactor is anybody's code, and its message may have what must not be told
        return without_content(exchange, drops.REDACTOR_FAILED)


def without_content(exchange: Exchange, reason: str) -> Exchange:
    """What is left of an exchange of which nothing may be stored: that it was, and why it is not logged."""
    return replace(_emptied(exchange), redaction=reason)


def decode_redacted(exchange: Exchange) -> DecodedExchange:
    """Read an exchange that was redacted.

    Raises:
        DecodeError: with the reason for which nothing of it was stored.
    """
    if exchange.redaction != DONE:
        raise DecodeError("nothing of it was stored", reason=exchange.redaction)
    inputs: npt.NDArray[np.generic] = np.load(io.BytesIO(exchange.request_body), allow_pickle=False)
    with np.load(io.BytesIO(exchange.answer_body), allow_pickle=False) as answer:
        found = {name: answer[name] for name in answer.files}
    predictions = Predictions(found.get("scores"), found.get("predicted_class"), found.get("confidence"))
    columns = found.get("columns")
    return DecodedExchange(inputs, predictions, columns=None if columns is None else tuple(map(str, columns)))


def _redact(exchange: Exchange, decoded: DecodedExchange, redactor: Redactor) -> Exchange:
    predictions = decoded.predictions
    name, version = (
        told if told != UNKNOWN_MODEL else found or UNKNOWN_MODEL
        for told, found in (
            (exchange.model_name, decoded.model_name),
            (exchange.model_version, decoded.model_version),
        )
    )
    given = Redactable(
        inputs=decoded.inputs.copy(),
        scores=None if predictions.scores is None else predictions.scores.copy(),
        headers=orjson.loads(exchange.headers) if exchange.headers else {},
        client_request_id=exchange.client_request_id,
        trace_id=exchange.trace_id,
        protocol=exchange.protocol,
        model_name=name,
        model_version=version,
    )
    back = redactor(given)
    if back is None:
        return without_content(exchange, drops.REDACTED_AWAY)
    _check(back, decoded)
    request, answer = io.BytesIO(), io.BytesIO()
    np.save(request, back.inputs, allow_pickle=False)
    # A redactor may take columns away; then nobody knows any more which names are left.
    named = decoded.columns is not None and back.inputs.shape[1:] == decoded.inputs.shape[1:]
    kept = {
        "columns": np.asarray(decoded.columns, dtype=np.str_) if named else None,
        "scores": back.scores,
        "predicted_class": predictions.predicted_class,
        "confidence": predictions.confidence,
    }
    np.savez(answer, **{name: values for name, values in kept.items() if values is not None})
    return replace(
        _emptied(exchange),
        client_request_id=back.client_request_id,
        model_name=name,
        model_version=version,
        request_body=request.getvalue(),
        answer_body=answer.getvalue(),
        headers=orjson.dumps(back.headers).decode() if back.headers else "",
        trace_id=back.trace_id,
        redaction=DONE,
    )


def _check(back: Redactable, decoded: DecodedExchange) -> None:
    """What comes back must still be one input per instance, or rows would be joined to the wrong answers."""
    kinds = [
        isinstance(back, Redactable),  # pyright: ignore[reportUnnecessaryIsInstance] - it is anybody's code
        len(back.inputs) == len(decoded.inputs),
        back.inputs.dtype.kind in "biuf",
        back.scores is None or (back.scores.dtype == np.float32 and len(back.scores) == len(decoded.inputs)),
        back.client_request_id is None or isinstance(back.client_request_id, str),  # pyright: ignore[reportUnnecessaryIsInstance]
        all(isinstance(part, str) for item in back.headers.items() for part in item),  # pyright: ignore[reportUnnecessaryIsInstance]
        isinstance(back.trace_id, str),  # pyright: ignore[reportUnnecessaryIsInstance]
    ]
    if not all(kinds):
        raise ValueError("the redactor gave back what cannot be logged")


def _emptied(exchange: Exchange) -> Exchange:
    """The exchange without anything that a client or the model said."""
    return replace(
        exchange,
        client_request_id=None,
        request_type="",
        request_encoding="",
        request_body=b"",
        answer_type="",
        answer_encoding="",
        answer_body=b"",
        request_path="",
        request_json_length="",
        answer_json_length="",
        headers="",
        trace_id="",
    )
