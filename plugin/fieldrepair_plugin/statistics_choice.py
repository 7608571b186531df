"""Whose batch-norm statistics? The labels say which the unrepaired model reads the field better with.

Statistics of the field alone are right where it looks different (less light, another pen), and wrong where it is the
old world in another order or with other classes: there they only take away what the network relied on. No setting can
know which it is, but a model that was not trained on the labels yet can be tried on them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from fieldrepair_plugin.batch_norm import measure_statistics
from fieldrepair_plugin.repairable import RepairableModel, weights_of

_BATCHES = 8
"""Of 256 inputs, that statistics are measured on to be tried."""


@dataclass(frozen=True)
class StatisticsChoice:
    """How the unrepaired model answers the labelled field inputs under several statistics."""

    right: Mapping[float, Tensor]
    """Share of reference inputs in the statistics -> ``(n,)`` whether each labelled input is answered right."""

    @classmethod
    def of(
        cls,
        model: RepairableModel,
        field: Tensor,
        training: Tensor,
        labelled: tuple[Tensor, Tensor],
        shares: Iterable[float],
        seed: torch.Generator,
    ) -> StatisticsChoice:
        """Try statistics out.

        Args:
            model: a working copy with the old weights; it is afterwards as it was.
            field: ``(n, *form.shape)``, the pool.
            training: ``(r, *form.shape)``.
            labelled: inputs ``(m, *form.shape)`` of the field that people labelled, and their classes ``(m,)``.
            shares: shares of reference inputs to try, each 0..1.
            seed: which inputs are measured on.
        """
        before = weights_of(model.module)
        inputs, classes = labelled
        right: dict[float, Tensor] = {}
        for share in sorted(set(shares)):
            measure_statistics(model, field, training, share, 256, seed, _BATCHES)
            right[share] = answered_right(model, inputs, classes)
        model.module.load_state_dict(before)
        return cls(right)

    @property
    def shares(self) -> dict[float, float]:
        """Accuracy on the labels under each."""
        return {share: round(float(right.float().mean()), 3) for share, right in self.right.items()}

    def best(self, prior: float, evidence: float) -> float:
        """The share that answers most labels right; ``prior``, if none beats that by enough: labels are few.

        Args:
            prior: a share that was tried.
            evidence: how many standard errors are enough.
        """
        others = {share: self._standard_errors(prior, share) for share in self.right if share != prior}
        share = max(others, key=lambda each: others[each], default=prior)
        return share if others and others[share] >= evidence else prior

    def objects(self, start: float, share: float, evidence: float) -> bool:
        """Whether the labels say, by so many standard errors, that ``share`` is worse than ``start``.

        For a share that was not tried, the nearest one stands that was.
        """
        tried = min(self.right, key=lambda each: abs(each - share))
        return self._standard_errors(tried, start) >= evidence

    def _standard_errors(self, start: float, share: float) -> float:
        """How much better ``share`` is, in standard errors if there were no difference (as in McNemar's test)."""
        one, other = self.right[start], self.right[share]
        won, lost = int((other & ~one).sum()), int((one & ~other).sum())
        return (won - lost) / math.sqrt(won + lost) if won + lost else 0.0


def answered_right(model: RepairableModel, inputs: Tensor, classes: Tensor, batch_size: int = 512) -> Tensor:
    """``(n,)`` whether the model, in eval mode, gives each input its class."""
    logits, _ = model.logits_and_embeddings(inputs, batch_size)
    return torch.from_numpy(logits).argmax(dim=1) == classes
