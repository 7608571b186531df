"""Sessions without a table: a signed cookie says who somebody is, and expires by itself."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

from itsdangerous import BadSignature, URLSafeTimedSerializer


@dataclass(frozen=True)
class Session:
    """What the cookie of somebody who signed in says."""

    id: str
    name: str
    role: int


class Sessions:
    """Makes, reads and ends sessions.

    The key is derived from the tokens, so sessions outlive a restart, and changing any token signs everybody out.

    Args:
        tokens: everything the key is derived from; none for a key that lives as long as this process.
        seconds: how long a session lasts after sign-in.
    """

    def __init__(self, tokens: Sequence[str], seconds: int) -> None:
        material = "\0".join(tokens) if tokens else secrets.token_hex(32)
        self._key = hmac.digest(material.encode(), b"fieldrepair console sessions 1", hashlib.sha256)
        self._serializer = URLSafeTimedSerializer(
            self._key, salt="session", signer_kwargs={"key_derivation": "hmac", "digest_method": hashlib.sha256}
        )
        self.seconds = seconds
        # Cookies do not tell ports apart: two sidecars on one host must not overwrite each other's.
        self.cookie_name = f"fieldrepair_{hashlib.sha256(self._key).hexdigest()[:8]}"
        self._ended: dict[str, float] = {}
        self._lock = threading.Lock()

    def begin(self, name: str, role: int) -> str:
        """The cookie of a new session."""
        return str(self._serializer.dumps([secrets.token_urlsafe(12), name, role]))

    def read(self, cookie: str) -> Session | None:
        """The session of a cookie; None if it was not made here, has expired, or was ended."""
        try:
            found = cast(list[Any], self._serializer.loads(cookie, max_age=self.seconds))
        except BadSignature:  # also: expired
            return None
        session = Session(str(found[0]), str(found[1]), int(found[2]))
        with self._lock:
            return None if session.id in self._ended else session

    def end(self, session: Session) -> None:
        """Refuse the session's cookie from now on. A restart forgets that, so the browser must drop it as well."""
        now = time.monotonic()
        with self._lock:
            self._ended = {other: until for other, until in self._ended.items() if until > now}
            self._ended[session.id] = now + self.seconds

    def csrf_token(self, session: Session) -> str:
        """What a form of this session must send along, which another site cannot know."""
        return hmac.new(self._key, b"csrf:" + session.id.encode(), hashlib.sha256).hexdigest()
