"""The permutation test behind both MMD detectors, with all permutations in one matrix product.

The libraries' own tests go through the permutations one by one: alibi-detect shuffles the whole kernel matrix for each,
frouros computes it anew for each. For 1,000 permutations of 1,100 inputs that takes 10 to 50 seconds; the
same sums as one matrix product take a tenth of a second.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import torch


class Permutations:
    """Random assignments of pooled inputs to reference and window, and what follows from them.

    Args:
        count: assignments.
        seed: of the assignments; two sizes always get the same ones, whatever was asked before.
    """

    def __init__(self, count: int, seed: int) -> None:
        self._count = count
        self._seed = seed
        self._assignments: dict[tuple[int, int], torch.Tensor] = {}

    def assignments(self, n: int, m: int) -> torch.Tensor:
        """``(n + m, count)`` float32: column p is 1 where permutation p puts an input into the window of ``m``."""
        if (n, m) not in self._assignments:
            generator = torch.Generator().manual_seed(self._seed)
            keys = torch.rand(self._count, n + m, generator=generator)
            chosen = torch.zeros(self._count, n + m).scatter_(1, keys.topk(m, dim=1).indices, 1.0)
            self._assignments = {(n, m): chosen.T.contiguous()}  # windows of one size: one entry is enough
        return self._assignments[n, m]

    def judge(self, statistic: float, shuffled: torch.Tensor, p_value: float) -> tuple[float, float]:
        """P-value of an observed statistic, and the threshold above which it is smaller than ``p_value``.

        Args:
            statistic: of the observed assignment.
            shuffled: ``(count,)``, of the random ones.
            p_value: of the test; larger than ``1 / (1 + count)``.
        """
        # The observed assignment is one of the possible ones: counting it makes the test exact.
        exceeding = int((shuffled >= statistic).sum())
        # The largest count that still gives a smaller p-value; the statistic must beat that many and no more.
        allowed = math.ceil(p_value * (1 + self._count) - 1) - 1
        threshold = float(shuffled.sort(descending=True).values[allowed])
        return (1 + exceeding) / (1 + self._count), threshold


def mmd2(kernel: torch.Tensor, assignments: torch.Tensor, m: int) -> torch.Tensor:
    """Unbiased MMD^2 of many assignments of inputs to two samples.

    With ``z`` an assignment's indicator of the second sample and ``K`` the kernel matrix, the sum within that sample
    is ``z' K z``; the other two sums follow from the row sums of ``K``.

    Args:
        kernel: ``(N, N)`` symmetric kernel matrix with a zero diagonal.
        assignments: ``(N, P)`` of 0 and 1, each column with ``m`` ones.
        m: size of the second sample.

    Returns:
        ``(P,)`` float64.
    """
    n = len(kernel) - m
    within = (assignments * (kernel @ assignments)).sum(0, dtype=torch.float64)
    rows = kernel.sum(1, dtype=torch.float64)
    touching = assignments.to(torch.float64).T @ rows
    between = touching - within
    rest = rows.sum() - within - 2.0 * between
    return rest / (n * (n - 1)) + within / (m * (m - 1)) - 2.0 * between / (n * m)


def median_bandwidth(reference: npt.NDArray[np.float32]) -> float:
    """Sigma of the Gaussian kernel that is 1/e at the median distance between two of the ``(n, d)`` embeddings."""
    return float(torch.pdist(torch.from_numpy(reference)).median()) / math.sqrt(2.0)
