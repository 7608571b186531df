"""Why an exchange or a row is not in the field log: every reason there is, as the metrics and the spool spell it.

An exchange is one request with its answer, a row one instance in it. Each exchange that reaches the sidecar's scoring
route is accepted, and then either waits, or is logged, or is dropped for exactly one of these reasons.
"""

from __future__ import annotations

EXCHANGE_DROPPED = "exchange_dropped:"
"""Prefix of the counters of exchanges that never became rows; the reason follows."""
ROW_DROPPED = "row_dropped:"
"""Prefix of the counters of rows that were decoded and not logged; the reason follows."""
EXCHANGES_LOGGED = "exchanges_logged"
"""Counter: exchanges with at least one row in the field log."""
ROWS_DECODED = "rows_decoded"
"""Counter: rows of exchanges that could be decoded, ``rows_logged + row_dropped:*``."""
ROWS_LOGGED = "rows_logged"
"""Counter: rows in the field log."""

# Counted before the spool, in memory first.
EXCLUDED = "excluded"  # --log-include and --log-exclude leave its path out
NOT_SAMPLED = "not_sampled"  # --sampling-fraction left it out
BODY_TOO_LARGE = "body_too_large"  # a body over --max-logged-body
UPSTREAM_ERROR_STATUS = "upstream_error_status"  # the model server answered with another status than 2xx
UPSTREAM_FAILED = "upstream_failed"  # no (whole) answer came from the model server
CLIENT_DISCONNECTED = "client_disconnected"  # the client did not wait for the answer
QUEUE_FULL = "queue_full"
SPOOL_FULL = "spool_full"  # --spool-max-bytes reached: the field log has been out of reach for long
DISK_FULL = "disk_full"
SPOOL_ERROR = "spool_error"
SPOOL_DAMAGED = "spool_damaged"  # waited in a spool whose file broke

CAPTURE_REASONS = (
    EXCLUDED,
    NOT_SAMPLED,
    BODY_TOO_LARGE,
    UPSTREAM_ERROR_STATUS,
    UPSTREAM_FAILED,
    CLIENT_DISCONNECTED,
    QUEUE_FULL,
    SPOOL_FULL,
    DISK_FULL,
    SPOOL_ERROR,
    SPOOL_DAMAGED,
)

# Counted by the shipper, in the spool. The two sets stay apart, because of where they are counted.
CORRUPT = "corrupt"  # what the spool gave back is not what was written
DECODER_CRASHED = "decoder_crashed"  # decoding it killed the shipper twice
UNKNOWN_PROTOCOL = "unknown_protocol"  # no decoder of that name, after a downgrade say
CONTENT_TYPE = "content_type"  # a content type or encoding that no decoder reads
MALFORMED_REQUEST = "malformed_request"  # not JSON, CSV or Parquet at all, or none of the protocol's forms
MALFORMED_ANSWER = "malformed_answer"  # an answer that is not JSON, or has no predictions in it
SEVERAL_TENSORS = "several_tensors"  # more than one named input or output: not one array per instance
NOT_NUMERIC = "not_numeric"  # text or other things where numbers are needed
RAGGED = "ragged"  # instances of different shapes
NO_BATCH = "no_batch"  # a single value instead of a batch of instances
EMPTY = "empty"  # a batch without instances
OUTPUTS_MISMATCH = "outputs_mismatch"  # not one prediction per instance
OUTPUT_SHAPE = "output_shape"  # predictions that are neither classes nor one row of scores per instance
TOO_LARGE_DECODED = "too_large_decoded"  # small on the wire, huge in memory
REDACTOR_FAILED = "redactor_failed"  # the redactor raised, crashed, took too long or gave back what it must not
REDACTED_AWAY = "redacted_away"  # the redactor said that the exchange is not to be logged

SHIPPER_REASONS = (
    CORRUPT,
    DECODER_CRASHED,
    UNKNOWN_PROTOCOL,
    CONTENT_TYPE,
    MALFORMED_REQUEST,
    MALFORMED_ANSWER,
    SEVERAL_TENSORS,
    NOT_NUMERIC,
    RAGGED,
    NO_BATCH,
    EMPTY,
    OUTPUTS_MISMATCH,
    OUTPUT_SHAPE,
    TOO_LARGE_DECODED,
    REDACTOR_FAILED,
    REDACTED_AWAY,
)

# Of rows; an exchange all of whose rows are dropped is dropped for the same reason.
NOT_FINITE = "not_finite"  # the input has a NaN, an infinity or a missing value
SCORES_NOT_FINITE = "scores_not_finite"  # the prediction has

ROW_REASONS = (NOT_FINITE, SCORES_NOT_FINITE)
