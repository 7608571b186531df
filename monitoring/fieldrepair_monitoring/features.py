"""What one pass of a model over some inputs gives: everything that detectors and estimates read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]
Output = Literal["logits", "probabilities"]
"""What a model gives."""


@dataclass(frozen=True)
class Features:
    """Outputs, scores and embeddings of ``n`` inputs and, where the inputs are a table, its rows."""

    outputs: FloatArray
    """``(n, classes)`` as the module returned them."""
    scores: FloatArray
    """``(n, classes)`` probabilities, rows sum to 1."""
    embeddings: FloatArray
    """``(n, d)`` input of the embedding layer, flattened."""
    rows: FloatArray | None = None
    """``(n, f)`` the served inputs themselves, where each is one row of a table; None for images and texts."""

    def __len__(self) -> int:
        return len(self.scores)

    def take(self, which: npt.NDArray[np.integer[Any]] | npt.NDArray[np.bool_] | slice) -> Features:
        """The chosen inputs only.

        Args:
            which: indices, a mask or a slice.
        """
        rows = None if self.rows is None else self.rows[which]
        return Features(self.outputs[which], self.scores[which], self.embeddings[which], rows)


def joined(parts: list[Features]) -> Features:
    """Several lots of features as one, in order; rows are kept only if every part has them."""
    rows = [part.rows for part in parts if part.rows is not None]
    return Features(
        np.concatenate([part.outputs for part in parts]),
        np.concatenate([part.scores for part in parts]),
        np.concatenate([part.embeddings for part in parts]),
        np.concatenate(rows) if len(rows) == len(parts) else None,
    )
