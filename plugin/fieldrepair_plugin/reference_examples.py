"""Reference examples of each class for the labelling page, attached to the case: pictures, or inputs in words."""

from __future__ import annotations

import io
import logging

import numpy as np
import numpy.typing as npt
from PIL import Image

from fieldrepair_monitoring.handover import HandOver
from fieldrepair_service.case_book import CaseBook
from fieldrepair_service.examples import EXAMPLES, ExampleIndex, example_name
from fieldrepair_service.input_text import in_one_line
from fieldrepair_service.inputs import ImageInput, TabularInput, TextInput

IntArray = npt.NDArray[np.int64]

logger = logging.getLogger(__name__)

PER_CLASS = 8
"""Examples of one class; enough to see what varies, few enough to look at."""
ROOM_BYTES = 4 * 2**20
"""All sheets of a case together; with very many classes the last ones get none, and the page says so."""
_LARGEST_TILE = 96
"""Pixels per side of one picture; larger ones are made smaller."""
_LONGEST_LINE = 600
"""Characters of one example in words."""


def attach_examples(book: CaseBook, case_id: int, handover: HandOver) -> ExampleIndex:
    """Attach examples of each class to a case: sheets of pictures, or rows and texts in words.

    Returns:
        What was attached.

    Raises:
        StoreError: the case book does not answer.
    """
    members = _members(handover)
    spec = handover.input
    if isinstance(spec, ImageInput):
        found = _attach_sheets(book, case_id, handover, spec, members)
    else:
        found = _in_words(handover, spec, members)
    if found.left_out:
        logger.info("case %d: no room for reference examples of %d classes", case_id, found.left_out)
    book.attach(case_id, EXAMPLES, "application/json", found.model_dump_json().encode())
    return found


def _members(handover: HandOver) -> dict[int, IntArray]:
    """Of each class that has any, its first training inputs."""
    labels = handover.reference.train_y
    found = {index: np.flatnonzero(labels == index)[:PER_CLASS] for index in range(len(handover.class_names))}
    return {index: members for index, members in found.items() if len(members)}


def _attach_sheets(
    book: CaseBook, case_id: int, handover: HandOver, spec: ImageInput, members: dict[int, IntArray]
) -> ExampleIndex:
    """Class by class, until there is no more room."""
    tile = min(_LARGEST_TILE, max(spec.height, spec.width))
    counts: dict[int, int] = {}
    room = ROOM_BYTES
    for index, chosen in members.items():
        sheet = _sheet(spec.to_pixels(handover.reference.train_x[chosen]), tile)
        if len(sheet) > room:
            continue
        room -= len(sheet)
        book.attach(case_id, example_name(index), "image/png", sheet)
        counts[index] = len(chosen)
    without = len(handover.class_names) - len(members)
    return ExampleIndex(counts=counts, tile=tile, left_out=len(members) - len(counts), without=without)


def _in_words(handover: HandOver, spec: TabularInput | TextInput, members: dict[int, IntArray]) -> ExampleIndex:
    words: dict[int, tuple[str, ...]] = {}
    room = ROOM_BYTES // 8  # one document, read whole for every page
    for index, chosen in members.items():
        lines = tuple(_shortened(in_one_line(spec, handover.reference.train_x[at])) for at in chosen)
        size = sum(len(line.encode()) for line in lines)
        if size > room:
            continue
        room -= size
        words[index] = lines
    counts = {index: len(lines) for index, lines in words.items()}
    without = len(handover.class_names) - len(members)
    return ExampleIndex(counts=counts, words=words, left_out=len(members) - len(words), without=without)


def _shortened(line: str) -> str:
    return line if len(line) <= _LONGEST_LINE else f"{line[: _LONGEST_LINE - 3]}..."


def _sheet(pixels: npt.NDArray[np.uint8], tile: int) -> bytes:
    """PNG of (n, channels, height, width) pictures side by side, each fitted into a square of ``tile`` pixels."""
    channels = pixels.shape[1]
    sheet = Image.new("L" if channels == 1 else "RGB", (tile * len(pixels), tile))
    for number, picture in enumerate(pixels):
        image = Image.fromarray(picture[0] if channels == 1 else picture.transpose(1, 2, 0))
        if max(image.size) > tile:
            image.thumbnail((tile, tile))
        sheet.paste(image, (number * tile + (tile - image.width) // 2, (tile - image.height) // 2))
    buffer = io.BytesIO()
    sheet.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()
