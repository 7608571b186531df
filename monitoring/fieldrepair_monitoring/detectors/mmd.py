"""Maximum mean discrepancy of embeddings, with alibi-detect's kernel and bandwidth."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from fieldrepair_monitoring.detectors.alibi import MMDDriftTorch
from fieldrepair_monitoring.detectors.kernel_distance import Kernel
from fieldrepair_monitoring.detectors.mmd_base import KernelDetector
from fieldrepair_monitoring.features import FloatArray


class MmdDetector(KernelDetector):
    """MMD by alibi-detect's ``MMDDrift`` on PyTorch: its bandwidth and its kernel."""

    name = "mmd"

    def _kernel(self, moved: FloatArray, bandwidth: float) -> tuple[npt.NDArray[np.int64], Kernel]:
        detector = MMDDriftTorch(moved, x_ref_preprocessed=True, n_permutations=1, device=self.options.device)

        def kernel(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return detector.kernel(x, y)

        return np.arange(len(moved)), kernel
