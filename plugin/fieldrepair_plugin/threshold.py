"""Step 2: the unsmoothness tau up to which the model's own answer is good enough to learn from."""

from __future__ import annotations

import faiss
import numpy as np
import numpy.typing as npt

from fieldrepair_plugin.repairable import FloatArray
from fieldrepair_service.errors import InputError

FloatVector = npt.NDArray[np.float64]


def neighbour_distance(field_logits: FloatArray, training_logits: FloatArray, neighbours: int) -> FloatVector:
    """Mean cosine distance of each field input to its nearest training inputs: how densely it was covered in training.

    Args:
        field_logits: ``(n, classes)``.
        training_logits: ``(m, classes)``.
        neighbours: how many; all m if there are fewer.

    Returns:
        ``(n,)`` in 0..2; small means dense. A row of zeros has distance 1 to everything.
    """
    count = min(neighbours, len(training_logits))
    index = faiss.IndexFlatIP(training_logits.shape[1])
    index.add(unit_rows(training_logits))
    similarity, _ = index.search(unit_rows(field_logits), count)
    return (1.0 - np.clip(similarity.astype(np.float64), -1.0, 1.0)).mean(axis=1)


def threshold(unsmoothness: FloatVector, density: FloatVector, average_inputs: int) -> float:
    """Tau: mean unsmoothness of the inputs whose density is closest to the average density.

    Measured on the pool itself. (The paper's code measures it on its test split, which a repair must not see.)

    Args:
        unsmoothness: ``(n,)`` in 0..1.
        density: ``(n,)``, from :func:`neighbour_distance`.
        average_inputs: how many inputs to average over (the paper: 1,000); all n if there are fewer.

    Returns:
        Tau in 0..1.
    """
    if len(unsmoothness) != len(density):
        raise InputError(f"expected one density per unsmoothness, got {len(density)} for {len(unsmoothness)}")
    nearest = np.argsort(np.abs(density - density.mean()), kind="stable")[:average_inputs]
    return float(unsmoothness[nearest].mean())


def unit_rows(values: FloatArray) -> FloatArray:
    """Rows scaled to length 1; a row of zeros stays zero."""
    lengths = np.linalg.norm(values, axis=1, keepdims=True)
    return np.ascontiguousarray(values / np.where(lengths > 0, lengths, 1), dtype=np.float32)
