"""alibi-detect's MMD, with the batched permutation test of :mod:`fieldrepair_monitoring.permutations`."""

from __future__ import annotations

import warnings

import numpy as np
import numpy.typing as npt
import torch

from fieldrepair_monitoring.permutations import Permutations, mmd2

with warnings.catch_warnings():
    # alibi-detect compiles two helpers with torch.jit.script when it is imported, which torch deprecates.
    warnings.filterwarnings("ignore", message="`torch.jit.script` is", category=FutureWarning)
    from alibi_detect.cd.pytorch.mmd import MMDDriftTorch


class PermutationMMD(MMDDriftTorch):
    """``MMDDriftTorch`` with a batched permutation test; the kernel and its bandwidth are alibi-detect's.

    Args:
        reference: ``(n, d)`` float32 embeddings.
        p_value: of the test.
        permutations: random assignments of inputs to reference and window.
        seed: of the permutations.
        device: where to compute.
    """

    def __init__(
        self, reference: npt.NDArray[np.float32], *, p_value: float, permutations: int, seed: int, device: str
    ) -> None:
        super().__init__(reference, p_val=p_value, x_ref_preprocessed=True, n_permutations=permutations, device=device)
        self._permutations = Permutations(permutations, seed)

    def score(self, x: npt.NDArray[np.float32]) -> tuple[float, float, float]:
        """P-value, MMD^2 and its threshold for ``(m, d)`` window embeddings."""
        with torch.inference_mode():
            reference, window = self.preprocess(x)
            rows, columns = torch.from_numpy(reference).to(self.device), torch.from_numpy(window).to(self.device)
            matrix = self.kernel_matrix(rows, columns)
            matrix.fill_diagonal_(0.0)
            n, m = len(reference), len(window)
            observed = torch.zeros(n + m, 1, dtype=matrix.dtype, device=self.device)
            observed[n:] = 1.0
            statistic = float(mmd2(matrix, observed, m)[0])
            shuffled = mmd2(matrix, self._permutations.assignments(n, m).to(matrix), m)
        p_value, threshold = self._permutations.judge(statistic, shuffled, self.p_val)
        return p_value, statistic, threshold
