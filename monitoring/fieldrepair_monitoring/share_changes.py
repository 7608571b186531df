"""Which shares moved between two samples: of predicted classes, or of regions of the embedding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

from fieldrepair_monitoring.errors import DetectorError

Counts = npt.NDArray[np.int64]

MOVED = 0.05
"""Changes with a smaller adjusted p-value are called real: among those, at most one in 20 is expected to be chance."""


@dataclass(frozen=True)
class ShareChange:
    """How the share of one category differs between field and reference."""

    index: int
    """Which category."""
    name: str
    reference_share: float
    field_share: float
    p_value: float
    """Two-sided, adjusted for the number of categories (Benjamini and Hochberg, 1995)."""

    @property
    def change(self) -> float:
        """Field share minus reference share."""
        return self.field_share - self.reference_share

    @property
    def moved(self) -> bool:
        """Whether chance alone is an unlikely reason."""
        return self.p_value < MOVED

    def to_json(self) -> dict[str, object]:
        """As it stands in a stored explanation."""
        return {
            "name": self.name,
            "reference_share": self.reference_share,
            "field_share": self.field_share,
            "change": self.change,
            "p_value": self.p_value,
        }


def share_changes(names: Sequence[str], reference: Counts, field: Counts) -> list[ShareChange]:
    """Compare the shares of each category, the most certain change first.

    Each category is tested against all others together by Fisher's exact test, which holds for small counts too. The
    p-values are adjusted so that the false discovery rate holds over all categories.

    Args:
        names: one per category.
        reference: ``(categories,)`` how often each occurs in the reference.
        field: ``(categories,)`` how often each occurs in the field.

    Raises:
        DetectorError: the lengths differ, or a sample is empty.
    """
    known, seen = int(reference.sum()), int(field.sum())
    if not len(names) == len(reference) == len(field) or known == 0 or seen == 0:
        raise DetectorError(
            f"need two samples over the same categories, got {len(names)} names, {known} reference inputs in "
            f"{len(reference)} categories and {seen} field inputs in {len(field)}"
        )
    tables = [
        [[int(new), seen - int(new)], [int(old), known - int(old)]] for old, new in zip(reference, field, strict=True)
    ]
    adjusted = stats.false_discovery_control([float(stats.fisher_exact(table)[1]) for table in tables])
    changes = [
        ShareChange(index, name, int(old) / known, int(new) / seen, float(p_value))
        for index, (name, old, new, p_value) in enumerate(zip(names, reference, field, adjusted, strict=True))
    ]
    return sorted(changes, key=lambda each: (each.p_value, -abs(each.change)))
