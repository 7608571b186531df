"""What a training repair trains on, what chooses among trials, and how labels that are no class numbers are read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fieldrepair_plugin.randomness import derive_seed
from fieldrepair_service.errors import InputError

Numbers = npt.NDArray[Any]


@dataclass(frozen=True)
class TrialData:
    """Training inputs, and validation inputs that choose among trials. Neither is what the last report is about."""

    train_x: Tensor
    """``(n, *shape)`` as the module takes them."""
    train_y: Numbers
    """``(n,)`` labels as they came: class numbers, if all is well."""
    val_x: Tensor
    val_y: Numbers
    """``(v,)`` class numbers from 0: what choosing rests on has to be right."""
    classes: int
    """The module's outputs."""

    def __post_init__(self) -> None:
        for name, x, y in (("training", self.train_x, self.train_y), ("validation", self.val_x, self.val_y)):
            if len(x) != len(y):
                raise InputError(f"expected a label for each {name} input, got {len(x)} inputs and {len(y)} labels")
            if len(x) < 2:
                raise InputError(f"expected at least 2 {name} inputs, got {len(x)}")

    def targets(self, rule: str) -> Tensor:
        """``(n,)`` class numbers to train on.

        Args:
            rule: ``keep`` cuts fractions off, as ``labels.long()`` does; ``ranked`` counts distinct values upwards.

        Raises:
            InputError: if a class number has no output, so that no loss can be computed.
        """
        ranked = rule == "ranked"
        classes = np.unique(self.train_y, return_inverse=True)[1] if ranked else self.train_y.astype(np.int64)
        if classes.min() < 0 or classes.max() >= self.classes:
            raise InputError(
                f"expected class numbers 0..{self.classes - 1}, got {classes.min()}..{classes.max()}: the model has "
                f"{self.classes} outputs"
            )
        return torch.from_numpy(classes.astype(np.int64).reshape(-1))


def split_for_trials(y: Numbers, share: float, seed: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Indices to train on and to choose by, class by class in the same proportion where a class has enough.

    Args:
        y: ``(n,)`` class numbers.
        share: of each class that chooses, in 0..1.
        seed: of the draw.

    Returns:
        Two ascending arrays that share no index and together hold all. Every class keeps at least one to train on.

    Raises:
        InputError: if nothing is left to choose by.
    """
    generator = np.random.default_rng(derive_seed(seed, "trial split"))
    choosing: list[npt.NDArray[np.int64]] = []
    for value in np.unique(y):
        own = generator.permutation(np.flatnonzero(y == value))
        choosing.append(own[: min(round(share * len(own)), len(own) - 1)].astype(np.int64))
    chosen = np.sort(np.concatenate(choosing))
    if len(chosen) < 2:
        raise InputError(f"need more than {len(y)} labelled inputs: none could be set aside to choose among trials")
    return np.setdiff1d(np.arange(len(y), dtype=np.int64), chosen), chosen
