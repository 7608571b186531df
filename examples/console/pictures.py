"""Pictures of handwritten digits (scikit-learn's, 8 by 8 pixels), and what a badly lit camera makes of them."""

from __future__ import annotations

import io

import numpy as np
import numpy.typing as npt
from PIL import Image
from sklearn.datasets import load_digits

from fieldrepair_service.inputs import ImageInput

Pictures = npt.NDArray[np.float32]

SPEC = ImageInput(height=8, width=8)
CLASS_NAMES = [str(number) for number in range(10)]

_TILE = 64


def digits() -> tuple[Pictures, npt.NDArray[np.int64]]:
    """``(1797, 1, 8, 8)`` pictures, values in 0..1, and their classes."""
    bunch = load_digits()
    return (bunch.images[:, np.newaxis] / 16).astype(np.float32), bunch.target.astype(np.int64)


def badly_lit(pictures: Pictures, seed: int) -> Pictures:
    """The same with a gradient of light, less contrast and noise."""
    random = np.random.default_rng(seed)
    light = np.linspace(0.6, 0.0, 8, dtype=np.float32)[np.newaxis, np.newaxis, np.newaxis, :]
    noise = random.normal(0, 0.03, pictures.shape).astype(np.float32)
    return np.clip(0.6 * pictures + light * 0.6 + noise, 0, 1).astype(np.float32)


def pairs_png(above: Pictures, below: Pictures) -> bytes:
    """A PNG with a field input in each column, and the reference input nearest to it under it."""
    rows = [np.concatenate(list(SPEC.to_pixels(part)[:, 0]), axis=1) for part in (above, below)]
    small = Image.fromarray(np.concatenate(rows, axis=0))
    buffer = io.BytesIO()
    small.resize((len(above) * _TILE, 2 * _TILE), Image.Resampling.NEAREST).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()
