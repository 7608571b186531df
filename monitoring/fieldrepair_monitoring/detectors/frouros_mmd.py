"""Maximum mean discrepancy by frouros: the permissively licensed one. Never imports alibi-detect.

frouros gives the statistic and the kernel. Its own permutation test is not used: it computes all kernel matrices anew
for every permutation, starts a pool of processes for every window, and reseeds NumPy's global generator.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import numpy.typing as npt

from fieldrepair_monitoring.detectors.frouros_library import MMD, rbf_kernel
from fieldrepair_monitoring.detectors.kernel_distance import Kernel, gaussian
from fieldrepair_monitoring.detectors.mmd_base import KernelDetector
from fieldrepair_monitoring.features import Features, FloatArray


class FrourosMmdDetector(KernelDetector):
    """MMD by frouros' ``MMD`` on NumPy and SciPy; calibration windows by the same sums in PyTorch."""

    name = "frouros_mmd"

    def _kernel(self, moved: FloatArray, bandwidth: float) -> tuple[npt.NDArray[np.int64], Kernel]:
        self._mmd = MMD(kernel=partial(rbf_kernel, sigma=bandwidth))
        self._mmd.fit(moved)
        return np.arange(len(moved)), gaussian(bandwidth)

    def _statistic(self, window: Features) -> float:
        return float(self._mmd.compare((window.embeddings - self.centre).astype(np.float32))[0].distance)
