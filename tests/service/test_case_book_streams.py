"""The monitor's side of the case book: all of a step or nothing of it, each window once, each event once."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from types import SimpleNamespace

import pytest

from fieldrepair_service.case_book import CaseBook, CaseState, NewDriftEvent, WindowRecord, open_case_book
from fieldrepair_service.errors import EventAlreadyOpen, InputError, NotInCaseBook, WindowsOutOfOrder

MakeWindow = Callable[..., WindowRecord]
MakeEvent = Callable[..., NewDriftEvent]


def test_nothing_is_recorded_at_first(book: CaseBook) -> None:
    assert book.checkpoint("digits", "3") is None
    assert book.windows("digits", "3") == []
    assert book.events() == book.checkpoints() == book.pending_notifications() == []
    assert book.open_event("digits", "3") is None


def test_windows_come_back_as_they_went_in(book: CaseBook, make_window: MakeWindow, clock: SimpleNamespace) -> None:
    windows = [make_window(0, p_value=None, estimated_accuracy=None, drifted=False), make_window(1), make_window(2)]
    assert book.record_windows("digits", "3", {"w1": (7, 31), "w2": (2**40, 0)}, windows) is None
    assert book.windows("digits", "3") == windows
    assert book.windows("digits", "3", limit=2) == windows[1:]
    assert book.windows("digits", "4") == []
    checkpoint = book.checkpoint("digits", "3")
    assert checkpoint is not None
    assert checkpoint.cursor == {"w1": (7, 31), "w2": (2**40, 0)}
    assert (checkpoint.next_window_index, checkpoint.updated_ms) == (3, clock.ms)
    assert book.checkpoints() == [checkpoint]


def test_the_checkpoint_moves_without_windows_too(book: CaseBook, make_window: MakeWindow) -> None:
    book.record_windows("digits", "3", {"w1": (1, 0)}, [])
    book.record_windows("digits", "3", {"w1": (2, 0)}, [make_window(0)])
    book.record_windows("digits", "3", {"w1": (3, 0), "w2": (0, 0)}, [])
    checkpoint = book.checkpoint("digits", "3")
    assert checkpoint is not None
    assert (checkpoint.cursor, checkpoint.next_window_index) == ({"w1": (3, 0), "w2": (0, 0)}, 1)


@pytest.mark.parametrize(
    ("indices", "cursor", "message"),
    [
        ([1], {"w1": (9, 0)}, r"next window to record is 2, got \[1\]"),
        ([0, 1, 2], {"w1": (9, 0)}, r"next window to record is 2, got \[0, 1, 2\]"),
        ([3], {"w1": (9, 0)}, r"next window to record is 2, got \[3\]"),
        ([2, 4], {"w1": (9, 0)}, r"next window to record is 2, got \[2, 4\]"),
        ([2], {"w1": (4, 9)}, r"move back for writer 'w1', from \(5, 0\) to \(4, 9\)"),
        ([2], {"w2": (9, 9)}, r"move back for writer 'w1', from \(5, 0\) to None"),
    ],
)
def test_replays_and_gaps_are_refused_and_leave_nothing(
    book: CaseBook, make_window: MakeWindow, indices: list[int], cursor: dict[str, tuple[int, int]], message: str
) -> None:
    book.record_windows("digits", "3", {"w1": (5, 0)}, [make_window(0), make_window(1)])
    before = book.checkpoint("digits", "3")
    with pytest.raises(WindowsOutOfOrder, match=message):
        book.record_windows("digits", "3", cursor, [make_window(index) for index in indices])
    assert book.checkpoint("digits", "3") == before
    assert [window.index for window in book.windows("digits", "3")] == [0, 1]


def test_streams_of_versions_are_separate(book: CaseBook, make_window: MakeWindow) -> None:
    for version in ("3", "4"):
        book.record_windows("digits", version, {"w1": (5, 0)}, [make_window(0)])
    assert len(book.checkpoints()) == 2


def test_an_event_opens_a_case_and_tells(
    book: CaseBook, make_window: MakeWindow, make_event: MakeEvent, clock: SimpleNamespace
) -> None:
    new = make_event()
    event = book.record_windows("digits", "3", {"w1": (20, 0)}, [make_window(i) for i in range(3)], new)
    assert event is not None
    assert event == book.event(event.id) == book.open_event("digits", "3")
    assert book.events() == book.events("digits", "3") == [event]
    assert book.events("other") == book.events(model_version="9") == []
    assert (event.opened_ms, event.ended_ms, event.opened_case) == (clock.ms, None, True)
    for name in ("detector", "statistic", "p_value", "threshold", "window_index", "summary", "cursor_start"):
        assert getattr(event, name) == getattr(new, name), name

    case = book.case(event.case_id)
    assert (case.state, case.event_id, case.attempt) == (CaseState.ANNOTATING, event.id, 1)
    assert case.cursor_start == new.cursor_start
    assert case.class_names == ("cat", "dog", "7")
    assert case.input_spec == new.input_spec
    [opening] = book.history(case.id)
    assert (opening.from_state, opening.to_state, opening.actor) == (None, CaseState.ANNOTATING, "monitor")

    [notification] = book.pending_notifications()
    assert (notification.event_id, notification.case_id, notification.attempts) == (event.id, case.id, 0)
    assert notification.payload["event_id"] == event.id
    assert notification.payload["summary"] == new.summary


def test_one_open_event_per_model_version(book: CaseBook, make_window: MakeWindow, make_event: MakeEvent) -> None:
    event = book.record_windows("digits", "3", {"w1": (20, 0)}, [make_window(0)], make_event())
    assert event is not None
    with pytest.raises(EventAlreadyOpen, match=f"digits 3 has the open drift event {event.id}"):
        book.record_windows("digits", "3", {"w1": (30, 0)}, [make_window(1)], make_event())
    checkpoint = book.checkpoint("digits", "3")
    assert checkpoint is not None
    assert checkpoint.next_window_index == 1
    assert book.record_windows("digits", "4", {}, [make_window(0)], make_event(model_version="4")) is not None


def test_an_event_ends_and_its_case_stays(
    book: CaseBook, make_window: MakeWindow, make_event: MakeEvent, clock: SimpleNamespace
) -> None:
    first = book.record_windows("digits", "3", {"w1": (20, 0)}, [make_window(0)], make_event())
    assert first is not None
    clock.ms += 1000
    assert book.record_windows("digits", "3", {"w1": (30, 0)}, [make_window(1)], end_event_id=first.id) is None
    assert book.open_event("digits", "3") is None
    assert book.event(first.id).ended_ms == clock.ms
    assert book.case(first.case_id).state == CaseState.ANNOTATING

    ended_ms, clock.ms = clock.ms, clock.ms + 1000
    book.record_windows("digits", "3", {"w1": (40, 0)}, [make_window(2)], end_event_id=first.id)
    assert book.event(first.id).ended_ms == ended_ms  # ending twice does no harm

    # The shift comes back while the case is at work: a new event, told again, and no second case.
    second = book.record_windows("digits", "3", {"w1": (50, 0)}, [make_window(3)], make_event())
    assert second is not None
    assert (second.case_id, second.opened_case) == (first.case_id, False)
    assert book.case(first.case_id).event_id == first.id
    assert [notification.event_id for notification in book.pending_notifications()] == [first.id, second.id]


def test_one_event_can_give_way_to_the_next_in_one_step(
    book: CaseBook, make_window: MakeWindow, make_event: MakeEvent
) -> None:
    first = book.record_windows("digits", "3", {}, [make_window(0)], make_event())
    assert first is not None
    second = book.record_windows("digits", "3", {}, [make_window(1)], make_event(), end_event_id=first.id)
    assert second is not None
    assert book.event(first.id).ended_ms is not None
    assert book.open_event("digits", "3") == second


@pytest.mark.parametrize("state", [CaseState.REJECTED, CaseState.DISMISSED])
def test_a_closed_case_does_not_stand_in_the_way_of_a_new_one(
    book: CaseBook, make_window: MakeWindow, make_event: MakeEvent, state: CaseState
) -> None:
    first = book.record_windows("digits", "3", {}, [make_window(0)], make_event())
    assert first is not None
    book.transition(first.case_id, state, "no repair found")
    second = book.record_windows("digits", "3", {}, [make_window(1)], make_event(), end_event_id=first.id)
    assert second is not None
    assert second.opened_case
    assert second.case_id != first.case_id


def test_events_of_other_streams_are_refused(book: CaseBook, make_window: MakeWindow, make_event: MakeEvent) -> None:
    with pytest.raises(InputError, match="an event of digits 3 among windows of digits 4"):
        book.record_windows("digits", "4", {}, [make_window(0)], make_event())
    event = book.record_windows("digits", "3", {}, [make_window(0)], make_event())
    assert event is not None
    with pytest.raises(InputError, match=f"event {event.id} is not one of digits 4"):
        book.record_windows("digits", "4", {}, [make_window(0)], end_event_id=event.id)
    with pytest.raises(NotInCaseBook, match="no drift event 99"):
        book.record_windows("digits", "4", {}, [make_window(0)], end_event_id=99)
    with pytest.raises(NotInCaseBook, match="no drift event 99"):
        book.event(99)
    assert book.checkpoint("digits", "4") is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"size": 0}, "size >= 1"),
        ({"last_timestamp_ms": -1}, "end not before its start"),
        ({"statistic": float("nan")}, "finite numbers, got {'statistic': nan}"),
        ({"p_value": float("inf")}, "finite numbers, got {'p_value': inf}"),
    ],
)
def test_windows_that_cannot_be_are_refused(make_window: MakeWindow, changes: dict[str, float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        make_window(0, **changes)


@pytest.mark.parametrize("names", [[], ["cat", "cat"]])
def test_events_need_distinct_class_names(make_event: MakeEvent, names: list[str]) -> None:
    with pytest.raises(InputError, match="distinct class names"):
        make_event(class_names=names)


def test_notifications_stay_until_confirmed(
    book: CaseBook, make_window: MakeWindow, make_event: MakeEvent, clock: SimpleNamespace
) -> None:
    for version in ("1", "2", "3"):
        book.record_windows("digits", version, {}, [make_window(0)], make_event(model_version=version))
    first, second, third = book.pending_notifications()
    assert book.pending_notifications(limit=1) == [first]
    book.mark_notified(first.id)
    book.mark_notified(second.id, error="connection refused\0")
    failed, _ = book.pending_notifications()
    assert (failed.id, failed.attempts, failed.last_attempt_ms) == (second.id, 1, clock.ms)
    assert failed.last_error == "connection refused\N{REPLACEMENT CHARACTER}"
    book.mark_notified(second.id)
    assert book.pending_notifications() == [third]
    with pytest.raises(NotInCaseBook, match="no notification 99"):
        book.mark_notified(99)


# -- crashes and races -------------------------------------------------------------------------------------------

# Forks a child per statement of the transaction; the child kills itself with SIGKILL just before that statement.
_KILLED_AT_EVERY_STATEMENT = """
import json, os, signal, sys
from sqlalchemy import Engine, event
from fieldrepair_service.case_book import NewDriftEvent, WindowRecord, open_case_book

