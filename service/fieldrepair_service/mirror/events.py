"""CloudEvents as KServe's inference logger sends them: in HTTP binary mode, one for a request, one for its answer.

Attributes are header fields ``ce-NAME``; the body is the payload alone. Read here are those of KServe's own source
(``pkg/logger/worker.go`` and ``handler.go``): id, type, source, time, inferenceservicename, namespace, component,
endpoint and metadata (chosen request headers, a JSON object of lists).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Literal
from urllib.parse import unquote

import orjson

from fieldrepair_service.errors import InputError
from fieldrepair_service.protocols.bodies import is_dict, is_list, media_type

Kind = Literal["request", "response"]
Key = tuple[str, str, str, str, str, str]

KINDS: dict[str, Kind] = {
    "org.kubeflow.serving.inference.request": "request",
    "org.kubeflow.serving.inference.response": "response",
}
"""Types of the events that are taken, as KServe's logger names them."""

# Why an event is refused, as the metrics count it.
STRUCTURED = "structured"  # structured or batched mode; KServe sends binary mode
NO_EVENT = "no_event"  # a request without the attributes that every CloudEvent has
OTHER_TYPE = "other_type"  # an event about something else
METHOD = "method"  # anything but POST
TOO_LARGE = "too_large"  # a payload over --max-logged-body
REFUSALS = (STRUCTURED, NO_EVENT, OTHER_TYPE, METHOD, TOO_LARGE)

_LONGEST_ATTRIBUTE = 1_000
# RFC 3339; Python 3.10 reads neither Z nor nanoseconds.
_TIME = re.compile(r"(\d{4}-\d\d-\d\d)[Tt](\d\d:\d\d:\d\d)(?:\.(\d{1,6})\d*)?([Zz]|[+-]\d\d:\d\d)")


class EventRefused(InputError):  # noqa: N818 - it says what happened to the event
    """An event is not taken.

    Attributes:
        status: HTTP status to answer with.
        reason: one of :data:`REFUSALS`.
    """

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.status, self.reason = status, reason


@dataclass(frozen=True)
class Event:
    """One event, its payload as it came."""

    kind: Kind
    key: Key
    """What request and answer of one exchange have in common: source, id, service, namespace, component, endpoint."""
    time_ms: int
    """When it was sent, milliseconds UTC since the epoch; 0 if it does not say."""
    content_type: str
    metadata: tuple[tuple[bytes, bytes], ...]
    """Header fields of the request to the model that KServe was told to pass on (``metadataHeaders``), lower case."""
    traceparent: bytes
    body: bytes

    @property
    def id(self) -> str:
        """The request's id: KServe makes one, unless the client sent ``Ce-Id``."""
        return self.key[1]

    @property
    def inference_service(self) -> str:
        """Name of the InferenceService; empty if the event does not say."""
        return self.key[2]

    @property
    def path(self) -> str:
        """What patterns of paths are held against: ``/NAMESPACE/INFERENCESERVICE/ENDPOINT/COMPONENT``."""
        _, _, service, namespace, component, endpoint = self.key
        return f"/{namespace}/{service}/{endpoint}/{component}"

    @property
    def size(self) -> int:
        """Bytes it takes while it waits, roughly."""
        return len(self.body) + sum(len(name) + len(value) for name, value in self.metadata) + 500


def check_mode(headers: Iterable[tuple[bytes, bytes]]) -> None:
    """Refuse what is no event in binary mode, before its payload is read.

    Raises:
        EventRefused: for structured and batched mode.
    """
    for name, value in headers:
        if name == b"content-type":
            kind = media_type(value.decode("latin-1"))
            if kind.startswith("application/cloudevents"):
                raise EventRefused(
                    415,
                    STRUCTURED,
                    f"expected CloudEvents in HTTP binary mode, as KServe's logger sends them, got {kind}",
                )


def read_event(headers: Iterable[tuple[bytes, bytes]], body: bytes) -> Event:
    """An event from a POST's header fields and body.

    Raises:
        EventRefused: if it is none of KServe's inference logger.
    """
    given = {
        name: value for name, value in headers if name.startswith(b"ce-") or name in (b"content-type", b"traceparent")
    }
    text = {name: _text(value) for name, value in given.items() if name.startswith(b"ce-")}
    missing = [f"ce-{name}" for name in ("specversion", "id", "type", "source") if not text.get(f"ce-{name}".encode())]
    if missing:
        raise EventRefused(400, NO_EVENT, f"expected a CloudEvent in HTTP binary mode; missing: {', '.join(missing)}")
    if not text[b"ce-specversion"].startswith("1."):
        raise EventRefused(
            400, NO_EVENT, f"expected CloudEvents 1.0, got ce-specversion {text[b'ce-specversion'][:20]!r}"
        )
    kind = KINDS.get(text[b"ce-type"])
    if kind is None:
        raise EventRefused(400, OTHER_TYPE, f"expected ce-type {' or '.join(KINDS)}, got {text[b'ce-type'][:100]!r}")
    key = tuple(
        text.get(b"ce-" + name, "")[:_LONGEST_ATTRIBUTE]
        for name in (b"source", b"id", b"inferenceservicename", b"namespace", b"component", b"endpoint")
    )
    metadata = _metadata(text.get(b"ce-metadata", ""))
    return Event(
        kind=kind,
        key=key,  # type: ignore[arg-type]  # six names give six values
        time_ms=_milliseconds(text.get(b"ce-time", "")),
        content_type=given.get(b"content-type", b"").decode("latin-1"),
        metadata=metadata,
        # The CloudEvents extension of that name first; then what the client sent, if KServe passes it on.
        traceparent=text.get(b"ce-traceparent", "").encode("latin-1", "replace")
        or dict(metadata).get(b"traceparent", b"")
        or given.get(b"traceparent", b""),
        body=body,
    )


def _text(value: bytes) -> str:
    """An attribute's value: percent-encoded UTF-8, says the HTTP binding; not every sender encodes."""
    return unquote(value.decode("utf-8", "replace"), errors="replace")


def _metadata(text: str) -> tuple[tuple[bytes, bytes], ...]:
    """Header fields from KServe's JSON object of lists; whatever else it is, none."""
    if not text:
        return ()
    try:
        parsed: object = orjson.loads(text)
    except orjson.JSONDecodeError:
        return ()
    if not is_dict(parsed):
        return ()
    return tuple(
        (name.lower().encode("latin-1", "replace"), value.encode("latin-1", "replace"))
        for name, values in parsed.items()
        for value in (values if is_list(values) else [values])
        if isinstance(value, str)
    )


def _milliseconds(text: str) -> int:
    match = _TIME.fullmatch(text.strip())
    if match is None:
        return 0
    day, clock, fraction, zone = match.groups()
    zone = "+00:00" if zone in "Zz" else zone
    try:
        moment = datetime.fromisoformat(f"{day}T{clock}.{(fraction or '0'):0<6}{zone}")
        elapsed = moment - datetime(1970, 1, 1, tzinfo=timezone.utc)
    except (ValueError, OverflowError):
        return 0
    return max(0, int(elapsed.total_seconds() * 1000))
