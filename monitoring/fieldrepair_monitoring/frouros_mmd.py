"""frouros' MMD, with the batched permutation test of :mod:`fieldrepair_monitoring.permutations`.

frouros (BSD-3-Clause) gives the statistic and the kernel. Its own permutation test is not used: it computes all kernel
matrices anew for every permutation, starts a pool of processes for every window, and reseeds NumPy's global generator.
"""

from __future__ import annotations

import logging
from functools import partial

import numpy as np
import numpy.typing as npt
import torch

from fieldrepair_monitoring.permutations import Permutations, mmd2

# frouros calls logging.basicConfig when it is imported, which does nothing where the root logger has a handler. How a
# process logs is not for an import to decide.
_placeholder = logging.NullHandler()
logging.getLogger().addHandler(_placeholder)
try:
    from frouros.detectors.data_drift import MMD
    from frouros.utils.kernels import rbf_kernel
finally:
    logging.getLogger().removeHandler(_placeholder)


class FrourosMMD:
    """frouros' ``MMD`` with its Gaussian kernel, a given bandwidth and a batched permutation test.

    Args:
        reference: ``(n, d)`` float32 embeddings.
        bandwidth: sigma of the kernel; larger than 0.
        p_value: of the test.
        permutations: random assignments of inputs to reference and window.
        seed: of the permutations.
        device: where to compute the permutations. The kernel is computed by SciPy, on the CPU.
    """

    def __init__(
        self,
        reference: npt.NDArray[np.float32],
        *,
        bandwidth: float,
        p_value: float,
        permutations: int,
        seed: int,
        device: str,
    ) -> None:
        self._reference = reference
        self._p_value = p_value
        self._device = device
        self._permutations = Permutations(permutations, seed)
        self._kernel = partial(rbf_kernel, sigma=bandwidth)
        self._mmd = MMD(kernel=self._kernel)
        self._mmd.fit(reference)
        self._among_reference = self._kernel(reference, reference)  # the largest block of every window's matrix

    def score(self, x: npt.NDArray[np.float32]) -> tuple[float, float, float]:
        """P-value, MMD^2 and its threshold for ``(m, d)`` window embeddings."""
        statistic = float(self._mmd.compare(x)[0].distance)
        between = self._kernel(self._reference, x)
        matrix = torch.from_numpy(np.block([[self._among_reference, between], [between.T, self._kernel(x, x)]]))
        n, m = len(self._reference), len(x)
        with torch.inference_mode():
            matrix = matrix.to(self._device).fill_diagonal_(0.0)
            shuffled = mmd2(matrix, self._permutations.assignments(n, m).to(matrix), m)
        p_value, threshold = self._permutations.judge(statistic, shuffled, self._p_value)
        return p_value, statistic, threshold
