"""Is this webhook MLflow's? Its signature, its age, and whether it was here before.

MLflow signs ``<delivery id>.<timestamp>.<body>`` with HMAC-SHA256 and sends ``v1,<base64>``, after the conventions of
Standard Webhooks. Written from that description, so that the service needs no mlflow.
"""

from __future__ import annotations

import hmac
import time
from base64 import b64encode
from collections import OrderedDict
from collections.abc import Callable, Mapping
from enum import Enum

SIGNATURE_HEADER = "x-mlflow-signature"
TIMESTAMP_HEADER = "x-mlflow-timestamp"
DELIVERY_HEADER = "x-mlflow-delivery-id"

TOLERANCE_SECONDS = 300
"""How old, or how far ahead, a timestamp may be."""
_REMEMBERED = 10_000
_LONGEST_ID = 200


class Doubt(Enum):
    """Why a webhook is not believed."""

    NOT_SET_UP = "not_set_up"
    """There is no secret to check with."""
    UNSIGNED = "unsigned"
    """One of the three headers is missing or cannot be read."""
    STALE = "stale"
    """Its timestamp is too far from now."""
    WRONG_SIGNATURE = "wrong_signature"
    """It was not signed with this secret, or was changed on its way."""
    REPLAYED = "replayed"
    """This delivery was here before."""


class MlflowSignature:
    """Checks webhooks against one secret, and remembers the deliveries it has believed.

    Belongs to one thread.

    Args:
        secret: what MLflow was given with the webhook; None believes nothing.
        clock: gives the time in epoch seconds.
    """

    def __init__(self, secret: str | None, *, clock: Callable[[], float] = time.time) -> None:
        self._secret = None if secret is None else secret.encode()
        self._clock = clock
        self._seen: OrderedDict[str, float] = OrderedDict()

    def doubt(self, headers: Mapping[str, str], body: bytes) -> Doubt | None:
        """Why a webhook is not to be believed; None if it is, and then its delivery counts as seen.

        Args:
            headers: by lower-case name, or case-insensitive.
            body: as it was sent.
        """
        if self._secret is None:
            return Doubt.NOT_SET_UP
        delivery, stamp = headers.get(DELIVERY_HEADER, ""), headers.get(TIMESTAMP_HEADER, "")
        given = headers.get(SIGNATURE_HEADER, "")
        if not given or not 0 < len(delivery) <= _LONGEST_ID or not (stamp.isascii() and stamp.isdigit()):
            return Doubt.UNSIGNED
        # The signature before the age: who cannot sign learns nothing of our clock.
        if not self._signed(f"{delivery}.{stamp}.".encode() + body, given):
            return Doubt.WRONG_SIGNATURE
        now = self._clock()
        if len(stamp) > 12 or abs(now - int(stamp)) > TOLERANCE_SECONDS:
            return Doubt.STALE
        return None if self._is_new(delivery, now) else Doubt.REPLAYED

    def _signed(self, content: bytes, given: str) -> bool:
        digest = hmac.digest(self._secret or b"", content, "sha256")
        wanted = b"v1," + b64encode(digest)
        # Standard Webhooks allows several, with spaces between them, while a secret is being changed.
        return any(hmac.compare_digest(wanted, each.encode()) for each in given.split(" "))

    def _is_new(self, delivery: str, now: float) -> bool:
        # A timestamp may be ahead by the tolerance, so a delivery can be believed for twice as long.
        while self._seen and next(iter(self._seen.values())) < now - 2 * TOLERANCE_SECONDS:
            self._seen.popitem(last=False)
        if delivery in self._seen:
            return False
        self._seen[delivery] = now
        while len(self._seen) > _REMEMBERED:
            self._seen.popitem(last=False)
        return True
