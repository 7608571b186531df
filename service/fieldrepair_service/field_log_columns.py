"""The columns of the field log. They are spelled for any Arrow library, so that writers need no large one."""

from __future__ import annotations

from typing import Protocol

import nanoarrow as na


class ArrowStream(Protocol):
    """Rows of any Arrow library: a table, a reader, a struct array."""

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        """The Arrow PyCapsule interface."""
        ...


FIELD_LOG_COLUMNS = na.struct(
    {
        "writer": na.string(nullable=False),  # id of the spool that wrote the row
        "seq": na.int64(nullable=False),  # number of the exchange in that spool, strictly increasing
        "row": na.int32(nullable=False),  # instance in its request
        "request_id": na.string(nullable=False),  # begins with the time, so that files can be skipped
        "client_request_id": na.string(),  # what the client sent as x-request-id
        "timestamp_ms": na.int64(nullable=False),  # when the request arrived, UTC since the epoch
        "date": na.string(nullable=False),  # UTC day of timestamp_ms; the partition
        "model_name": na.string(nullable=False),
        "model_version": na.string(nullable=False),  # the version that answered
        "protocol": na.string(nullable=False),
        "status_code": na.int32(nullable=False),
        "execution_time_ms": na.float64(nullable=False),  # upstream's time, first byte out to last byte in
        "sampling_fraction": na.float64(nullable=False),  # a row stands for 1 / sampling_fraction rows
        "input": na.binary(nullable=False),  # one instance, raw little-endian, C order
        "dtype": na.string(nullable=False),  # NumPy name of the input's dtype
        "shape": na.list_(na.int32(), nullable=False),  # of one instance, without the batch axis
        "scores": na.list_(na.float32()),  # as the model server answered: logits or probabilities
        "predicted_class": na.int32(),
        "confidence": na.float32(),  # of predicted_class, in 0..1
        # Tables made by fieldrepair 0.1 get these when they are opened; older rows have null in them.
        "headers": na.map_(na.string(), na.string()),  # chosen header fields of the request, lower case
        "trace_id": na.string(),  # of the request's traceparent (W3C), 32 hexadecimal digits
        "columns": na.list_(na.string()),  # what the request calls the input's numbers, if it is a table
    },
    nullable=False,
)
"""As a struct; ``pyarrow.schema(FIELD_LOG_COLUMNS)`` makes a schema of it, and so does every other Arrow library."""

COLUMN_NAMES = tuple(field.name for field in FIELD_LOG_COLUMNS.fields)
