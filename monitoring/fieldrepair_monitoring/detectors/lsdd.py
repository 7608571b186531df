"""Least-squares density difference of embeddings (Bu et al., 2016), as alibi-detect's ``LSDDDrift`` estimates it."""

from __future__ import annotations

import numpy as np
import torch

from fieldrepair_monitoring.detectors.alibi import LSDDDriftTorch, permed_lsdds
from fieldrepair_monitoring.detectors.calibrated import CalibratedDetector
from fieldrepair_monitoring.detectors.calibration import Statistics, Windows, members
from fieldrepair_monitoring.detectors.kernel_distance import centred, to_numpy
from fieldrepair_monitoring.features import Features, FloatArray

# Random splits by which alibi-detect chooses its regularisation.
_SPLITS = 100


class LsddDetector(CalibratedDetector):
    """The squared difference of two densities, both modelled by Gaussians around a few reference inputs.

    A sample enters only by its mean similarity to these centres, so the statistic is ``h' A h`` with ``h`` the
    difference of two means and a matrix ``A`` that alibi-detect fixes once, from the reference (its ``H_lam_inv``).
    """

    name = "lsdd"
    reads = ("embeddings",)
    power = 1.0

    def _learn(self, reference: Features) -> Features:
        moved, self._centre, _ = centred(reference.embeddings)
        # alibi-detect divides by each column's deviation: one that never moves must be exactly zero for that.
        self._moves = np.ptp(moved, axis=0) > 0
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.options.seed)
            test = LSDDDriftTorch(
                self.moved(reference.embeddings),
                x_ref_preprocessed=True,
                n_kernel_centers=max(10, len(reference) // 20),
                n_permutations=1,
                device=self.options.device,
            )
            n = len(test.k_xc)
            orders = [torch.randperm(n) for _ in range(_SPLITS)]
            _, matrix = permed_lsdds(test.k_xc, [o[: n // 2] for o in orders], [o[n // 2 :] for o in orders], test.H)
        self.library, self.matrix = test, matrix.double()
        self._similar = test.k_xc.double()
        # Which inputs became centres does not matter: windows are drawn from the n others.
        return reference.take(slice(0, n))

    def moved(self, embeddings: FloatArray) -> FloatArray:
        """Embeddings as alibi-detect gets them: around zero, and where the reference never moves, 0 or a step away."""
        moved = (embeddings - self._centre).astype(np.float32)
        # Where the reference never moves, a field input is either the same (0) or infinitely far; a large number will
        # do.
        return np.where(self._moves, moved, np.sign(np.where(np.abs(moved) > 1e-4, moved, 0.0))).astype(np.float32)

    def _leave_out(self, reference: Features, windows: Windows) -> Statistics:
        n, m = len(self._similar), windows.shape[1]
        counts = torch.from_numpy(members(windows, n)).to(self._similar)
        inside = counts.T @ self._similar
        outside = self._similar.sum(0) - inside
        return self._quadratic(outside / (n - m) - inside / m)

    def _statistics(self, pool: Features, windows: Windows) -> Statistics:
        towards = self._towards_centres(pool)
        counts = torch.from_numpy(members(windows, len(pool))).to(towards)
        return self._quadratic(self._similar.mean(0) - counts.T @ towards / windows.shape[1])

    def _statistic(self, window: Features) -> float:
        return float(self._quadratic(self._similar.mean(0) - self._towards_centres(window).mean(0)[None])[0])

    def _towards_centres(self, features: Features) -> torch.Tensor:
        rows = torch.from_numpy(self.moved(features.embeddings)).to(self.options.device)
        with torch.inference_mode():
            scaled = self.library._normalize(rows)  # pyright: ignore[reportPrivateUsage] - there is no other way to it
            return self.library.kernel(scaled, self.library.kernel_centers).double()

    def _quadratic(self, differences: torch.Tensor) -> Statistics:
        return to_numpy(((differences @ self.matrix) * differences).sum(1))
