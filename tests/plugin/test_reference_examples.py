"""Reference examples for the labelling page: what fits is attached, and the page can say what does not."""

from __future__ import annotations

import io
from collections.abc import Generator
from pathlib import Path

import numpy as np
import orjson
import pytest
from PIL import Image

from fieldrepair_monitoring.handover import HandOver
from fieldrepair_monitoring.reference import Reference
from fieldrepair_plugin import reference_examples
from fieldrepair_plugin.reference_examples import attach_examples
from fieldrepair_service.case_book import CaseBook, NewDriftEvent, WindowRecord, open_case_book
from fieldrepair_service.examples import EXAMPLES, ExampleIndex, example_name
from fieldrepair_service.inputs import ImageInput, TabularInput, TextInput


def _handover(classes: int, present: int, side: int = 6) -> HandOver:
    generator = np.random.default_rng(0)
    spec = ImageInput(height=side, width=side, channels=3)
    labels = np.arange(10 * present, dtype=np.int64) % present
    x = generator.random((len(labels), *spec.shape)).astype(np.float32)
    names = tuple(f"class {index}" for index in range(classes))
    return HandOver(spec, names, "0", "logits", Reference(x, labels, x, labels), {0: 0.9})


@pytest.fixture
def book(tmp_path: Path) -> Generator[CaseBook]:
    """A case book with one case."""
    with open_case_book(f"sqlite:///{tmp_path / 'book.db'}") as opened:
        event = NewDriftEvent("m", "1", "mmd", 0.5, 0.01, 0.1, 0, {}, 100, None, None, "differs", ["a", "b"], {})
        window = WindowRecord(0, 1, 2, 100, "mmd", 0.5, 0.1, 0.01, drifted=True)
        opened.record_windows("m", "1", {"w": (1, 0)}, [window], event)
        yield opened


def test_each_class_gets_a_sheet_of_its_own_pictures(book: CaseBook) -> None:
    handover = _handover(classes=3, present=2)
    found = attach_examples(book, 1, handover)
    assert found == ExampleIndex(counts={0: 8, 1: 8}, tile=6, left_out=0, without=1)
    stored = book.attachment(1, EXAMPLES)
    assert stored is not None
    assert ExampleIndex.model_validate(orjson.loads(stored.content)) == found
    sheet = book.attachment(1, example_name(1))
    assert sheet is not None
    picture = np.asarray(Image.open(io.BytesIO(sheet.content)))
    assert isinstance(handover.input, ImageInput)
    second = handover.input.to_pixels(handover.reference.train_x[handover.reference.train_y == 1][1:2])[0]
    assert picture.shape == (6, 48, 3)
    np.testing.assert_array_equal(picture[:, 6:12].transpose(2, 0, 1), second)


def test_large_pictures_are_made_smaller(book: CaseBook) -> None:
    assert attach_examples(book, 1, _handover(classes=2, present=1, side=150)).tile == 96


def test_what_does_not_fit_is_counted(book: CaseBook, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reference_examples, "ROOM_BYTES", 4000)
    found = attach_examples(book, 1, _handover(classes=20, present=20))
    assert len(found.counts) + found.left_out == 20
    assert found.counts
    assert found.left_out > 0
    sheets = [info for info in book.attachments(1) if info.name != EXAMPLES]
    assert sum(info.size for info in sheets) <= 4000
    assert len(sheets) == len(found.counts)


def test_rows_and_texts_are_shown_in_words(book: CaseBook, monkeypatch: pytest.MonkeyPatch) -> None:
    x = np.array([[30, 0], [41, 1], [52, 1]] * 4, dtype=np.float32)
    labels = np.array([0, 1, 1] * 4, dtype=np.int64)
    spec = TabularInput(features=("age", "plan"), units=("years", ""), categories={"plan": ("free", "paid")})
    handover = HandOver(spec, ("a", "b", "c"), "0", "logits", Reference(x, labels, x, labels), {0: 0.9})
    found = attach_examples(book, 1, handover)
    assert found.counts == {0: 4, 1: 8}
    assert found.without == 1
    assert found.words[0][0] == "age 30 years, plan free"
    stored = book.attachment(1, EXAMPLES)
    assert stored is not None
    assert ExampleIndex.model_validate(orjson.loads(stored.content)) == found

    tokens = np.array([[1, 2, 0], [2, 2, 1]] * 5, dtype=np.int64)
    topics = np.array([0, 1] * 5, dtype=np.int64)
    text = TextInput(length=3, vocabulary=("", "good", "bad"))
    texts = HandOver(text, ("a", "b"), "0", "logits", Reference(tokens, topics, tokens, topics), {0: 0.9})
    assert attach_examples(book, 1, texts).words[0][0] == "good bad"
    monkeypatch.setattr(reference_examples, "ROOM_BYTES", 8 * 50)
    assert attach_examples(book, 1, texts).left_out == 1
