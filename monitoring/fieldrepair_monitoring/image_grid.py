"""Pictures in rows with captions, as one PNG: field inputs beside what the reference has that is most like them."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from fieldrepair_monitoring.errors import DetectorError

Pixels = npt.NDArray[np.uint8]

TILE = 104
"""Pixels that the longer side of a picture gets, about."""
_GAP = 10
_LINE = 14
_FONT_SIZE = 12
_INK, _PAPER, _FRAME = (34, 34, 34), (255, 255, 255), (200, 120, 0)


@dataclass(frozen=True)
class Tile:
    """One picture with up to two lines below it."""

    pixels: Pixels
    """``(channels, height, width)``, 1 or 3 channels."""
    caption: tuple[str, ...] = ()
    framed: bool = False
    """Set apart by a frame: a field input among reference inputs."""


def image_grid(rows: Sequence[Sequence[Tile]], *, headings: Sequence[str] = ()) -> bytes:
    """One PNG with a row of pictures per field input.

    Small pictures are enlarged by whole numbers, each pixel a square, so that one sees what the model saw; only
    pictures larger than a tile are scaled down.

    Args:
        rows: the pictures; rows may differ in length.
        headings: one line above each column, if given.

    Raises:
        DetectorError: no picture at all, or one that is neither grey nor RGB.
    """
    if not any(rows):
        raise DetectorError("an image grid needs at least one picture, got none")
    font = ImageFont.load_default(size=_FONT_SIZE)
    pictures = [[(_picture(tile), tile) for tile in row] for row in rows]
    side = max(TILE, *(max(picture.size) for row in pictures for picture, _ in row))
    lines = max(len(tile.caption) for row in rows for tile in row)
    top = _LINE + _GAP if headings else _GAP
    step_x, step_y = side + _GAP, side + lines * _LINE + _GAP
    columns = max(map(len, rows))
    sheet = Image.new("RGB", (columns * step_x + _GAP, top + len(rows) * step_y + _GAP), _PAPER)
    draw = ImageDraw.Draw(sheet)
    for column, heading in enumerate(headings[:columns]):
        draw.text((_GAP + column * step_x, _GAP // 2), _fit(draw, heading, font, side), fill=_INK, font=font)
    for line, row in enumerate(pictures):
        for column, (picture, tile) in enumerate(row):
            x, y = _GAP + column * step_x, top + line * step_y
            sheet.paste(picture, (x, y))
            if tile.framed:
                draw.rectangle((x - 2, y - 2, x + picture.width + 1, y + picture.height + 1), outline=_FRAME, width=2)
            for number, text in enumerate(tile.caption):
                draw.text((x, y + side + 1 + number * _LINE), _fit(draw, text, font, side), fill=_INK, font=font)
    buffer = io.BytesIO()
    sheet.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def _picture(tile: Tile) -> Image.Image:
    channels, height, width = tile.pixels.shape
    if channels not in (1, 3):
        raise DetectorError(f"a picture needs 1 or 3 channels, got shape {tile.pixels.shape}")
    factor = max(1, TILE // max(height, width))
    pixels = tile.pixels.repeat(factor, axis=1).repeat(factor, axis=2)
    picture = Image.fromarray(pixels[0] if channels == 1 else np.ascontiguousarray(pixels.transpose(1, 2, 0)))
    if max(picture.size) > 2 * TILE:
        picture.thumbnail((2 * TILE, 2 * TILE))
    return picture.convert("RGB")


def _fit(draw: ImageDraw.ImageDraw, text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    """The text, cut off with dots where it would run into the next picture."""
    shown = text
    while shown and draw.textlength(shown if shown == text else shown + "...", font=font) > width:
        shown = shown[:-1]
    return shown if shown == text else shown + "..."
