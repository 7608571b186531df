"""Do the classes come as often in the field as in training? The labels tell, where there are enough of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import numpy as np
import numpy.typing as npt
import torch
from scipy.stats import chisquare
from torch import Tensor

Doubles = npt.NDArray[np.float64]

_PRIOR = 50
"""The training shares count as so many labels: a few labels alone are a poor guess."""


@dataclass(frozen=True)
class ClassShares:
    """How often each class comes."""

    reference: Tensor
    """``(classes,)`` in the training data; sums to 1."""
    field: Tensor
    """``(classes,)`` in the field, after the labels; sums to 1."""

    @classmethod
    def of(cls, training: Tensor, labels: Tensor, classes: int, chance: float) -> ClassShares | None:
        """Compare the two.

        Args:
            training: ``(r,)`` classes of the training data.
            labels: ``(m,)`` classes that people gave to field inputs.
            classes: how many there are.
            chance: how likely labels of unchanged shares may differ so much (chi-square test), to be called different.

        Returns:
            None where chance explains the difference.
        """
        trained = torch.bincount(training, minlength=classes).double() + 1.0
        reference = trained / trained.sum()
        counts = torch.bincount(labels, minlength=classes).double()
        if len(labels) == 0:
            return None
        observed, expected = cast("tuple[Doubles, Doubles]", (counts.numpy(), (reference * len(labels)).numpy()))
        if chisquare(observed, expected).pvalue >= chance:
            return None
        field = (counts + _PRIOR * reference) / (len(labels) + _PRIOR)
        return cls(reference.float(), field.float())