def windows(first):
    return [WindowRecord(first + i, 0, 1, 10, "mmd", 0.5, 0.1, 0.001, True, 0.7) for i in range(3)]

def drift(version):
    return NewDriftEvent("m", version, "mmd", 0.5, 0.001, 0.1, 5, {"w": (0, 0)}, 30, 0.7, 0.9, "shift", ["a"], {})

def record(url, version, kill_at):
    statements = 0
    def count(*_):
        nonlocal statements
        statements += 1
        if statements == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
    with open_case_book(url) as book:
        book.record_windows("m", version, {"w": (3, 0)}, windows(0))
        event.listen(Engine, "before_cursor_execute", count)
        event.listen(Engine, "commit", count)
        book.record_windows("m", version, {"w": (6, 0)}, windows(3), drift(version))

def state(book, version):
    checkpoint = book.checkpoint("m", version)
    return {
        "cursor": checkpoint.cursor["w"][0],
        "next": checkpoint.next_window_index,
        "windows": len(book.windows("m", version)),
        "events": len(book.events("m", version)),
        "cases": sum(case.model_version == version for case in book.cases()),
        "told": sum(n.payload["model_version"] == version for n in book.pending_notifications(limit=1000)),
    }

url, results = sys.argv[1], []
open_case_book(url).close()
while True:
    version = str(len(results) + 1)
    child = os.fork()
    if child == 0:
        try:
            record(url, version, len(results) + 1)
        except BaseException as error:
            print(repr(error), file=sys.stderr, flush=True)
            os._exit(1)
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    with open_case_book(url) as book:
        after = state(book, version)
        if status and os.WIFSIGNALED(status):
            # The monitor starts again: it reads its checkpoint and goes on from there.
            if after["next"] == 3:
                book.record_windows("m", version, {"w": (6, 0)}, windows(3), drift(version))
            results.append({"killed": after, "restarted": state(book, version)})
        else:
            print(json.dumps({"exit": os.waitstatus_to_exitcode(status), "done": after, "crashes": results}))
            break
