"""Pictures in a terminal: each character is two pixels, one above the other."""

from __future__ import annotations

import io

import numpy as np
import numpy.typing as npt
from PIL import Image

_SHADES = {(False, False): " ", (True, False): "▀", (False, True): "▄", (True, True): "█"}


def half_blocks(png: bytes, columns: int, lines: int, *, colour: bool) -> str:
    """A PNG as lines of text.

    Args:
        png: the picture.
        columns: at most so many characters wide.
        lines: at most so many lines.
        colour: whether the terminal shows 24-bit colours; else pixels lighter than the middle are drawn.
    """
    image = Image.open(io.BytesIO(png)).convert("RGB")
    # Whole enlargements keep pixels square; what is too large is made smaller smoothly.
    room = min(columns / image.width, 2 * lines / image.height)
    factor = int(room) if room >= 1 else room
    size = (max(1, int(image.width * factor)), max(2, int(image.height * factor)))
    image = image.resize(size, Image.Resampling.NEAREST if room >= 1 else Image.Resampling.BOX)
    pixels = np.asarray(image)
    if len(pixels) % 2:
        pixels = np.concatenate([pixels, np.zeros_like(pixels[:1])])
    return "\n".join(_line(upper, lower, colour=colour) for upper, lower in zip(pixels[::2], pixels[1::2], strict=True))


def _line(upper: npt.NDArray[np.uint8], lower: npt.NDArray[np.uint8], *, colour: bool) -> str:
    if not colour:
        light = [
            (bool(above.mean() > 127), bool(below.mean() > 127)) for above, below in zip(upper, lower, strict=True)
        ]
        return "".join(_SHADES[pair] for pair in light).rstrip()
    cells = [
        f"\x1b[38;2;{above[0]};{above[1]};{above[2]}m\x1b[48;2;{below[0]};{below[1]};{below[2]}m▀"
        for above, below in zip(upper, lower, strict=True)
    ]
    return "".join(cells) + "\x1b[0m"
