"""Maximum mean discrepancy of embeddings (Gretton et al., 2012), under a kernel still to be chosen.

The statistic is the unbiased estimate of MMD^2. Kernels are Gaussian, with a bandwidth that follows from the median
distance in the reference, or learned.
"""

from __future__ import annotations

from abc import abstractmethod

import numpy as np
import numpy.typing as npt
import torch

from fieldrepair_monitoring.detectors.calibrated import CalibratedDetector
from fieldrepair_monitoring.detectors.calibration import Statistics, Windows
from fieldrepair_monitoring.detectors.kernel_distance import Kernel, KernelDistance, centred
from fieldrepair_monitoring.features import Features, FloatArray


class KernelDetector(CalibratedDetector):
    """MMD of embeddings under some kernel; which one is for the subclass to say."""

    reads = ("embeddings",)
    power = 1.0

    def _learn(self, reference: Features) -> Features:
        moved, self.centre, bandwidth = centred(reference.embeddings)
        kept, kernel = self._kernel(moved, bandwidth)
        self.distance = KernelDistance(self._tensor(moved[kept]), kernel)
        return reference.take(kept)

    @abstractmethod
    def _kernel(self, moved: FloatArray, bandwidth: float) -> tuple[npt.NDArray[np.int64], Kernel]:
        """The kernel, and which of the ``(n, d)`` embeddings around zero stand for the reference under it."""

    def _leave_out(self, reference: Features, windows: Windows) -> Statistics:
        return self.distance.leave_out(windows)

    def _statistic(self, window: Features) -> float:
        return self.distance.to(self._moved(window.embeddings))

    def _statistics(self, pool: Features, windows: Windows) -> Statistics:
        return self.distance.to_many(self._moved(pool.embeddings), windows)

    def _moved(self, embeddings: FloatArray) -> torch.Tensor:
        return self._tensor((embeddings - self.centre).astype(np.float32))

    def _tensor(self, rows: FloatArray) -> torch.Tensor:
        return torch.from_numpy(rows).to(self.options.device)