"""


def test_a_monitor_killed_at_any_statement_leaves_all_or_nothing(case_book_url: str) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", _KILLED_AT_EVERY_STATEMENT, case_book_url],
        capture_output=True,
        text=True,
        timeout=150,
    )
    assert (done.returncode, done.stderr) == (0, "")
    outcome = json.loads(done.stdout)
    nothing = {"cursor": 3, "next": 3, "windows": 3, "events": 0, "cases": 0, "told": 0}
    everything = {"cursor": 6, "next": 6, "windows": 6, "events": 1, "cases": 1, "told": 1}
    assert (outcome["exit"], outcome["done"]) == (0, everything)
    # At least: read the checkpoint, move it, windows, look for an event and a case, case, history, event, message.
    assert len(outcome["crashes"]) >= 8
    for crash in outcome["crashes"]:
        assert crash == {"killed": nothing, "restarted": everything}


_TWO_MONITORS = """
import os, sys
from fieldrepair_service.case_book import NewDriftEvent, WindowRecord, open_case_book
from fieldrepair_service.errors import Conflict

go, wait = os.pipe()[::-1]
children = []
for number in range(4):
    child = os.fork()
    if child == 0:
        os.close(go)
        refused = 0
        with open_case_book(sys.argv[1]) as book:
            os.read(wait, 1)
            for index in range(20):
                window = WindowRecord(index, 0, 1, 10, "mmd", 0.5, 0.1, 0.001, True, 0.7)
                new = NewDriftEvent("m", "1", "mmd", 0.5, 0.001, 0.1, 5, {}, 30, 0.7, 0.9, f"{number}", ["a"], {})
                already = book.open_event("m", "1")
                try:
                    book.record_windows("m", "1", {"w": (index, 0)}, [window], new, already and already.id)
                except Conflict:
                    refused += 1
                except BaseException as error:
                    print(repr(error), file=sys.stderr, flush=True)
                    os._exit(99)
        os._exit(refused)
    children.append(child)
os.close(go)
refused = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
print(sum(refused))
"""


def test_monitors_that_race_record_each_window_once(case_book_url: str) -> None:
    """A second monitor, started by mistake or before the first is quite dead, is refused window by window."""
    open_case_book(case_book_url).close()
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", _TWO_MONITORS, case_book_url],
        capture_output=True,
        text=True,
        timeout=150,
    )
    assert (done.returncode, done.stderr) == (0, "")
    with open_case_book(case_book_url) as book:
        recorded = [window.index for window in book.windows("m", "1")]
        events = book.events("m", "1")
        assert recorded == list(range(len(recorded)))
        assert len(events) == len(recorded) == 80 - int(done.stdout)
        assert sum(event.ended_ms is None for event in events) == 1
        assert len(book.cases()) == 1
        assert len(book.pending_notifications(limit=1000)) == len(events)
