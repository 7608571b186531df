"""How a process that works until it is stopped begins and ends: monitor and repair worker alike."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from queue import SimpleQueue
from types import FrameType

from fieldrepair_monitoring.backoff import Backoff
from fieldrepair_service.case_book import CaseBook, open_case_book
from fieldrepair_service.errors import SchemaMismatch, StoreError
from fieldrepair_service.field_log import FieldLog
from fieldrepair_service.settings import StoreSettings

logger = logging.getLogger(__name__)

_LONGEST_PAUSE = 60.0


def open_stores(
    settings: StoreSettings, stop: threading.Event, *, poll_seconds: float, once: bool
) -> tuple[FieldLog, CaseBook] | None:
    """Field log and case book, waiting for them if they do not answer yet; None if stopped meanwhile.

    Args:
        settings: where they are.
        stop: ends the waiting.
        poll_seconds: first pause between two tries; it grows up to a minute.
        once: do not wait.

    Raises:
        SchemaMismatch: the case book has another schema; no waiting mends that.
        StoreError: with ``once``, why a store cannot be opened.
    """
    pause = Backoff(poll_seconds, _LONGEST_PAUSE)
    while not stop.is_set():
        stores = _try_stores(settings)
        if not isinstance(stores, StoreError):
            return stores
        if once:
            raise stores
        wait = pause.failed()
        logger.warning("trying again in %.0f s: %s", wait, stores)
        stop.wait(wait)
    return None


def _try_stores(settings: StoreSettings) -> tuple[FieldLog, CaseBook] | StoreError:
    """Both stores, or why one of them cannot be opened now."""
    try:
        settings.state_dir.mkdir(parents=True, exist_ok=True)
        return FieldLog.open(settings.field_log_uri), open_case_book(settings.case_book_url)
    except SchemaMismatch:
        raise
    except StoreError as error:
        return error
    except OSError as error:
        return StoreError(f"{settings.state_dir} cannot be used: {error}")


@contextmanager
def stopped_by_signals(farewell: str) -> Generator[threading.Event]:
    """An event that the first SIGTERM or SIGINT sets; a second one acts as if nobody listened.

    The handler itself sets nothing: it runs in the main thread between any two steps of it, also while that thread
    holds the lock inside the event it waits for, and setting the event would wait for that lock for ever. It leaves
    the number in a queue, whose ``put`` may be interrupted by another, and a thread of its own does the rest.

    Args:
        farewell: logged at the first one.
    """
    stop = threading.Event()
    asked: SimpleQueue[int | None] = SimpleQueue()
    previous: dict[int, Callable[[int, FrameType | None], object] | int | None] = {}

    def handle(number: int, _frame: FrameType | None) -> None:
        asked.put(number)
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)

    def listen() -> None:
        if asked.get() is not None:
            stop.set()
            logger.info(farewell)

    listener = threading.Thread(target=listen, name="signals", daemon=True)
    listener.start()
    in_main_thread = threading.current_thread() is threading.main_thread()
    for number in (signal.SIGTERM, signal.SIGINT) if in_main_thread else ():
        previous[number] = signal.signal(number, handle)
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
        asked.put(None)
        listener.join()
