"""One scoring request and its answer, as the request path hands them over: bytes, not yet understood."""

from __future__ import annotations

import zlib
from dataclasses import dataclass

UNKNOWN_MODEL = "unknown"
"""Name and version of an upstream that was given none."""


@dataclass(slots=True)
class Exchange:
    """A request to the model and the answer it got."""

    timestamp_ms: int
    """When the request arrived, milliseconds UTC since the epoch."""
    client_request_id: str | None
    """What the client sent as x-request-id."""
    model_name: str
    model_version: str
    """The version that answered."""
    protocol: str
    """Name of the decoder that understands it, see :mod:`fieldrepair_service.protocols`."""
    status_code: int
    execution_time_ms: float
    """Time the upstream took: from the request's first byte out to the answer's last byte in."""
    sampling_fraction: float
    """Chance, in (0, 1], with which this request was chosen for logging."""
    request_type: str
    """Content-Type of the request; empty if it had none."""
    request_encoding: str
    """Content-Encoding of the request; empty if it had none."""
    request_body: bytes
    answer_type: str
    answer_encoding: str
    answer_body: bytes
    request_path: str = ""
    """Path of the request as it was sent, which may name the model; empty in exchanges of an older spool."""
    request_json_length: str = ""
    """Inference-Header-Content-Length of the request; empty if it had none. So is the next one."""
    answer_json_length: str = ""
    headers: str = ""
    """Header fields of the request that are kept, a JSON object of text by lower-case name; empty if there are none."""
    trace_id: str = ""
    """Trace that the request belongs to, by its traceparent; empty if it had none."""
    redaction: str = ""
    """Empty: the bodies are as they were sent. ``done``: they went through the redactor, and are in its form, see
    :mod:`fieldrepair_service.redaction`. Anything else is the reason why there are no bodies to read."""

    @property
    def size(self) -> int:
        """Bytes of both bodies."""
        return len(self.request_body) + len(self.answer_body)

    def checksum(self) -> int:
        """CRC-32 of all fields: tells a bad disk from a strange request."""
        rest = (
            self.timestamp_ms,
            self.client_request_id,
            self.model_name,
            self.model_version,
            self.protocol,
            self.status_code,
            self.execution_time_ms,
            self.sampling_fraction,
            self.request_type,
            self.request_encoding,
            self.answer_type,
            self.answer_encoding,
        )
        # Older spools do not have these, and their checksums must stay true.
        later = (self.request_path, self.request_json_length, self.answer_json_length)
        latest = (self.headers, self.trace_id, self.redaction)
        if any(latest):
            rest = (*rest, *later, *latest)
        elif any(later):
            rest = (*rest, *later)
        checksum = zlib.crc32(repr(rest).encode("utf-8", "surrogateescape"))
        return zlib.crc32(self.answer_body, zlib.crc32(self.request_body, checksum))
