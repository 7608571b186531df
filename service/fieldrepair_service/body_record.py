"""A copy of a body for the field log, as long as it is not too large for that."""

from __future__ import annotations


class BodyRecord:
    """Takes a body piece by piece, and forgets it once it is more than there is room for."""

    __slots__ = ("_chunks", "_room", "too_large")

    def __init__(self, room: int) -> None:
        self._chunks: list[bytes] = []
        self._room = room
        self.too_large = False

    def add(self, chunk: bytes) -> None:
        """The next piece; forgets everything once it is too much."""
        self._room -= len(chunk)
        if self._room >= 0:
            self._chunks.append(chunk)
        elif not self.too_large:
            self.too_large = True
            self._chunks.clear()

    def body(self) -> bytes:
        """The whole, unless it was too large."""
        return self._chunks[0] if len(self._chunks) == 1 else b"".join(self._chunks)
