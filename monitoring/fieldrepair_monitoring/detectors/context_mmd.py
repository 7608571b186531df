"""Context-aware MMD (Cobb and Van Looveren, 2022): a change in the inputs, not in how often which class is asked.

The context of an input is its predicted class probabilities. The statistic is alibi-detect's MMD-ADiTT: at contexts
held out from the window, the mean embeddings of reference and window **given that context**, each by a kernel ridge
regression, and their squared distance. A window with other shares of the same classes has the same conditional means.

alibi-detect redraws who belongs to the window for every permutation of every window and inverts two matrices each time.
Here half of the reference is set aside to draw calibration windows from, half of them with class shares of all kinds:
what such harmless windows show by chance is what a field window is compared with.
"""

from __future__ import annotations

from typing import cast

import numpy as np
import torch

from fieldrepair_monitoring.detectors.alibi import ContextMMDDriftTorch, GaussianRBF
from fieldrepair_monitoring.detectors.calibrated import CalibratedDetector
from fieldrepair_monitoring.detectors.calibration import Statistics, Windows
from fieldrepair_monitoring.detectors.kernel_distance import centred, gaussian, median_bandwidth
from fieldrepair_monitoring.features import Features

HELD_OUT = 4
"""Every fourth input of a window gives a context to condition on, and is not compared (alibi-detect: a quarter)."""
LARGEST_REFERENCE = 500
FOLDS = 5


class ContextMmdDetector(CalibratedDetector):
    """MMD-ADiTT with predicted class probabilities as context."""

    name = "context_mmd"
    reads = ("embeddings", "scores")
    power = 1.0

    def _learn(self, reference: Features) -> Features:
        order = np.random.default_rng(self.options.seed).permutation(len(reference))
        half = min(len(reference) // 2, LARGEST_REFERENCE)
        compared = reference.take(order[:half])
        self._aside = reference.take(order[half:])
        moved, self._centre, bandwidth = centred(compared.embeddings)
        self._inputs = gaussian(bandwidth)
        self._contexts = gaussian(max(median_bandwidth(compared.scores), 0.05))
        self._moved, self._shares = moved, compared.scores
        self._x, self._c = torch.from_numpy(moved), torch.from_numpy(compared.scores)
        self._among = self._inputs(self._x, self._x)
        own, contexts = self._among, self._contexts(self._c, self._c)
        self._weight_reference, self._weight_window = self._regularisation(own, contexts)
        self._solved = ridge_inverse(contexts, self._weight_reference)
        return self._aside

    def _regularisation(self, own: torch.Tensor, contexts: torch.Tensor) -> tuple[float, float]:
        """alibi-detect's cross-validated choice; for windows, on as many reference inputs as a window has."""
        picker = ContextMMDDriftTorch(
            self._moved,
            self._shares,
            x_kernel=GaussianRBF(),
            c_kernel=GaussianRBF(),
            x_ref_preprocessed=True,
            n_permutations=1,
            device="cpu",
        )
        choices = torch.tensor([2.0**-i for i in range(20)])
        size = min(len(own), max(2 * FOLDS, self.options.window_size * (HELD_OUT - 1) // HELD_OUT))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.options.seed)
            reference = float(picker._pick_lam(choices, own, contexts, n_folds=FOLDS))
            window = float(picker._pick_lam(choices, own[:size, :size], contexts[:size, :size], n_folds=FOLDS))
        return reference, window

    def _leave_out(self, reference: Features, windows: Windows) -> Statistics:
        generator = np.random.default_rng(self.options.seed + 1)
        size = windows.shape[1]
        mixed = windows.copy()
        for at in range(0, len(windows), 2):
            mixed[at] = self._other_shares(size, generator)
        return np.array([self._statistic(reference.take(window)) for window in mixed])

    def _other_shares(self, size: int, generator: np.random.Generator) -> Windows:
        """A window of the inputs set aside in which each predicted class has a share drawn at random."""
        predicted = self._aside.scores.argmax(axis=1)
        share = generator.dirichlet(np.ones(self._aside.scores.shape[1]))[predicted] + 1e-6
        return generator.choice(len(predicted), size, replace=False, p=share / share.sum())

    def _statistic(self, window: Features) -> float:
        held = np.arange(len(window)) % HELD_OUT == HELD_OUT - 1
        x = torch.from_numpy((window.embeddings[~held] - self._centre).astype(np.float32))
        c, conditions = torch.from_numpy(window.scores[~held]), torch.from_numpy(window.scores[held])
        with torch.inference_mode():
            solved = ridge_inverse(self._contexts(c, c), self._weight_window)
            a = self._contexts(conditions, self._c) @ self._solved
            b = self._contexts(conditions, c) @ solved
            return adit(self._among, self._inputs(x, x), self._inputs(self._x, x), a, b)

    def _compared_with(self, reference: int, left_out: int) -> int:
        return len(self._x)  # windows are drawn from the other half, so none of these is left out

    def _effective(self, size: int) -> int:
        return size - size // HELD_OUT


def adit(
    reference: torch.Tensor, window: torch.Tensor, between: torch.Tensor, a: torch.Tensor, b: torch.Tensor
) -> float:
    """Mean squared distance of conditional mean embeddings.

    Args:
        reference: ``(n, n)`` kernel matrix.
        window: ``(m, m)``.
        between: ``(n, m)``.
        a: ``(h, n)`` weights of the reference inputs at each held-out context.
        b: ``(h, m)`` weights of the window's.
    """
    own = ((a @ reference) * a).sum(1) + ((b @ window) * b).sum(1)
    return float((own - 2.0 * ((a @ between) * b).sum(1)).mean())


def ridge_inverse(contexts: torch.Tensor, weight: float) -> torch.Tensor:
    """``(L + n weight I)^-1`` of an ``(n, n)`` kernel matrix ``L``."""
    n = len(contexts)
    return cast(torch.Tensor, torch.linalg.inv(contexts + n * weight * torch.eye(n)))
