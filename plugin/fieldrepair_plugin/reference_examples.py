"""Reference examples of each class for the labelling page: one sheet of pictures per class, attached to the case."""

from __future__ import annotations

import io
import logging

import numpy as np
import numpy.typing as npt
from PIL import Image

from fieldrepair_monitoring.handover import HandOver
from fieldrepair_service.case_book import CaseBook
from fieldrepair_service.examples import EXAMPLES, ExampleIndex, example_name

logger = logging.getLogger(__name__)

PER_CLASS = 8
"""Pictures of one class; enough to see what varies, few enough to look at."""
ROOM_BYTES = 4 * 2**20
"""All sheets of a case together; with very many classes the last ones get none, and the page says so."""
_LARGEST_TILE = 96
"""Pixels per side of one picture; larger ones are made smaller."""


def attach_examples(book: CaseBook, case_id: int, handover: HandOver) -> ExampleIndex:
    """Attach sheets of reference pictures to a case, class by class until there is no more room.

    Returns:
        What was attached.

    Raises:
        StoreError: the case book does not answer.
    """
    spec = handover.input
    reference = handover.reference
    tile = min(_LARGEST_TILE, max(spec.height, spec.width))
    counts: dict[int, int] = {}
    room, left_out, without = ROOM_BYTES, 0, 0
    for index in range(len(handover.class_names)):
        members = np.flatnonzero(reference.train_y == index)[:PER_CLASS]
        if len(members) == 0:
            without += 1
            continue
        sheet = _sheet(spec.to_pixels(reference.train_x[members]), tile)
        if len(sheet) > room:
            left_out += 1
            continue
        room -= len(sheet)
        book.attach(case_id, example_name(index), "image/png", sheet)
        counts[index] = len(members)
    if left_out:
        logger.info("case %d: no room for reference examples of %d classes", case_id, left_out)
    found = ExampleIndex(counts=counts, tile=tile, left_out=left_out, without=without)
    book.attach(case_id, EXAMPLES, "application/json", found.model_dump_json().encode())
    return found


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
