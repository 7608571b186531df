"""Maximum mean discrepancy of many windows at once, from one kernel matrix.

The libraries' own tests go through windows or permutations one by one: alibi-detect shuffles the whole kernel matrix
for each, frouros computes it anew. For 1,000 permutations of 1,100 inputs that takes 10 to 50 seconds; the same sums
as one matrix product take a tenth of a second.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import cast

import numpy as np
import numpy.typing as npt
import torch

from fieldrepair_monitoring.detectors.calibration import Statistics, Windows, members
from fieldrepair_monitoring.errors import DetectorError

Kernel = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""``(n, d)`` and ``(m, d)`` to ``(n, m)``; 1 on equal inputs, between 0 and 1 elsewhere."""

# Above this, the pool's kernel matrix is not worth its memory, and windows are computed one by one.
LARGEST_POOL = 4096


class KernelDistance:
    """Unbiased MMD^2 between a fixed reference and windows.

    Args:
        reference: ``(n, d)``, on the device where to compute.
        kernel: of two sets of inputs.
    """

    def __init__(self, reference: torch.Tensor, kernel: Kernel) -> None:
        self.reference = reference
        self.kernel = kernel
        with torch.inference_mode():
            self._matrix = kernel(reference, reference).fill_diagonal_(0.0)
        n = len(reference)
        self.within = float(self._matrix.sum(dtype=torch.float64)) / (n * (n - 1))

    def leave_out(self, windows: Windows) -> Statistics:
        """MMD^2 of each of these ``(b, m)`` windows of the reference and the inputs that are not in it."""
        with torch.inference_mode():
            inside = torch.from_numpy(members(windows, len(self.reference))).to(self._matrix)
            return to_numpy(mmd2(self._matrix, inside, windows.shape[1]))

    def to(self, window: torch.Tensor) -> float:
        """MMD^2 of the reference and a ``(m, d)`` window."""
        m = len(window)
        with torch.inference_mode():
            own = float(self.kernel(window, window).fill_diagonal_(0.0).sum(dtype=torch.float64)) / (m * (m - 1))
            return self.within + own - 2.0 * float(self.kernel(self.reference, window).mean(dtype=torch.float64))

    def to_many(self, pool: torch.Tensor, windows: Windows) -> Statistics:
        """MMD^2 of the reference and each of these ``(b, m)`` windows of a ``(p, d)`` pool.

        An input that is in a window twice counts twice: its similarity to its copy is 1.
        """
        if len(pool) > LARGEST_POOL:
            return np.array([self.to(pool[torch.from_numpy(window)]) for window in windows])
        m = windows.shape[1]
        with torch.inference_mode():
            among = self.kernel(pool, pool).fill_diagonal_(1.0)
            towards = self.kernel(self.reference, pool).mean(0, dtype=torch.float64)
            found: list[torch.Tensor] = []
            for start in range(0, len(windows), 2048):
                counts = torch.from_numpy(members(windows[start : start + 2048], len(pool))).to(among)
                own = (counts * (among @ counts)).sum(0, dtype=torch.float64) - m  # each input with itself
                found.append(self.within + own / (m * (m - 1)) - 2.0 * (counts.double().T @ towards) / m)
            return to_numpy(torch.cat(found))


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


def to_numpy(values: torch.Tensor) -> Statistics:
    """The numbers of a tensor on any device, as float64."""
    return cast(Statistics, values.detach().to("cpu", torch.float64).numpy())


def gaussian(bandwidth: float) -> Kernel:
    """The Gaussian kernel ``exp(-distance^2 / (2 bandwidth^2))``."""

    def kernel(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        squared = (x * x).sum(1)[:, None] + (y * y).sum(1)[None] - 2.0 * (x @ y.T)
        return torch.exp(squared.clamp_(min=0.0) / (-2.0 * bandwidth**2))

    return kernel


def median_bandwidth(reference: npt.NDArray[np.float32]) -> float:
    """Sigma of the Gaussian kernel that is 1/e at the median distance between two of the ``(n, d)`` embeddings."""
    return float(torch.pdist(torch.from_numpy(reference)).median()) / math.sqrt(2.0)


def centred(rows: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float64], float]:
    """Reference embeddings around zero, where float32 resolves distances best; their centre, and a bandwidth.

    Raises:
        DetectorError: more than half of the embeddings are the same.
    """
    centre = rows.mean(axis=0, dtype=np.float64)
    moved = (rows - centre).astype(np.float32)
    bandwidth = median_bandwidth(moved)
    spread = float(np.linalg.norm(moved, axis=1).mean())
    if spread <= 1e-6 * float(np.abs(centre).max()) or bandwidth <= 1e-3 * spread:
        raise DetectorError(
            f"more than half of the {len(rows)} reference embeddings are the same, so distances between them "
            "say nothing; hand the model over with another embedding_layer"
        )
    return moved, centre, bandwidth
