"""The redactor's process: decoding and foreign code, away from the serving, with nothing stored on the way.

``python -m fieldrepair_service.redactor_process NAME`` reads exchanges from its standard input and writes them back
redacted. :class:`RedactorProcess` is the other end: it starts the process, waits for each exchange no longer than it is
told to, and starts it again when it has died. An exchange that it dies or dawdles at is stored without its content.
"""

from __future__ import annotations

import logging
import os
import pickle
import select
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Sequence
from importlib.metadata import entry_points
from typing import IO

from fieldrepair_service.drops import REDACTOR_FAILED
from fieldrepair_service.errors import ConfigurationError
from fieldrepair_service.exchange import Exchange
from fieldrepair_service.lean import keep_pandas_out

logger = logging.getLogger(__name__)

GROUP = "fieldrepair.redactors"
"""Group of entry points that redactors are found in."""

_SIZE = struct.Struct("<Q")
_START_SECONDS = 60.0
_PAUSE_SECONDS = 1.0
_READY = b"ready"


def check_redactor(name: str) -> None:
    """Tell whether a redactor of this name is installed, without loading it.

    Raises:
        ConfigurationError: if it is not; the message names those that are.
    """
    names = sorted(entry_points(group=GROUP).names)
    if name not in names:
        raise ConfigurationError(
            f"--redactor: there is no entry point {name!r} in group {GROUP}; installed: {', '.join(names) or 'none'}"
        )


class RedactorProcess:
    """Redacts exchanges in a child process. Belongs to one thread."""

    def __init__(self, name: str, timeout: float) -> None:
        """Start the child.

        Args:
            name: entry point of the redactor.
            timeout: seconds that one exchange may take.
        """
        self._name = name
        self._timeout = timeout
        self._child: subprocess.Popen[bytes] | None = None
        self._next_start = 0.0
        self._ready = False
        self._start()

    def redact(self, exchanges: Sequence[Exchange]) -> list[Exchange]:
        """The exchanges as they may be stored, in order. Never raises."""
        return [self._one(each) for each in exchanges]

    def close(self) -> None:
        """Stop the child."""
        if self._child is not None:
            self._stop(self._child)

    def _one(self, exchange: Exchange) -> Exchange:
        from fieldrepair_service.redaction import without_content  # brings NumPy, so not with this module

        try:
            child = self._child if self._child is not None else self._start()
            if child is not None:
                if not self._ready:
                    self._ready = _receive(child, time.monotonic() + _START_SECONDS) == _READY
                    if not self._ready:
                        raise ProcessLookupError("it did not start")
                deadline = time.monotonic() + self._timeout
                _send(child, pickle.dumps(exchange), deadline)
                return pickle.loads(_receive(child, deadline))  # noqa: S301 - from our own child
        except (OSError, EOFError, ValueError, pickle.UnpicklingError) as error:
            logger.error("the redactor %s failed at an exchange, which is not logged: %s", self._name, error)  # noqa: TRY400 - explained
            if self._child is not None:
                self._stop(self._child)
        return without_content(exchange, REDACTOR_FAILED)

    def _start(self) -> subprocess.Popen[bytes] | None:
        """A new child, but no more often than once a second."""
        now = time.monotonic()
        if now < self._next_start:
            return None
        self._next_start = now + _PAUSE_SECONDS
        self._ready = False
        self._child = subprocess.Popen(
            [sys.executable, "-m", "fieldrepair_service.redactor_process", self._name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
        )
        for stream in (self._child.stdin, self._child.stdout):
            if stream is not None:
                os.set_blocking(stream.fileno(), False)
        return self._child

    def _stop(self, child: subprocess.Popen[bytes]) -> None:
        self._child = None
        child.kill()
        child.wait()
        for stream in (child.stdin, child.stdout):
            if stream is not None:
                stream.close()


def _send(child: subprocess.Popen[bytes], content: bytes, deadline: float) -> None:
    if child.stdin is None:
        raise EOFError("it has no input")
    descriptor = child.stdin.fileno()
    left = memoryview(_SIZE.pack(len(content)) + content)
    while left:
        _, ready, _ = select.select([], [descriptor], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            raise TimeoutError("it takes too long")
        left = left[os.write(descriptor, left) :]


def _receive(child: subprocess.Popen[bytes], deadline: float) -> bytes:
    (size,) = _SIZE.unpack(_read(child, _SIZE.size, deadline))
    return _read(child, size, deadline)


def _read(child: subprocess.Popen[bytes], count: int, deadline: float) -> bytes:
    if child.stdout is None:
        raise EOFError("it has no output")
    descriptor = child.stdout.fileno()
    pieces: list[bytes] = []
    while count:
        ready, _, _ = select.select([descriptor], [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            raise TimeoutError("it takes too long")
        piece = os.read(descriptor, min(count, 1 << 20))
        if not piece:
            raise EOFError("it ended")
        pieces.append(piece)
        count -= len(piece)
    return b"".join(pieces)


def main(name: str) -> int:
    """Redact what comes in on standard input until it ends; the exit status."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # meant for the parent, which ends this process when it is time
    # What the redactor prints must not come between its answers.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    keep_pandas_out()
    from fieldrepair_service.redaction import load_redactor, redact

    redactor = load_redactor(name)
    questions = os.fdopen(os.dup(0), "rb")
    _write(answers, _READY)
    while header := questions.read(_SIZE.size):
        (size,) = _SIZE.unpack(header)
        exchange: Exchange = pickle.loads(questions.read(size))  # noqa: S301 - from our own parent
        _write(answers, pickle.dumps(redact(exchange, redactor)))
    return 0


def _write(answers: IO[bytes], content: bytes) -> None:
    answers.write(_SIZE.pack(len(content)) + content)
    answers.flush()


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1]))
