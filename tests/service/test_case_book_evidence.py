"""Explanations, attachments, ground truth, the audit trail, and what the monitor found out about a window."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import SimpleNamespace

import pytest

from fieldrepair_service.case_book import (
    MAX_ATTACHMENT_BYTES,
    Case,
    CaseBook,
    GroundTruth,
    GroundTruthReceipt,
    NewGroundTruth,
    WindowRecord,
)
from fieldrepair_service.errors import InputError, NotInCaseBook, WindowsOutOfOrder

OpenCase = Callable[..., Case]


def test_an_event_is_explained(book: CaseBook, open_case: OpenCase) -> None:
    case = open_case(book)
    assert book.event(case.event_id).explanation is None
    book.explain_event(case.event_id, {"summary": "more boots", "classes": [{"change": math.nan}]})
    assert book.event(case.event_id).explanation == {"summary": "more boots", "classes": [{"change": None}]}
    with pytest.raises(NotInCaseBook, match="there is no drift event 99"):
        book.explain_event(99, {})
    with pytest.raises(InputError, match="cannot store this as JSON"):
        book.explain_event(case.event_id, {"what": object()})


def test_windows_keep_what_the_monitor_found_out(
    book: CaseBook, make_window: Callable[..., WindowRecord], open_case: OpenCase
) -> None:
    window = make_window(
        0,
        accuracy_low=0.7,
        accuracy_high=0.8,
        accuracy_trusted=False,
        labelled_accuracy=0.74,
        labelled_count=50,
        effect_size=1.25,
        scores={"mmd": {"statistic": 0.2, "drifted": True}, "labels": {"p_value": None}},
    )
    book.record_windows("digits", "3", {}, [window])
    assert book.windows("digits", "3") == [window]
    with pytest.raises(InputError, match=r"finite numbers, got \{'effect_size': nan\}"):
        make_window(1, effect_size=math.nan)


def test_what_detectors_remember_moves_with_the_checkpoint(
    book: CaseBook, make_window: Callable[..., WindowRecord]
) -> None:
    def remembered() -> dict[str, str]:
        checkpoint = book.checkpoint("digits", "3")
        assert checkpoint is not None
        return dict(checkpoint.memory)

    book.record_windows("digits", "3", {}, [make_window(0)])
    assert remembered() == {}
    book.record_windows("digits", "3", {}, [make_window(1)], memory={"0/trend": "AAAA"})
    assert remembered() == {"0/trend": "AAAA"}
    book.record_windows("digits", "3", {}, [])
    assert remembered() == {"0/trend": "AAAA"}, "rows that were passed over change nothing"
    with pytest.raises(WindowsOutOfOrder):
        book.record_windows("digits", "3", {}, [make_window(1)], memory={"0/trend": "BBBB"})
    assert remembered() == {"0/trend": "AAAA"}, "another monitor was first: nothing of this one is written"
    book.record_windows("digits", "3", {}, [make_window(2)], memory={})
    assert remembered() == {}


def test_labels_that_come_later_are_noted_with_windows(
    book: CaseBook, make_window: Callable[..., WindowRecord]
) -> None:
    book.record_windows("digits", "3", {}, [make_window(0), make_window(1)])
    book.record_windows("digits", "4", {}, [make_window(0), make_window(1)])
    book.label_windows("digits", "3", {1: (0.75, 8)})
    noted = [(window.labelled_accuracy, window.labelled_count) for window in book.windows("digits", "3")]
    assert noted == [(None, None), (0.75, 8)]
    assert book.windows("digits", "4")[1].labelled_count is None
    with pytest.raises(NotInCaseBook, match=r"there are no windows \[7\] of digits 3"):
        book.label_windows("digits", "3", {0: (1.0, 1), 7: (1.0, 1)})
    for accuracy, count in ((1.1, 3), (math.nan, 3), (0.5, 0)):
        with pytest.raises(InputError, match=r"expected an accuracy in 0\.\.1 of at least 1 label"):
            book.label_windows("digits", "3", {0: (accuracy, count)})
    assert book.windows("digits", "3")[0].labelled_count is None


def test_attachments_are_replaced_by_name(book: CaseBook, open_case: OpenCase, clock: SimpleNamespace) -> None:
    case = open_case(book)
    book.attach(case.id, "map.json", "application/json", b"{}")
    first = book.attach(case.id, "unlike.png", "image/png", b"\x89PNG\x00", event_id=case.event_id)
    clock.ms += 1
    again = book.attach(case.id, "unlike.png", "image/png", b"\x89PNG\x00\xff")
    assert (first.id, first.event_id, first.size) == (again.id, case.event_id, 5)
    assert book.attachments(case.id) == [book.attachments(case.id)[0], again]
    assert [info.name for info in book.attachments(case.id)] == ["map.json", "unlike.png"]
    found = book.attachment(case.id, "unlike.png")
    assert found is not None
    assert (found.content, found.size, found.event_id, found.created_ms) == (b"\x89PNG\x00\xff", 6, None, clock.ms)
    assert book.attachment(case.id, "other") is None
    assert book.attachment(99, "unlike.png") is None


def test_attachments_that_cannot_be_are_refused(book: CaseBook, open_case: OpenCase) -> None:
    case, other = open_case(book), open_case(book)
    with pytest.raises(InputError, match=f"at most {MAX_ATTACHMENT_BYTES} bytes, got {MAX_ATTACHMENT_BYTES + 1}"):
        book.attach(case.id, "large", "image/png", bytes(MAX_ATTACHMENT_BYTES + 1))
    with pytest.raises(InputError, match="an attachment needs a name"):
        book.attach(case.id, " ", "image/png", b"")
    with pytest.raises(NotInCaseBook, match=f"case {case.id} has no drift event {other.event_id}"):
        book.attach(case.id, "a", "image/png", b"", event_id=other.event_id)
    for call in (lambda: book.attach(99, "a", "image/png", b""), lambda: book.attachments(99)):
        with pytest.raises(NotInCaseBook, match="there is no case 99"):
            call()
    assert book.attachments(case.id) == []


def test_the_audit_trail_is_read_newest_first_in_pages(book: CaseBook, clock: SimpleNamespace) -> None:
    for number in range(5):
        clock.ms += 1
        book.audit("ann", "approver", "promote", f"case {number}", {"version": number} if number else None)
    trail = book.audit_trail(2)
    assert [(entry.target, entry.detail) for entry in trail] == [
        ("case 4", {"version": 4}),
        ("case 3", {"version": 3}),
    ]
    assert (trail[0].at_ms, trail[0].actor, trail[0].role, trail[0].action) == (clock.ms, "ann", "approver", "promote")
    rest = book.audit_trail(10, before_id=trail[-1].id)
    assert [entry.target for entry in rest] == ["case 2", "case 1", "case 0"]


def test_ground_truth_may_come_twice_and_be_corrected(book: CaseBook, clock: SimpleNamespace) -> None:
    first, second = NewGroundTruth("req-1", 0, "cat"), NewGroundTruth("req-1", 1, "dog")
    assert book.receive_ground_truth([first, second], "sales") == GroundTruthReceipt(2, 0, 0)
    assert book.receive_ground_truth([first, second], "sales") == GroundTruthReceipt(0, 2, 0)
    clock.ms += 1
    corrected = NewGroundTruth("req-1", 1, "7")
    assert book.receive_ground_truth([corrected, NewGroundTruth("req-2", 0, "cat")], "audit") == GroundTruthReceipt(
        1, 0, 1
    )
    found = book.ground_truth(["req-1", "unknown"])
    assert found == {
        ("req-1", 0): GroundTruth("req-1", 0, "cat", source="sales", received_ms=clock.ms - 1),
        ("req-1", 1): GroundTruth("req-1", 1, "7", source="audit", received_ms=clock.ms),
    }
    assert book.ground_truth_count() == 3


def test_ground_truth_of_many_requests(book: CaseBook) -> None:
    labels = [NewGroundTruth(f"req-{number}", 0, "cat") for number in range(1_200)]
    assert book.receive_ground_truth(labels, "batch").stored == 1_200
    assert len(book.ground_truth(f"req-{number}" for number in range(100, 1_300))) == 1_100


def test_ground_truth_that_cannot_be_is_refused_whole(book: CaseBook) -> None:
    for wrong in (("", 0, "cat"), ("req", -1, "cat"), ("req", 0, "")):
        with pytest.raises(InputError, match="ground truth needs a client request id"):
            NewGroundTruth(*wrong)
    twice = [NewGroundTruth("req", 0, "cat"), NewGroundTruth("req", 0, "dog")]
    with pytest.raises(InputError, match="names 1 field inputs more than once"):
        book.receive_ground_truth(twice, "sales")
    assert book.ground_truth_count() == 0
