"""MMD under a kernel that was trained to tell shifts from no shift (Liu et al., 2020), with alibi-detect's trainer.

alibi-detect's ``LearnedKernelDrift`` trains a kernel anew for every window, on part of the window. That takes seconds
per window, and the part it learns from is lost for the test. Here the kernel is trained once, when the detector is
fitted, by the same objective (an estimate of the test's power), against **made** shifts of half of the reference; the
other half stands for the reference from then on, and windows are judged like those of any other MMD.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from fieldrepair_monitoring.detectors.alibi import DeepKernel, GaussianRBF, LearnedKernelDriftTorch
from fieldrepair_monitoring.detectors.kernel_distance import Kernel
from fieldrepair_monitoring.detectors.mmd_base import KernelDetector
from fieldrepair_monitoring.features import FloatArray

EPOCHS = 20
BATCH = 64
PROJECTED = 32


class LearnedKernelDetector(KernelDetector):
    """MMD under alibi-detect's ``DeepKernel``, trained once against made shifts."""

    name = "learned_kernel"
    # Half of the reference is left to compare with, and the kernel looks closely at few directions: an unlucky half
    # alarmed on 0.6 % of unchanged windows (1,000 validation inputs, 0.5 % chosen) when its error counted twice.
    caution = 3.0

    def _kernel(self, moved: FloatArray, bandwidth: float) -> tuple[npt.NDArray[np.int64], Kernel]:
        generator = np.random.default_rng(self.options.seed)
        order = generator.permutation(len(moved))
        training, kept = order[: len(order) // 2], np.sort(order[len(order) // 2 :])
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.options.seed)
            learned = DeepKernel(_projection(moved.shape[1]), GaussianRBF(trainable=True), _fixed(bandwidth), eps=0.5)
            learned = learned.to(self.options.device)
            unchanged, changed = _batches(moved[training], generator)
            LearnedKernelDriftTorch.trainer(
                LearnedKernelDriftTorch.JHat(learned, var_reg=1e-5).to(self.options.device),
                (unchanged, changed),
                torch.device(self.options.device),
                epochs=EPOCHS,
                verbose=0,
            )
        learned.eval().requires_grad_(False)

        def kernel(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return learned(x, y)

        return kept.astype(np.int64), kernel


def _projection(columns: int) -> nn.Module:
    return nn.Sequential(nn.Linear(columns, 2 * PROJECTED), nn.Softplus(), nn.Linear(2 * PROJECTED, PROJECTED))


def _fixed(bandwidth: float) -> GaussianRBF:
    return GaussianRBF(torch.tensor([bandwidth]))


def _batches(moved: FloatArray, generator: np.random.Generator) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Batches of unchanged embeddings, and as many of shifted ones."""
    half = len(moved) // 2
    order = generator.permutation(len(moved))
    size = max(2, min(BATCH, half))
    unchanged = np.array_split(moved[order[:half]], max(1, half // size))
    changed = np.array_split(_shifted(moved[order[half : 2 * half]], generator), max(1, half // size))
    return [torch.from_numpy(part) for part in unchanged], [torch.from_numpy(part) for part in changed]


def _shifted(rows: FloatArray, generator: np.random.Generator) -> FloatArray:
    """Each embedding with one of four changes that shifts of the inputs bring about."""
    spread = rows.std(axis=0)
    changes = np.stack(
        [
            0.7 * rows,  # weaker responses, as to low contrast
            rows + 0.5 * spread * generator.standard_normal(rows.shape),  # noise
            0.65 * rows + 0.35 * rows[generator.permutation(len(rows))],  # between two inputs, as the model gets unsure
            np.where(generator.random(rows.shape) < 0.3, 0.0, rows),  # features that are no longer there
        ]
    )
    which = generator.integers(len(changes), size=len(rows))
    return changes[which, np.arange(len(rows))].astype(np.float32)
